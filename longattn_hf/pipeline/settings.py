"""The settings of any program: a dataclass that pydantic checks, filled from a YAML file and the command line."""

import argparse
import re
import typing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import yaml
from pydantic import BeforeValidator, ConfigDict, Strict, ValidationError
from pydantic.dataclasses import dataclass

from longattn_hf.files import load_yaml, refuse_address
from longattn_hf.pages.text import did_you_mean
from longattn_hf.pipeline.options import fields_of, hints_of, kinds_of, make_parser, names_of

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


def _read_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Iterator[dict[Any, Any]]:
    """Reads a mapping that names nothing twice, of which YAML allows none, and its reader takes the last."""
    names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
    if twice := [name for name, count in names.items() if count > 1]:
        raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} is given twice", node.start_mark)
    yield from loader.construct_yaml_map(node)


_Yaml.add_constructor("tag:yaml.org,2002:map", _read_mapping)
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
        if name not in fields_of(kind):
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
    value, field = values[name], fields_of(kind)[name]
    accepted = reason or f"must be {' or '.join(names_of(field.type))}"
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
        if reason is None and not inside and type(value) in kinds_of(field.type)
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
    parents: Sequence[argparse.ArgumentParser] = (),
) -> T:
    """Reads a program's settings: `--config FILE`, and before the file's each `--any_setting VALUE`, as YAML.

    Args:
        kind: A class that `settings` made; its docstring is the program's help.
        arguments: The command line's words; the process's own if None.
        positional: Settings that stand without their names, in this order.
        short: Settings that have a letter too, such as `-o`.
        description: What stands in the help above the options, and its indented lines, examples, below them; the
            docstring's text if None.
        parents: Options that are no settings, as argparse takes them.

    Raises:
        ValueError: As `read_yaml` and `check_settings`, and on an unknown option, naming the nearest.
    """
    path, words = parse_command_line(
        kind, arguments, positional=positional, short=short, description=description, parents=parents
    )
    values = (read_yaml(path) if path else {}) | parse_words(kind, words)
    return check_settings(kind, values, f"the configuration {path}" if path else "the command line")


def parse_command_line(
    kind: type,
    arguments: Sequence[str] | None,
    *,
    positional: Sequence[str] = (),
    short: Mapping[str, str] | None = None,
    description: str | None = None,
    parents: Sequence[argparse.ArgumentParser] = (),
) -> tuple[Path | None, dict[str, str | list[str]]]:
    """Returns the file that `--config` names, and the words of the settings given beside it, by name."""
    parser = make_parser(kind, positional=positional, short=short, description=description, parents=parents)
    words, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise ValueError(_unknown(unknown[0].lstrip("-").split("=")[0], kind, "the command line"))
    given = {name: getattr(words, name) for name in fields_of(kind)}
    return words.config, {name: text for name, text in given.items() if text is not MISSING}


def parse_words(kind: type, words: Mapping[str, str | list[str]]) -> dict[str, Any]:
    """Returns the values that words of the command line stand for: YAML, or text where text is asked for."""
    return {name: _parse(text, fields_of(kind)[name]) for name, text in words.items()}


def _parse(text: str | list[str], field: Field[Any]) -> Any:
    kinds = kinds_of(field.type)
    if isinstance(text, list):
        values = [_parse(one, field) for one in text]
        return values[0] if len(values) == 1 and isinstance(values[0], list | None) else values
    # 1.0 names a version where a text is asked for, alone or in a list that is not written as YAML
    if kinds & {list, tuple} and not text.startswith("["):
        kinds = {inner for one in hints_of(field.type) for held in typing.get_args(one) for inner in kinds_of(held)}
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


def _unknown(name: object, kind: type, where: str) -> str:
    known = list(fields_of(kind))
    hint = did_you_mean(str(name).replace("-", "_"), known, f"It has {', '.join(known)}.")
    return f"Unknown setting {name!r} in {where}. {hint}"
