"""Which files of a repository the configurations of its card name."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from longattn_hf.hub.layout import DATA, SCORES


def file_patterns(configuration: Mapping[str, Any]) -> list[str]:
    """The path patterns of one entry of `configs`, over all of its splits."""
    folder = str(configuration.get("data_dir") or "").strip("/")
    # where a configuration names no files, datasets looks for them everywhere
    patterns = _paths(configuration.get("data_files")) or ["**"]
    return [f"{folder}/{pattern.removeprefix('./')}" if folder else pattern for pattern in patterns]


def _paths(files: Any) -> list[str]:
    if isinstance(files, Mapping):
        files = files.get("path", list(files.values()))
    if isinstance(files, str):
        return [files]
    if isinstance(files, list):
        return sum((_paths(entry) for entry in files), [])
    if files is None:
        return []
    raise ValueError(f"a card's data_files must be paths, {files!r} is not one: correct it by hand")


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path in a repository is one that the patterns name; `*` stops at a slash, `**` does not."""
    return any(_compiled(pattern).fullmatch(path) for pattern in patterns)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern.removeprefix("./"))
    return re.compile(
        "".join(signs.get(part, part.replace("[!", "[^") if part[:1] == "[" else re.escape(part)) for part in parts)
    )


def has_our_layout(name: str, configuration: Mapping[str, Any]) -> bool:
    """Whether a configuration's files lie where a release has those of its configuration of that name."""
    folders = (f"{DATA}/{name}/", *([f"{SCORES}/"] if name == SCORES else []))
    return all(pattern.removeprefix("./").startswith(folders) for pattern in file_patterns(configuration))
