"""Knows a build that has nothing to do by its traces, without reading a tokenizer, a document or a score.

What a build was made from (settings, code, versions, model, sources, where it ran) and each file of its folder are
written down by size and time of change when it ends. Where all are as they were, the same command has nothing to do;
where one is not, or cannot be told, the build finds out stage by stage what is to be done, as it always does.
"""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from stat import S_ISREG

import longattn_hf
from longattn_hf.files import hash_json, read_record, write_record
from longattn_hf.model.identity import identify
from longattn_hf.model.location import ModelRef
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.sources import identify_sources
from longattn_hf.report.describe import software_versions

# where scores are made decides on the numbers' type
_PLACE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ACCELERATE_USE_CPU")


def describe_inputs(config: BuildConfig, words: str, folder: BuildFolder) -> str | None:
    """Names all that a build's files depend on; None where that cannot be told, or takes a file that a setting names.

    Of a model on the Hub that is its commit, for which the Hub is asked once, unless `revision` is one.
    """
    settings = config.scorers.values() if isinstance(config.scorers, dict) else ()
    if config.statistics or any(isinstance(value, str) for own in settings for value in (own or {}).values()):
        return None
    try:
        model = identify(ModelRef(config.model, config.revision, config.gguf_file))
        sources = identify_sources(config.sources, folder.sources)
    except ValueError:
        return None
    if sources is None:
        return None
    code = stamps(Path(longattn_hf.__file__).parent, lambda path: path.suffix not in (".pyc", ".pyo"))
    place = [socket.gethostname(), *(os.environ.get(name) for name in _PLACE)]
    return hash_json([asdict(config), words, sources, model, code, place, software_versions()])


def is_untouched(inputs: str | None, folder: BuildFolder) -> bool:
    """Says whether the folder is as a build of these inputs left it."""
    if inputs is None or not folder.finished.exists():
        return False
    return read_record(folder.traces) == {"inputs": inputs, "files": _files_of(folder)}


def remember(inputs: str | None, folder: BuildFolder) -> None:
    """Writes down what a build that has ended leaves."""
    if inputs is None:
        folder.traces.unlink(missing_ok=True)
    else:
        write_record(folder.traces, {"inputs": inputs, "files": _files_of(folder)})


def _files_of(folder: BuildFolder) -> str:
    passing = {folder.traces, folder.lock, folder.owner}
    # a file of one's own may have a name that no text file can hold
    return hash_json(stamps(folder.path, lambda path: path not in passing and path.parent != folder.heartbeats))


def stamps(folder: Path, counts: Callable[[Path], bool] = lambda path: True) -> dict[str, list[int]]:
    """Returns sizes and times of change of a folder's files that count, by name; none where there is no folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        # other programs' files may go at any moment
        with suppress(FileNotFoundError):
            status = path.stat()
            if counts(path) and S_ISREG(status.st_mode):
                # the second time cannot be set by hand
                found[path.relative_to(folder).as_posix()] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return found
