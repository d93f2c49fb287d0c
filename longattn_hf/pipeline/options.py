"""The options that a dataclass of settings makes of a program, and the help that its docstring makes of them."""

import argparse
import inspect
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

# where the meanings of options begin, and the most that a line of help is long
_MEANINGS_AT, _MOST_COLUMNS = 26, 100


def make_parser(
    kind: type,
    *,
    positional: Sequence[str] = (),
    short: Mapping[str, str] | None = None,
    description: str | None = None,
    parents: Sequence[argparse.ArgumentParser] = (),
) -> argparse.ArgumentParser:
    """Makes the parser of a program's settings, whose values are the words that were given.

    Options are in the groups that the class names as `GROUPS`: titles, by the first setting of each.

    Args:
        kind: A dataclass; its docstring's `Attributes` are the meanings.
        positional: Settings that stand without their names, in this order.
        short: Settings that have a letter too, such as `-o`.
        description: What stands above the options, with its indented lines as examples below them; the docstring's
            text if None.
        parents: Further options, as argparse takes them.
    """
    width = min(shutil.get_terminal_size().columns, _MOST_COLUMNS) - 2
    text, meanings = _read_docstring(kind)
    text, examples = _split_examples(description or text, width)
    named = "".join(f" {name.upper()}{'...' if _is_list(kind, name) else ''}" for name in positional)
    parser = argparse.ArgumentParser(
        usage=f"%(prog)s{named} [--SETTING VALUE ...]",
        description=text,
        epilog=examples,
        allow_abbrev=False,
        parents=parents,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=width, max_help_position=_MEANINGS_AT),
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="A YAML file of settings, by these names.")
    titles: Mapping[str, str] = getattr(kind, "GROUPS", {})
    group = parser.add_argument_group("settings")
    for name, field in fields_of(kind).items():
        if name in titles:
            group = parser.add_argument_group(titles[name])
        _add_option(group, field, meanings.get(name, ""), is_positional=name in positional, short=(short or {}))
    return parser


def _add_option(group: Any, field: Field[Any], meaning: str, *, is_positional: bool, short: Mapping[str, str]) -> None:
    options: dict[str, Any] = {"default": MISSING, "metavar": "|".join(_placeholders(field.type))}
    options["help"] = f"{meaning} {_say_default(field)}".strip().replace("%", "%%")
    if kinds_of(field.type) & {list, tuple}:
        options["nargs"] = "*"
    elif bool in kinds_of(field.type):
        options |= {"nargs": "?", "const": "true"}
    if is_positional:
        group.add_argument(field.name, **options | {"metavar": field.name.upper()})
        return
    letters = [f"-{short[field.name]}"] if field.name in short else []
    group.add_argument(*letters, f"--{field.name}", dest=field.name, **options)
    if "_" in field.name:
        hidden = options | {"help": argparse.SUPPRESS}
        group.add_argument(f"--{field.name.replace('_', '-')}", dest=field.name, **hidden)


def fields_of(kind: type) -> dict[str, Field[Any]]:
    """Returns a dataclass's fields by name."""
    return {field.name: field for field in fields(kind)}


def _is_list(kind: type, name: str) -> bool:
    return bool(kinds_of(fields_of(kind)[name].type) & {list, tuple})


def hints_of(hint: Any) -> list[Any]:
    """Returns what a type hint accepts, one by one."""
    if typing.get_origin(hint) is Annotated:
        return hints_of(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return [one for part in typing.get_args(hint) for one in hints_of(part)]
    return [hint]


def kinds_of(hint: Any) -> set[type]:
    """Returns the classes that a type hint accepts, without what they hold."""
    hints = hints_of(hint)
    named = {
        type(value) for one in hints if typing.get_origin(one) is typing.Literal for value in typing.get_args(one)
    }
    return named | {typing.get_origin(one) or one for one in hints} - {typing.Literal}


def names_of(hint: Any) -> list[str]:
    """Names, for messages, what a type hint accepts."""
    names = []
    for one in hints_of(hint):
        held = [" or ".join(names_of(inner)) for inner in typing.get_args(one) if inner is not Ellipsis]
        if typing.get_origin(one) is typing.Literal:
            names += [repr(value) for value in typing.get_args(one)]
        elif tuple in kinds_of(one) or list in kinds_of(one):
            names.append(f"a list of {held[0]}" if held else "a list")
        elif dict in kinds_of(one):
            names.append(f"a mapping to {held[1]}" if held else "a mapping")
        else:
            names.append("null" if one is type(None) else getattr(one, "__name__", str(one)))
    return names


def _placeholders(hint: Any) -> list[str]:
    """Returns what stands for the values of a type hint in a line of help."""
    shown: list[str] = []
    for one in hints_of(hint):
        held = [inner for inner in typing.get_args(one) if inner is not Ellipsis]
        if typing.get_origin(one) is typing.Literal:
            shown += map(str, held)
        elif kinds_of(one) & {list, tuple}:
            shown += _placeholders(held[0])
        elif dict in kinds_of(one):
            shown.append(f"{{NAME: {'|'.join(_placeholders(held[1]))}}}")
        elif one is not type(None):
            shown.append(_PLACEHOLDERS.get(one, "MAPPING" if isinstance(one, type) else "VALUE"))
    return list(dict.fromkeys(shown))


_PLACEHOLDERS: dict[Any, str] = {bool: "true|false", int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
_PLACEHOLDERS |= {dict: "MAPPING", Any: "VALUE"}


def _say_default(field: Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return "Required."
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if isinstance(value, bool):
        return f"Default: {str(value).lower()}."
    words = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return "Default: none." if words in (None, "", {}) else f"Default: {words}."


def _read_docstring(kind: type) -> tuple[str, dict[str, str]]:
    """Splits a class's docstring into its text and the sentences of its `Attributes`, those of its bases too."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        summary, _, attributes = inspect.cleandoc(vars(base).get("__doc__") or "").partition("\nAttributes:\n")
        entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", attributes, flags=re.MULTILINE)
        meanings |= {name: " ".join(text.split()) for name, text in entries}
    return summary.strip(), meanings


def _split_examples(text: str, width: int) -> tuple[str, str | None]:
    """Wraps the paragraphs of a text, and returns its indented lines apart, as examples."""
    paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
    wrapped = [textwrap.fill(" ".join(one.split()), width) for one in paragraphs if not one.startswith(" ")]
    examples = "\n".join(textwrap.indent(textwrap.dedent(one), "  ") for one in paragraphs if one.startswith(" "))
    return "\n\n".join(wrapped), f"examples:\n{examples}" if examples else None
