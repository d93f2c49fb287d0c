"""What LongAttn scored a file with: as the file notes it, or the build in whose folder it lies."""

import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import fsspec
import pyarrow as pa

from longattn_hf.files import is_address, parse_record
from longattn_hf.hub.release import DATA, SCORES
from longattn_hf.method import get_convention
from longattn_hf.selection.standardisation import ScoreStatistics

logger = logging.getLogger(__name__)

#: Where a file's metadata hold notes about it, as JSON.
NOTES = b"longattn_hf"
#: The settings of `LongAttnScorer` that its scores depend on, beside the model's own.
SCORED_WITH = ("convention", "window_tokens", "min_distance", "rope_theta", "rope_scaling", "dtype", "add_bos")

_FINISHED = re.compile(rf"(.*)/(?:{SCORES}/[^/]+|{DATA}/[^/]+/[^/]+)")
_AT_WORK = re.compile(r"(.*/work)/scores[^/]*/[^/]+/[^/]+")


def notes_in(schema: pa.Schema) -> dict[str, Any]:
    """Returns the notes in a file's schema; none for one of another program."""
    return json.loads((schema.metadata or {}).get(NOTES, b"{}"))


def scored_with(file: str, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of `SCORED_WITH` that a file's notes, or else the build in whose folder it lies, tell."""
    known = notes.get("longattn") or {}
    path = file if is_address(file) else os.path.abspath(file)
    # what is not there, or not of ours, tells nothing
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        if not known and (match := _FINISHED.fullmatch(path)):
            known = json.loads(_read(f"{match[1]}/report.json"))["settings"]
        elif not known and (match := _AT_WORK.fullmatch(path)):
            known = parse_record(_read(f"{match[1]}/settings.json"), "settings.json")
        return {name: known[name] for name in SCORED_WITH if known.get(name) is not None}
    return {}


def scorer_arguments(known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns, of settings that something was scored with, the arguments of a scorer that reads a window so again."""
    pads = get_convention(known.get("convention", "paper")).pads
    # elsewhere it only refuses what is longer
    names = [name for name in SCORED_WITH if pads or name != "window_tokens"]
    return {name: known[name] for name in names if known.get(name) is not None}


def _read(path: str) -> bytes:
    with fsspec.open(path) as file:
        return file.read()


def find_convention(
    known: Mapping[str, Mapping[str, Any]], given: str | None = None, statistics: ScoreStatistics | None = None
) -> str:
    """Returns the convention to read LongAttn's scores of files in; where nothing tells, warns and takes the paper's.

    Args:
        known: By file, what `scored_with` returns.
        given: What somebody asks for, which goes before that.
        statistics: The scale that the scores are put on.

    Raises:
        ValueError: There is no such convention, the files are of several, or the statistics are of another.
    """
    if given is not None:
        get_convention(given)
    of_file = {file: settings.get("convention") for file, settings in known.items()}
    told = of_file | ({"the statistics": statistics.convention} if statistics else {})
    names = {file: name for file, name in told.items() if name is not None}
    if len({*names.values()}) > 1:
        listed = ", ".join(f"{file} as {name!r}" for file, name in names.items())
        raise ValueError(f"Scores of several conventions are on different scales: {listed}. Give those of one.")
    convention = given or next(iter(names.values()), "paper")
    if given is None and (silent := [file for file, name in of_file.items() if name is None]):
        logger.warning(
            "%s: nothing says in which convention it was scored, so it is read as %r; select, explain and explore "
            "take another by --convention.",
            ", ".join(silent),
            convention,
        )
    return convention
