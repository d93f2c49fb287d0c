"""The settings of any program: a dataclass that pydantic checks, filled from a YAML file and the command line."""

import argparse
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import yaml
from pydantic import BeforeValidator, ConfigDict, Strict, ValidationError
from pydantic.dataclasses import dataclass

from longattn_hf.files import load_yaml, refuse_address

T = TypeVar("T")

_SHOWN_CHARACTERS = 200

#: A list or tuple of settings, kept as a tuple: `Several[str]`.
Several = Annotated[tuple[T, ...], Strict(False)]
#: A list of texts, which stays one.
Texts = Annotated[list[str], Strict(False)]
#: A path, which YAML and the command line give as text.
LocalPath = Annotated[Path, Strict(False), BeforeValidator(refuse_address)]


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(kind: type[T]) -> type[T]:
    """Makes a class a frozen keyword-only dataclass whose values are checked, inside lists and mappings too.

    Nothing is converted but whole numbers to float, so that a text never passes for a number, nor a truth for one. The
    docstring's `Attributes` are the help of its options.
    """
    return dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))(kind)  # type: ignore[return-value]


def each(kind: type, where: str) -> BeforeValidator:
    """Lets a field that holds `Several[kind]` take mappings for the settings; `where` names one in messages."""

    def make(values: Any) -> Any:
        if not isinstance(values, list | tuple) or not all(isinstance(value, Mapping | kind) for value in values):
            raise ValueError(f"must be a list of mappings, each of them {where}")
        return tuple(check_settings(kind, value, where) if isinstance(value, Mapping) else value for value in values)

    return BeforeValidator(make)


class _Yaml(yaml.SafeLoader):
    """Takes scalars as YAML 1.2 does: `no` and `on` are text, `1e6` is a number, a date is text."""

    yaml_implicit_resolvers = {}


for _tag, _pattern, _first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", "[-+]?[0-9][0-9_]*", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)


def _read_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    """Reads 1e6 as a whole number, which a budget of tokens is."""
    text = node.value.replace("_", "")
    value = loader.construct_yaml_float(node)
    return int(value) if "e" in text.lower() and value.is_integer() else value


_Yaml.add_constructor("tag:yaml.org,2002:float", _read_number)
# SafeLoader's own would read 010 as eight
_Yaml.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value.replace("_", "")))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping of settings.

    Raises:
        ValueError: The file cannot be read, is not YAML, or holds something else.
    """
    try:
        values = load_yaml(Path(path).read_text(encoding="utf-8"), _Yaml)
    except OSError as error:
        raise ValueError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of settings, and holds {type(values).__name__}.")
    return values


def check_settings(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Makes settings of plain values.

    Args:
        kind: A class that `settings` made.
        values: Its fields.
        where: What the values come from, for messages.

    Raises:
        ValueError: A name is unknown (the message names the nearest), one is missing, or a value is not as it should
            be; says which, what it is and what it must be.
    """
    for name in values:
        if name not in _fields_of(kind):
            raise ValueError(_unknown(name, kind, where))
    try:
        return kind(**values)
    except ValidationError as error:
        raise ValueError(_explain(error, kind, values, where)) from error


def _explain(error: ValidationError, kind: type, values: Mapping[str, Any], where: str) -> str:
    """Says in one line what is wrong with the first of the values that are."""
    details = error.errors(include_url=False)
    missing = [str(one["loc"][0]) for one in details if one["type"] == "missing"]
    if missing:
        return f"{where} lacks {', '.join(missing)}."
    first = details[0]
    reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else None
    if reason and (not first["loc"] or reason.endswith(".")):
        return reason
    name = str(first["loc"][0])
    value, field = values[name], _fields_of(kind)[name]
    accepted = reason or f"must be {' or '.join(_names_of(field.type))}"
    # of a value that may be of several kinds, the complaint that goes deepest is of the kind that was meant
    deepest = max((one for one in details if one["loc"][0] == name), key=lambda one: len(one["loc"]))
    inside = (
        f"; {_short(deepest['input'])} in it is {type(deepest['input']).__name__}"
        if deepest["input"] is not value
        else ""
    )
    # of a text that is none of those accepted, its kind says nothing
    kind_of = (
        ""
        if reason is None and not inside and type(value) in _kinds_of(field.type)
        else f", not {type(value).__name__}"
    )
    return f"{name}={_short(value)} in {where} {accepted}{kind_of}{inside}."


def read_command_line(
    kind: type[T],
    arguments: Sequence[str] | None = None,
    *,
    positional: Sequence[str] = (),
    short: Mapping[str, str] | None = None,
    description: str | None = None,
) -> T:
    """Reads a program's settings: `--config FILE`, and before the file's each `--any_setting VALUE`, as YAML.

    Args:
        kind: A class that `settings` made; its docstring is the program's help.
        arguments: The command line's words; the process's own if None.
        positional: Settings that stand without their names, in this order.
        short: Settings that have a letter too, such as `-o`.
        description: What stands in the help above the options; the docstring's text if None.

    Raises:
        ValueError: As `read_yaml` and `check_settings`, and on an unknown option, naming the nearest.
    """
    path, words = parse_command_line(kind, arguments, positional=positional, short=short, description=description)
    values = (read_yaml(path) if path else {}) | parse_words(kind, words)
    return check_settings(kind, values, f"the configuration {path}" if path else "the command line")


def parse_command_line(
    kind: type,
    arguments: Sequence[str] | None,
    *,
    positional: Sequence[str] = (),
    short: Mapping[str, str] | None = None,
    description: str | None = None,
) -> tuple[Path | None, dict[str, str | list[str]]]:
    """Returns the file that `--config` names, and the words of the settings given beside it, by name."""
    summary, meanings = _read_docstring(kind)
    parser = argparse.ArgumentParser(
        description=description or summary, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="A YAML file of settings.")
    for field in _fields_of(kind).values():
        options: dict[str, Any] = {"default": MISSING, "metavar": "VALUE", "help": _help_of(field, meanings)}
        kinds = _kinds_of(field.type)
        if kinds & {list, tuple}:
            options["nargs"] = "*"
        elif bool in kinds:
            options |= {"nargs": "?", "const": "true"}
        if field.name in positional:
            parser.add_argument(field.name, **options | {"metavar": field.name.upper()})
        else:
            letters = [f"-{(short or {})[field.name]}"] if field.name in (short or {}) else []
            names = dict.fromkeys((*letters, f"--{field.name}", f"--{field.name.replace('_', '-')}"))
            parser.add_argument(*names, dest=field.name, **options)
    words, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise ValueError(_unknown(unknown[0].lstrip("-").split("=")[0], kind, "the command line"))
    given = {name: getattr(words, name) for name in _fields_of(kind)}
    return words.config, {name: text for name, text in given.items() if text is not MISSING}


def parse_words(kind: type, words: Mapping[str, str | list[str]]) -> dict[str, Any]:
    """Returns the values that words of the command line stand for: YAML, or text where text is asked for."""
    return {name: _parse(text, _fields_of(kind)[name]) for name, text in words.items()}


def _parse(text: str | list[str], field: Field[Any]) -> Any:
    kinds = _kinds_of(field.type)
    if isinstance(text, list):
        values = [_parse(one, field) for one in text]
        return values[0] if len(values) == 1 and isinstance(values[0], list | None) else values
    # 1.0 names a version where a text is asked for, alone or in a list that is not written as YAML
    if kinds & {list, tuple} and not text.startswith("["):
        kinds = {inner for one in _hints_of(field.type) for held in typing.get_args(one) for inner in _kinds_of(held)}
    if kinds - {Ellipsis} <= {str, Path, type(None)} and text != "null":
        return text
    try:
        return load_yaml(text, _Yaml)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"--{field.name} {_short(text)} cannot be read as YAML: {_one_line(error)}") from error


def _short(value: object) -> str:
    """Shows a value, of a long one the beginning."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _fields_of(kind: type) -> dict[str, Field[Any]]:
    return {field.name: field for field in fields(kind)}


def _hints_of(hint: Any) -> list[Any]:
    """Returns what a type hint accepts, one by one."""
    if typing.get_origin(hint) is Annotated:
        return _hints_of(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return [one for part in typing.get_args(hint) for one in _hints_of(part)]
    return [hint]


def _kinds_of(hint: Any) -> set[type]:
    """Returns the classes that a type hint accepts, without what they hold."""
    hints = _hints_of(hint)
    named = {
        type(value) for one in hints if typing.get_origin(one) is typing.Literal for value in typing.get_args(one)
    }
    return named | {typing.get_origin(one) or one for one in hints} - {typing.Literal}


def _names_of(hint: Any) -> list[str]:
    """Names, for people, what a type hint accepts."""
    names = []
    for one in _hints_of(hint):
        held = [" or ".join(_names_of(inner)) for inner in typing.get_args(one) if inner is not Ellipsis]
        if typing.get_origin(one) is typing.Literal:
            names += [repr(value) for value in typing.get_args(one)]
        elif tuple in _kinds_of(one) or list in _kinds_of(one):
            names.append(f"a list of {held[0]}" if held else "a list")
        elif dict in _kinds_of(one):
            names.append(f"a mapping to {held[1]}" if held else "a mapping")
        else:
            names.append("null" if one is type(None) else getattr(one, "__name__", str(one)))
    return names


def _read_docstring(kind: type) -> tuple[str, dict[str, str]]:
    """Splits a class's docstring into its text and the sentences of its `Attributes`, those of its bases too."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        summary, _, attributes = inspect.cleandoc(vars(base).get("__doc__") or "").partition("\nAttributes:\n")
        entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", attributes, flags=re.MULTILINE)
        meanings |= {name: " ".join(text.split()) for name, text in entries}
    return summary.strip(), meanings


def _help_of(field: Field[Any], meanings: Mapping[str, str]) -> str:
    value = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    default = "" if value in (MISSING, None, "", False) else f" Default: {value}."
    return (meanings.get(field.name, "") + default).strip().replace("%", "%%")


def _unknown(name: object, kind: type, where: str) -> str:
    known = list(_fields_of(kind))
    near = get_close_matches(str(name).replace("-", "_"), known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(known)}."
    return f"Unknown setting {name!r} in {where}. {hint}"
