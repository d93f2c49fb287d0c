"""The commits at which a build reads datasets on the Hub, which it keeps to until its end."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi

from longattn_hf.files import read_record, write_record
from longattn_hf.hub.client import bounded_timeouts, persist
from longattn_hf.pipeline.source_config import SourceConfig


def pin_sources(sources: Sequence[SourceConfig], record: Path) -> list[SourceConfig]:
    """Puts a commit in place of the revision of each dataset on the Hub.

    The commits are those that the revisions named when `record` was written: a build that was interrupted goes on with
    the documents it began with, whatever has been pushed since. Of several processes, one calls this first.

    Args:
        sources: The sources as configured; local files and demo documents are left as they are.
        record: A JSON file that keeps the commits; it is written if it is not there.

    Raises:
        ValueError: There is no such dataset or revision, no access to it, or its files are named by address.
        ConnectionError: The Hub cannot be reached.
    """
    before = read_pins(record)
    kept = dict(before)
    for source in sources:
        files = json.dumps(source.data_files)
        if "hf://" in files:
            raise ValueError(
                f"data_files={files} names files on the Hub by address, which cannot be pinned to a commit: give the "
                "dataset's id as `path`, its branch as `revision` and the files inside it as `data_files`."
            )
        if is_on_the_hub(source) and name_of(source) not in kept:
            kept[name_of(source)] = commit_of(source)
    if kept != before:
        write_record(record, dict(sorted(kept.items())))
    return [replace(source, revision=kept.get(name_of(source), source.revision)) for source in sources]


def read_pins(record: Path) -> dict[str, str]:
    """Returns the commits that `pin_sources` wrote down, by `path@revision`; raises ValueError if they are damaged."""
    pins = read_record(record)
    if not pins and record.exists():
        raise ValueError(
            f"{record} is damaged. It holds the commits that the sources were read at: delete it, and the build reads "
            "them as they are now; what differs is windowed and scored again."
        )
    return pins


def is_on_the_hub(source: SourceConfig) -> bool:
    """Says whether a source is a dataset on the Hub, and no folder of that name."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", source.path) is not None and not Path(source.path).exists()


def is_pinned(source: SourceConfig) -> bool:
    """Says whether its revision is a commit."""
    return re.fullmatch("[0-9a-f]{40}", source.revision or "") is not None


def name_of(source: SourceConfig) -> str:
    """Returns its name in a record of commits."""
    return f"{source.path}@{source.revision or 'main'}"


def commit_of(source: SourceConfig) -> str:
    """Asks the Hub for the commit of its revision; raises as `pin_sources`."""
    api = HfApi()

    def resolve() -> str:
        # a gated dataset tells its commit to everybody, and its files to few
        api.auth_check(source.path, repo_type="dataset")
        return str(api.dataset_info(source.path, revision=source.revision).sha)

    with bounded_timeouts(60.0):
        return persist(resolve, what=f"Reading the source {source.path!r}", attempts=4, last_word="Try again later")
