"""The end of a build, all but the kept windows the first process's: what is kept, and everything said of it."""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa

from longattn_hf.baselines.by_name import LONGATTN
from longattn_hf.columns import ID, KEPT
from longattn_hf.files import hash_json, write_text
from longattn_hf.pipeline.account import Account
from longattn_hf.pipeline.certify import Certified
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.output import OutputFile, describe_files, plan_files, write_selection
from longattn_hf.pipeline.processes import Process
from longattn_hf.pipeline.recipe import added_features, plan_report
from longattn_hf.pipeline.scoring import read_all_scores
from longattn_hf.pipeline.shards import ScoredShards
from longattn_hf.pipeline.source_pins import read_pins
from longattn_hf.report.card import render_card
from longattn_hf.report.describe import compare_conventions, describe_categories, describe_sources, software_versions
from longattn_hf.report.examples import ReadPassages, compare_scores, echoing_passage, pick_examples, pick_refused
from longattn_hf.report.facts import Report
from longattn_hf.report.html_report import render_report_page
from longattn_hf.report.parts import ModelFacts
from longattn_hf.scoring.base import Scorer
from longattn_hf.selection.standardisation import ScoreStatistics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """What the first process decided: all windows with their scores, what goes where, and a name for all of it."""

    table: pa.Table
    files: list[OutputFile]
    fingerprint: str
    certified: Certified | None


def decide(
    config: BuildConfig,
    words: str,
    shards: ScoredShards,
    scorers: Mapping[str, Scorer],
    certified: Certified | None,
    *,
    account: Account,
    process: Process,
) -> Decision | None:
    """Selects, and writes down what all processes are to write; None where the folder holds just that already.

    Raises:
        ValueError: There is no window, or as `Selection.apply`.
        OSError: As `write_selection`.
    """
    folder = shards.folder
    folder.selection.unlink(missing_ok=True)
    table = certified.table if certified else read_all_scores(config, shards, scorers, process=process)
    if not len(table):
        raise ValueError(f"No document reaches {config.window_tokens} tokens, so there is nothing to score or keep.")
    table = config.selection.apply(table)
    columns = [ID, config.selection.ranked_by, KEPT]
    fingerprint = hash_json([_hash_table(table.select(columns)), config.result, words, software_versions()])
    if folder.is_finished(fingerprint, lambda files: process.each(folder, "files compared", files, "files")):
        return None
    account.selected(table)
    if folder.staging.exists():
        shutil.rmtree(folder.staging)
    files = plan_files(table, config.categories)
    added = [name for name in added_features(config) if name in table.column_names]
    write_selection(files, table, shards, added, process=process)
    return Decision(table, files, fingerprint, certified)


def _hash_table(table: pa.Table) -> str:
    """Hashes a table by Arrow's own bytes."""
    columns = table.combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns.schema) as writer:
        writer.write_table(columns)
    return sha256(sink.getvalue()).hexdigest()


def finish(
    decision: Decision,
    config: BuildConfig,
    words: str,
    shards: ScoredShards,
    scorers: Mapping[str, Any],
    *,
    process: Process,
) -> None:
    """Writes figures, page, statistics, report and card beside the staged files, and puts everything in place.

    Raises:
        ValueError: As `BuildFolder.finish`.
        OSError: The folder is full or cannot be written to.
    """
    table, folder = decision.table, shards.folder
    staged = BuildFolder(folder.staging)
    report = _describe(decision, config, words, shards, scorers, process)
    for sentence in report.cautions:
        logger.warning("%s", sentence)

    def draw(report: Report) -> Report:
        # Matplotlib takes as long to load as all else, and a build that has nothing to do needs none
        from longattn_hf.report.figures import draw_figures

        return replace(report, figures=draw_figures(table, report, staged.path))

    def write_page(report: Report) -> Report:
        write_text(staged.page, render_report_page(table, report))
        return replace(report, page=staged.page.name)

    def write_card(report: Report) -> Report:
        if LONGATTN in scorers:
            replace(ScoreStatistics.of(table), scorer=scorers[LONGATTN].scale).save(staged.statistics)
        write_text(staged.report, report.to_json())
        write_text(staged.card, render_card(report))
        return report

    parts: list[Callable[[Report], Report]] = [draw, write_page, write_card]
    for part in process.each(folder, "report", parts, "parts"):
        report = part(report)
    folder.finish(decision.fingerprint, lambda files: process.each(folder, "files placed", files, "files"))


def _describe(
    decision: Decision,
    config: BuildConfig,
    words: str,
    shards: ScoredShards,
    scorers: Mapping[str, Any],
    process: Process,
) -> Report:
    """Fills a recipe's report in with what the run tells."""
    plan, table, selection = plan_report(config, words), decision.table, config.selection
    longattn = scorers.get(LONGATTN)
    settings: dict[str, Any] = dict(plan.settings)
    if commits := read_pins(shards.folder.sources):
        settings["source_commits"] = commits
    if longattn is not None:
        layer = longattn.load_layer()
        settings["impl"] = longattn.pick_impl(layer.device)
        sizes = {name: getattr(layer, name) for name in ("num_heads", "num_kv_heads", "head_dim", "max_positions")}
        plan = replace(
            plan,
            model=ModelFacts(**layer.identity | sizes | {"model": plan.model.model}),
            agreement=compare_conventions(table, selection),
        )

    def pick(read_passages: ReadPassages) -> dict[str, Any]:
        given = table, selection, plan.scores, read_passages
        return {"others": compare_scores(*given), "examples": pick_examples(*given), "refused": pick_refused(*given)}

    return replace(
        plan,
        not_run=False,
        settings=settings,
        software=software_versions(),
        certificate=decision.certified.describe(table[KEPT]) if decision.certified else None,
        categories=dict(describe_categories(table, shards.counts, selection, plan.scores)),
        sources=describe_sources(table, shards.counts),
        configs=describe_files(decision.files, shards.folder.staging),
        figures=[],
        **_with_passages(pick, shards, longattn, process),
    )


def _with_passages(
    pick: Callable[[ReadPassages], dict[str, Any]], shards: ScoredShards, longattn: Any, process: Process
) -> dict[str, Any]:
    """Picks examples twice: to know which windows they are, and with the passage of each, which is read once."""
    rows: set[int] = set()

    def note(some: np.ndarray) -> list[tuple[str, float | None]]:
        rows.update(some.tolist())
        return [("", None)] * len(some)

    def read(row: int) -> tuple[str, float | None]:
        (text,) = shards.read_texts(np.array([row]))
        if longattn is None:
            return echoing_passage(text), None
        # torch, which builds without attention do not need
        from longattn_hf.scoring.passages import find_passages

        (passage,) = find_passages(longattn, [text])
        return passage

    pick(note)
    passages = {row: read(row) for row in process.each(shards.folder, "examples", sorted(rows), "windows")}
    return pick(lambda some: [passages[row] for row in some.tolist()])
