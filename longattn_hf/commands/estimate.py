"""`longattn estimate`: what a build would take, from a sample of its documents; nothing is written."""

import json
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from glob import glob
from itertools import islice
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow.parquet as pq

from longattn_hf.columns import INPUT_IDS, SKIP_REASON, TEXT
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.packaged_configs import CONFIGS, find_config
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import check_settings, parse_command_line, parse_words, read_yaml, settings
from longattn_hf.pipeline.source_config import SourceConfig
from longattn_hf.pipeline.terminal import OUTPUT, Output, fold, lay_out

if TYPE_CHECKING:
    from longattn_hf.pipeline.sources import Source
    from longattn_hf.scoring.base import Scorer
    from longattn_hf.windows import WindowDocuments

# bytes on disk of a window beside its text: ids, positions, scores, all of them compressed
_BYTES_BESIDE_TEXT = 2


@settings
class EstimateSettings(BuildConfig):
    """Says what a build would take, from a sample: windows, hours on this machine, disk. Writes nothing.

    Takes the settings of a build and a few of its own.

        longattn estimate --config my.yaml --sample_documents 100

    Attributes:
        sample_documents: Documents to read of each source.
        sample_windows: Windows to score.
        hourly_price: What an hour of this machine costs, for a price.
    """

    GROUPS: ClassVar[dict[str, str]] = BuildConfig.GROUPS | {"sample_documents": "the estimate"}

    sample_documents: int = 32
    sample_windows: int = 8
    hourly_price: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_documents < 2 or self.sample_windows < 2:
            raise ValueError("sample_documents and sample_windows must be at least 2, to tell how far they vary.")


@dataclass(frozen=True, kw_only=True)
class SourceEstimate:
    """What a sample tells of one source.

    Attributes:
        category: Its category.
        sampled: Documents read.
        documents: Documents there are; None where nothing tells without reading all.
        windows: Windows a document, the sample's mean.
        error: The standard error of that mean.
        text_bytes: UTF-8 bytes of a window's text, the sample's mean.
    """

    category: str
    sampled: int
    documents: int | None
    windows: float
    error: float
    text_bytes: float


def sample_source(
    source: "Source", transform: "WindowDocuments", *, count: int, documents: int | None
) -> tuple[SourceEstimate, list[dict[str, Any]]]:
    """Cuts a sample of a source's documents; returns what it tells, and text and ids of one window a document."""
    transform = replace(transform, text_column=source.text_column, category=source.category, keep_skipped=True)
    counts: list[int] = []
    sizes: list[int] = []
    first: list[dict[str, Any]] = []
    for document in _spread(source, count):
        rows = transform({name: [value] for name, value in document.items()})
        windows = [row for row, reason in enumerate(rows[SKIP_REASON]) if reason is None]
        counts.append(len(windows))
        sizes += [len(rows[TEXT][row].encode("utf-8", "surrogatepass")) for row in windows]
        first += [{TEXT: rows[TEXT][row], INPUT_IDS: np.asarray(rows[INPUT_IDS][row])} for row in windows[:1]]
    error = stdev(counts) / math.sqrt(len(counts)) if len(counts) > 1 else math.nan
    if documents is not None and len(counts) > 1:
        # of few documents the sample is a good part, or all
        error *= math.sqrt(max(0.0, 1 - len(counts) / documents))
    estimate = SourceEstimate(
        category=source.category,
        sampled=len(counts),
        documents=documents,
        windows=fmean(counts) if counts else 0.0,
        error=error,
        text_bytes=fmean(sizes) if sizes else 0.0,
    )
    return estimate, first


def _spread(source: "Source", count: int) -> Iterator[dict[str, Any]]:
    """Reads as many documents in all, from parts of the source that lie as far apart as they can: files are sorted."""
    shards = source.stream.num_shards
    parts = min(shards, count)
    for part in range(parts):
        yield from islice(source.open_part(part * shards // parts), count // parts + (part < count % parts))


def count_documents(config: SourceConfig, source: "Source") -> int | None:
    """Counts a source's documents without reading them: None where that cannot be done."""
    from datasets import load_dataset_builder

    from longattn_hf.pipeline.sources import DEMO

    if config.path == DEMO:
        return source.stream.num_shards
    local = [path for file in config.patterns or [] for path in glob(file, recursive=True)]
    if config.path == "parquet" and local:
        counted = sum(pq.read_metadata(path).num_rows for path in local)
    elif config.path == "text" and local:
        counted = len(local)
    else:
        builder = load_dataset_builder(config.path, config.name, data_files=config.patterns, revision=config.revision)
        split = (builder.info.splits or {}).get(config.split)
        if config.json_lines or split is None or not split.num_examples:
            return None
        counted = split.num_examples
    limit = config.max_documents
    return counted if limit is None else min(counted, limit * source.stream.num_shards)


def time_scoring(scorers: Iterable["Scorer"], windows: Sequence[dict[str, Any]]) -> list[float]:
    """Scores windows one by one; returns the seconds that each took by all scorers, after one that warms up."""
    seconds = []
    for window in (windows[0], *windows):
        start = time.perf_counter()
        for scorer in scorers:
            scorer({name: [value] for name, value in window.items()})
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a build would take; as text, for people. Ranges are from low to high, with what is likely between them.

    Attributes:
        sources: What the sample tells of each.
        seconds: What each of the sampled windows took to be scored; none where no document is long enough.
        scored_by: By whom, and on what device.
        window_tokens: The windows' length.
        hourly_price: What an hour of this machine costs.
    """

    sources: Sequence[SourceEstimate]
    seconds: Sequence[float]
    scored_by: str
    window_tokens: int
    hourly_price: float | None

    @property
    def known(self) -> list[tuple[int, SourceEstimate]]:
        """The sources of which it is known how many documents they hold, with that number."""
        return [(one.documents, one) for one in self.sources if one.documents is not None]

    @property
    def windows(self) -> tuple[float, float, float]:
        """How many there are of these sources."""
        windows = sum(documents * one.windows for documents, one in self.known)
        error = math.sqrt(sum((documents * one.error) ** 2 for documents, one in self.known))
        return max(0.0, windows - 2 * error), windows, windows + 2 * error

    @property
    def hours(self) -> tuple[float, ...]:
        """How long one process here would score them."""
        paces = (min(self.seconds), median(self.seconds), max(self.seconds))
        return tuple(windows * pace / 3600 for windows, pace in zip(self.windows, paces, strict=True))

    @property
    def disk_bytes(self) -> float:
        """What the folder would hold, at most."""
        return _BYTES_BESIDE_TEXT * sum(documents * one.windows * one.text_bytes for documents, one in self.known)

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values, for programs; null is what nothing tells."""
        hours = self.hours if self.seconds else None
        price = None if not hours or self.hourly_price is None else [hour * self.hourly_price for hour in hours]
        facts = {
            "sources": [asdict(one) for one in self.sources],
            "windows": self.windows,
            "seconds_a_window": self.seconds,
            "scored_by": self.scored_by,
            "hours": hours,
            "price": price,
            "disk_bytes": self.disk_bytes,
        }
        return json.loads(json.dumps(facts), parse_constant=lambda _: None)

    def __str__(self) -> str:
        rows = [("category", "documents", "sampled", "windows/doc", "windows")]
        for one in self.sources:
            documents = total = "unknown"
            if (count := one.documents) is not None:
                documents, total = f"{count:,}", _range(count * one.windows, count * one.error)
            mean = f"{one.windows:.2f} +- {2 * one.error:.2f}"
            rows.append((one.category, documents, str(one.sampled), mean, total))
        table = lay_out(rows)
        if not self.seconds:
            return "\n".join([*table, f"No document of the sample reaches {self.window_tokens} tokens."])
        low, pace, high = min(self.seconds), median(self.seconds), max(self.seconds)
        (_, windows, most), hours, whole = self.windows, self.hours, len(self.known) == len(self.sources)
        which = "All" if whole else "The sources whose size is known"
        sentences = [
            f"Scoring by {self.scored_by}: {pace:.3g} s a window (of {len(self.seconds)}: {low:.3g} to {high:.3g}).",
            f"{which}: {_range(windows, (most - windows) / 2)} windows, {windows * self.window_tokens / 1e9:.3g} "
            f"billion tokens; scoring takes about {hours[1]:.2g} hours of one process ({hours[0]:.2g} to "
            f"{hours[2]:.2g}); the folder about {self.disk_bytes / 1e9:.2g} GB at most.",
        ]
        if (price := self.hourly_price) is not None:
            least, likely, highest = (hour * price for hour in hours)
            sentences.append(f"At {price:g} an hour: {likely:.2f} ({least:.2f} to {highest:.2f}).")
        if not whole:
            sentences.append("Of the others nothing tells how many documents they hold without reading them all.")
        return "\n".join([*table, "", *map(fold, sentences)])


def estimate_build(config: EstimateSettings) -> Estimate:
    """Returns what a build would take.

    Raises:
        ValueError: A setting, a source or the model is not as it should be.
    """
    from longattn_hf.model.device import pick_device
    from longattn_hf.pipeline.run import make_transform
    from longattn_hf.pipeline.scoring import make_scorers
    from longattn_hf.pipeline.sources import open_sources

    transform, scorers = make_transform(config), make_scorers(config)
    estimates: list[SourceEstimate] = []
    sampled: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        sources = open_sources(config.sources, Path(folder) / "sources.json")
        for given, source in zip(config.sources, sources, strict=True):
            estimate, windows_of_one = sample_source(
                source, transform, count=config.sample_documents, documents=count_documents(given, source)
            )
            estimates.append(estimate)
            sampled += windows_of_one
    seconds: list[float] = []
    if sampled:
        chosen = [sampled[at] for at in np.linspace(0, len(sampled) - 1, config.sample_windows).astype(int)]
        seconds = time_scoring(scorers.values(), chosen)
    return Estimate(
        sources=estimates,
        seconds=seconds,
        scored_by=f"{', '.join(scorers)} on one process here ({pick_device()})",
        window_tokens=config.window_tokens,
        hourly_price=config.hourly_price,
    )


def _range(value: float, error: float) -> str:
    # NaN, of a single document, is not above 0
    return f"{max(0.0, value - 2 * error):,.0f} to {value + 2 * error:,.0f}" if error > 0 else f"{value:,.0f}"


def main(arguments: list[str] | None = None) -> None:
    """Runs from the command line."""
    output = Output.read(arguments)
    with refusing("estimate"):
        path, words = parse_command_line(EstimateSettings, arguments, parents=[OUTPUT])
        path = find_config(path or CONFIGS / "demo.yaml")
        values = read_yaml(path) | parse_words(EstimateSettings, words)
        config = check_settings(EstimateSettings, values, f"the configuration {path}")
        with output.speaking():
            estimate = estimate_build(config)
    output.show(estimate, estimate.facts)


if __name__ == "__main__":
    main()
