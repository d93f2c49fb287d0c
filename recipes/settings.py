"""Reads a program's settings, a dataclass, from a YAML file and the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TypeVar

import yaml

from longattn_hf.pipeline.config import check_names, read_mapping

Settings = TypeVar("Settings")


def read_settings(kind: type[Settings], arguments: Sequence[str] | None = None) -> Settings:
    """Reads `--config FILE` and `--any_setting VALUE`, the latter as YAML and before the file's.

    Args:
        kind: The dataclass; its docstring is the program's help.
        arguments: The command line's words; the process's own if None.

    Raises:
        ValueError: The file cannot be read, or a name or a value is not one of `kind`'s.
    """
    parser = argparse.ArgumentParser(description=kind.__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, help="a YAML file of settings")
    for item in fields(kind):
        parser.add_argument(f"--{item.name}", type=yaml.safe_load, default=MISSING, help=str(item.type))
    given = vars(parser.parse_args(arguments))
    path = given.pop("config")
    values = read_mapping(path) if path is not None else {}
    values |= {name: value for name, value in given.items() if value is not MISSING}
    check_names(values, kind, f"the configuration {path}" if path else "the command line's settings")
    return kind(**values)
