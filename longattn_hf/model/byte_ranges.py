"""Reads a few tensors out of a safetensors checkpoint on the Hub: their byte ranges, once, and no other tensor's.

What was read is kept as a small safetensors file in huggingface_hub's cache of assets, under the repository, the
commit and a hash of the tensors' names; it serves all later reads, offline too.
"""

import json
import os
import re
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from huggingface_hub import cached_assets_path, constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, FileMetadataError, HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.errors import OfflineModeIsEnabled as Offline
from huggingface_hub.utils import WeakFileLock, build_hf_headers, hf_raise_for_status, http_backoff
from huggingface_hub.utils import tqdm as progress_bar
from safetensors import safe_open

from longattn_hf.hub.deadlines import bounded_timeouts
from longattn_hf.hub.refusals import describe, httpx, refusal, remedy, status_of
from longattn_hf.hub.repository import REQUEST_SECONDS

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}
_BITS |= {"I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
# one request; what is in memory at once is this much a thread
_PIECE_BYTES = 2**25
_THREADS, _ATTEMPTS, _WHOLE_SECONDS = 4, 3, 86_400.0
# huggingface_hub 1.20 does not try again after an answer that broke off
_PASSING = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
_PLAIN_PATH = re.compile(r"\w[\w.+=@ -]*(/\w[\w.+=@ -]*)*")
_LARGEST_HEADER = 100_000_000  # safetensors' own limit
#: What to read of a tensor: the first N of M rows, as (N, M); None for all of it.
Rows = tuple[int, int] | None
# beside what was read: which file holds which tensor, so that names can be picked from offline
_FILES = "files.json"


@dataclass(frozen=True)
class _Remote:
    """One repository at a commit, read by byte ranges."""

    repo_id: str
    commit: str
    token: str | bool | None

    def read(self, file: str, start: int, stop: int) -> tuple[bytes, int]:
        """Reads the bytes `[start, stop)` of a file; returns them and the whole file's size."""
        url, seconds = hf_hub_url(self.repo_id, file, revision=self.commit), float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        headers = build_hf_headers(token=self.token) | {"Range": f"bytes={start}-{stop - 1}"}
        for _ in range(_ATTEMPTS):
            response = http_backoff("GET", url, headers=headers, timeout=seconds, retry_on_exceptions=_PASSING)
            if response.status_code != 416:
                hf_raise_for_status(response)
            stated = response.headers.get("Content-Range", "")
            span, _, size = stated.removeprefix("bytes ").partition("/")
            if span == f"{start}-{stop - 1}" and size.isdecimal() and len(response.content) == stop - start:
                return response.content, int(size)
        raise ValueError(
            f"{file} of {self.repo_id!r} is cut short: of its bytes {start} to {stop - 1}, {len(response.content)} "
            f"arrived in each of {_ATTEMPTS} attempts (HTTP {response.status_code}, Content-Range {stated!r}). Try "
            "again later; if it stays so, the file, or a proxy on the way to it, is broken."
        )

    def header(self, file: str) -> tuple[dict[str, dict], int]:
        """Reads a safetensors header; returns its entries, checked, and where the data starts."""
        data, size = self.read(file, 0, 8)
        start = 8 + struct.unpack("<Q", data)[0]
        if not 8 < start <= min(_LARGEST_HEADER, size):
            raise self.damaged(file, f"it has {size} bytes, and its header would end at {start}")
        text, _ = self.read(file, 8, start)
        try:
            entries = json.loads(text)
            entries.pop("__metadata__", None)
            stop = start + sum(_size_of(entry) for entry in entries.values())
            spans = sorted(entry["data_offsets"] for entry in entries.values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.damaged(file, f"its header cannot be read: {error!r}") from error
        if stop != size:
            raise self.damaged(file, f"it has {size} bytes, and its header tells of {stop}")
        # as the format has it; tensors that overlap would be read from one another's bytes
        if [first for first, _ in spans] != [0, *(last for _, last in spans[:-1])][: len(spans)]:
            raise self.damaged(file, "its header's tensors overlap or leave gaps")
        return entries, start

    def damaged(self, file: str, reason: str) -> ValueError:
        return ValueError(
            f"{file} of {self.repo_id!r} at {self.commit} is damaged or arrived so ({reason}). Try again; if it stays "
            "so, use another revision or copy of the model."
        )


def fetch_tensors(
    repo_id: str,
    commit: str,
    pick: Callable[[Collection[str]], Mapping[str, Rows]],
    *,
    token: str | bool | None = None,
) -> Path:
    """Returns a local safetensors file with some tensors of a model on the Hub, and fetches it if there is none yet.

    Processes that ask for the same at once share one download: the others wait. A download that is stopped or killed
    leaves nothing that would be taken for whole, and the next one starts from its beginning.

    Args:
        repo_id: The model's repository.
        commit: Its full commit hash.
        pick: Picks from all the tensors' names those to read, with the rows of each. The rows that are left out are
            not fetched, and the local file's tensor has none of them.
        token: As for `huggingface_hub`.

    Raises:
        ValueError: No access, no safetensors file, or one that is damaged; says which and what to do.
        ConnectionError: The Hub cannot be reached.
    """
    folder = cached_assets_path("longattn_hf", namespace=repo_id, subfolder=commit)
    remote = _Remote(repo_id, commit, token)
    try:
        if path := _find(folder, pick):
            return path
        with WeakFileLock(folder / ".lock"):
            # another process may have fetched them while this one waited
            if path := _find(folder, pick):
                return path
            with bounded_timeouts(REQUEST_SECONDS, whole=_WHOLE_SECONDS):
                file_of = _list_tensors(remote)
                with _replacing(folder / _FILES) as file:
                    file.write(json.dumps(file_of).encode())
                picked = pick(file_of)
                _download(remote, {name: file_of[name] for name in picked}, picked, folder / _kept_as(picked))
            return folder / _kept_as(picked)
    except (Offline, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"The first layer of {repo_id!r} at {commit} is not in the cache, and the Hub cannot be reached. Load it "
            "once where there is a network, or copy the cache from there."
        ) from error
    except (HfHubHTTPError, httpx.RequestError, FileMetadataError) as error:
        status = status_of(error) or 500
        if status < 500 and status != 429:
            raise refusal(error, f"reading {repo_id!r} at {commit}") from error
        raise ConnectionError(f"Reading {repo_id!r} failed: {remedy(error)} ({describe(error)}).") from error


def _find(folder: Path, pick: Callable[[Collection[str]], Mapping[str, Rows]]) -> Path | None:
    if not (folder / _FILES).exists():
        return None
    path = folder / _kept_as(pick(json.loads((folder / _FILES).read_text())))
    return path if path.exists() else None


def _kept_as(picked: Mapping[str, Rows]) -> str:
    return f"{sha256(json.dumps(picked, sort_keys=True).encode()).hexdigest()[:16]}.safetensors"


def _list_tensors(remote: _Remote) -> dict[str, str]:
    """Maps every tensor of the model to the file that holds it."""
    try:
        path = hf_hub_download(remote.repo_id, _INDEX, revision=remote.commit, token=remote.token)
        file_of = dict(json.loads(Path(path).read_text(encoding="utf-8"))["weight_map"])
        # another one would be looked for elsewhere, in another repository even, with the user's token
        if foreign := [file for file in file_of.values() if not _PLAIN_PATH.fullmatch(file) or ".." in file]:
            raise ValueError(f"it names {foreign[0]!r}, which is no file beside it")
        return file_of
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return _list_tensors_of_one_file(remote)
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{_INDEX} of {remote.repo_id!r} at {remote.commit} is not an index: {error!r}") from error


def _list_tensors_of_one_file(remote: _Remote) -> dict[str, str]:
    try:
        return dict.fromkeys(remote.header(_SINGLE)[0], _SINGLE)
    except EntryNotFoundError as error:
        raise ValueError(
            f"{remote.repo_id!r} has neither {_SINGLE} nor {_INDEX}. Pickled checkpoints (.bin, .pt) can run code and "
            "are not read: convert it with `save_pretrained`, or look for a converted copy."
        ) from error


def refuse_other_rows(name: str, shape: Sequence[int], rows: tuple[int, int]) -> None:
    """Checks that a stored tensor has as many rows as those to read were counted in."""
    if not shape or shape[0] != rows[1]:
        raise ValueError(
            f"The checkpoint's {name} has the shape {list(shape)}, but its configuration says {rows[1]} rows. The "
            "files do not belong together: fetch the model again."
        )


def _download(remote: _Remote, file_of: Mapping[str, str], picked: Mapping[str, Rows], target: Path) -> None:
    """Reads the tensors' bytes into a new safetensors file, in the order in which they stand at their source."""
    entries: dict[str, Any] = {}
    spans: list[_Span] = []
    for file in sorted(set(file_of.values())):
        header, data_start = remote.header(file)
        names = sorted((name for name in header if file_of.get(name) == file), key=lambda n: header[n]["data_offsets"])
        for name in names:
            shape, (start, stop) = header[name]["shape"], header[name]["data_offsets"]
            if rows := picked[name]:
                refuse_other_rows(name, shape, rows)
                shape = [rows[0], *shape[1:]]
                stop = start + (stop - start) // rows[1] * rows[0]
            at = spans[-1].at + spans[-1].size if spans else 0
            entries[name] = header[name] | {"shape": shape, "data_offsets": [at, at + stop - start]}
            spans.append(_Span(file, data_start + start, stop - start, at))
    if absent := sorted(set(file_of) - set(entries)):
        raise remote.damaged(file_of[absent[0]], f"it lacks the tensor {absent[0]}, which the index says it holds")
    origin = {"repository": remote.repo_id, "commit": remote.commit}
    head = json.dumps({"__metadata__": origin, **entries}).encode()
    head += b" " * (-len(head) % 8)
    pieces = [piece for span in _merge(spans) for piece in span.pieces()]
    with (
        _replacing(target) as local,
        progress_bar(total=sum(span.size for span in spans), unit="B", unit_scale=True, desc="First layer") as bar,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        local.write(struct.pack("<Q", len(head)) + head)
        local.flush()

        def fetch(piece: _Span) -> None:
            data, _ = remote.read(piece.file, piece.start, piece.start + piece.size)
            os.pwrite(local.fileno(), data, 8 + len(head) + piece.at)
            bar.update(piece.size)

        try:
            for _ in pool.map(fetch, pieces):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        _refuse_what_is_not_finite(remote, Path(local.name), file_of)


def _refuse_what_is_not_finite(remote: _Remote, path: Path, file_of: Mapping[str, str]) -> None:
    """No checksum covers a part of a file; what a broken transfer puts into weights mostly is not a number."""
    with safe_open(path, framework="pt") as opened:
        for name in opened.keys():
            tensor = opened.get_tensor(name)
            blocks = tensor.flatten().split(2**24) if tensor.is_floating_point() else ()
            if not all(block.to(torch.float32).isfinite().all() for block in blocks):
                raise remote.damaged(file_of[name], f"the tensor {name} holds values that are not finite")


@dataclass(frozen=True)
class _Span:
    """The bytes `[start, start + size)` of a remote file, which go to `at` in the data of ours."""

    file: str
    start: int
    size: int
    at: int

    def pieces(self) -> Iterator["_Span"]:
        for done in range(0, self.size, _PIECE_BYTES):
            size = min(_PIECE_BYTES, self.size - done)
            yield _Span(self.file, self.start + done, size, self.at + done)


def _merge(spans: Iterable[_Span]) -> list[_Span]:
    """Joins spans that touch; no byte between two others is asked for."""
    merged: list[_Span] = []
    for span in spans:
        last = merged[-1] if merged else None
        if last and (last.file, last.start + last.size) == (span.file, span.start):
            merged[-1] = _Span(last.file, last.start, last.size + span.size, last.at)
        else:
            merged.append(span)
    return merged


def _size_of(entry: Mapping[str, Any]) -> int:
    start, stop = entry["data_offsets"]
    if stop - start != prod(entry["shape"]) * _BITS[entry["dtype"]] // 8 or start < 0:
        raise ValueError(f"the shape {entry['shape']} of {entry['dtype']} does not fill the bytes {start} to {stop}")
    return stop - start


@contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `target` when it is complete, and goes when it is not."""
    # one name for all, under the lock: what a killed process leaves is written over
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
