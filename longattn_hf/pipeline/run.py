"""The whole build: documents, windows, scores, selection, card."""

import shutil
import socket
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
from datasets.utils import disable_progress_bars

from longattn_hf.baselines.by_name import LONGATTN
from longattn_hf.columns import ID, KEPT
from longattn_hf.files import hash_json, write_text
from longattn_hf.hub.access import check_access
from longattn_hf.hub.publishing import Publication, publish
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.account import Account
from longattn_hf.pipeline.certify import Certified, certify_cut
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.engine import start_engine
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.output import OutputFile, describe_files, plan_files, write_kept, write_selection
from longattn_hf.pipeline.processes import Process
from longattn_hf.pipeline.recipe import added_features, plan_report
from longattn_hf.pipeline.result import BuildResult
from longattn_hf.pipeline.scoring import fingerprints_of, make_scorers, read_all_scores, score_windows
from longattn_hf.pipeline.shards import ScoredShards
from longattn_hf.pipeline.so_far import write_plan
from longattn_hf.pipeline.sources import open_sources, pin_sources, read_pins
from longattn_hf.pipeline.stages import window_sources, windowed_shards
from longattn_hf.pipeline.traces import describe_inputs, is_untouched, remember
from longattn_hf.report.card import render_card
from longattn_hf.report.describe import (
    compare_conventions,
    describe_categories,
    describe_sources,
    software_versions,
)
from longattn_hf.report.examples import compare_scores, echoing_passage, pick_examples, pick_refused
from longattn_hf.report.facts import Report
from longattn_hf.report.html_report import write_report_page
from longattn_hf.report.parts import ModelFacts
from longattn_hf.scoring.base import Scorer
from longattn_hf.selection.standardisation import ScoreStatistics
from longattn_hf.windows import WindowDocuments


def build(config: BuildConfig, *, words: str = "", engine: Process | None = None) -> BuildResult:
    """Runs all stages of a build; each stage's product is reused where it is still right.

    Args:
        config: The settings.
        words: The command line's words, for the card.
        engine: What does the work: this process of several, or an engine that has workers; see `start_engine` if None.

    Raises:
        ValueError: A setting, a document or a score is not as it should be, or the output holds another build.
        OSError: The output folder is full or cannot be written to.
    """
    process = engine or start_engine(config)
    disable_progress_bars()
    if config.push_to_hub and not config.dry_run and process.index == 0:
        check_access(config.push_to_hub, private=config.private)
    folder = config.build_folder
    # the first process keeps the folder for all
    with folder.owned() if process.index == 0 else nullcontext():
        # several processes could find different things
        inputs = describe_inputs(config, words, folder) if process.count == 1 else None
        account = Account(config, folder, process)
        if is_untouched(inputs, folder):
            result = BuildResult(folder=folder.path, scored_windows=0, is_new=False)
        else:
            result = _build(config, words, folder, process, account)
            process.wait()
            if process.index == 0:
                remember(inputs, folder)
    if not config.push_to_hub or process.index:
        return result
    account.begin("publish")
    return replace(result, published=_release(config, config.push_to_hub))


def _build(config: BuildConfig, words: str, folder: BuildFolder, process: Process, account: Account) -> BuildResult:
    """Runs all stages."""
    # settings, models and statistics are refused before anything is read
    scorers = make_scorers(config)
    for scorer in scorers.values():
        scorer.prepare()
    load_tokenizer_once(make_transform(config).model_ref)
    if (given := config.selection.statistics) is not None:
        longattn: Any = scorers[LONGATTN]
        given.refuse_unless_made_by(longattn.scale, f"The statistics {config.statistics}")
    if process.index == 0:
        folder.claim(config.work, overwrite=config.overwrite)
        # those of an earlier run say nothing of this one's
        shutil.rmtree(folder.heartbeats, ignore_errors=True)
        write_plan(folder, config, fingerprints_of(scorers))
        pin_sources(config.sources, folder.sources)
    process.wait()
    if not folder.settings.exists():
        raise ValueError(
            f"Process {process.index} on {socket.gethostname()} does not see {folder.path} as the first process does: "
            f"all processes of a build share its folder; {folder.elsewhere}."
        )
    account.begin("window")
    shards = _window(config, folder, process, account)
    account.begin("score")
    scored = score_windows(shards, scorers, process=process)
    process.wait()
    if process.index == 0:
        account.scored(shards)
    certified = None
    if config.certify:
        account.begin("certify")
        again, certified = certify_cut(config, shards, scorers, process=process)
        scored += again
    account.begin("select")
    decision = _decide(config, words, shards, scorers, certified, account) if process.index == 0 else None
    process.wait()
    if folder.selection.exists():
        account.begin("write")
        write_kept(shards, process=process)
        process.wait()
        if decision:
            _finish(decision, config, words, shards, scorers)
    return BuildResult(
        folder=folder.path,
        scored_windows=scored,
        reused=account.reused,
        changes=account.changes,
        is_new=decision is not None,
    )


def _window(config: BuildConfig, folder: BuildFolder, process: Process, account: Account) -> ScoredShards:
    """Cuts this process's share of the documents, and returns the list of all shards once they are there."""
    sources = open_sources(config.sources, folder.sources)
    window_sources(
        sources,
        make_transform(config),
        folder,
        documents_per_shard=config.documents_per_shard,
        process=process,
    )
    process.wait()
    if process.index == 0:
        made = windowed_shards(sources, folder.windows)
        account.windowed(made)
        ScoredShards.gather(folder, made).save()
    process.wait()
    return ScoredShards.load(folder)


def make_transform(config: BuildConfig) -> WindowDocuments:
    """Returns what cuts a build's documents; text column and category are each source's."""
    return WindowDocuments(
        tokenizer=config.model,
        revision=config.revision,
        gguf_file=config.gguf_file,
        window_tokens=config.window_tokens,
        on_error=config.on_error,
        max_document_characters=config.max_document_characters,
    )


@dataclass(frozen=True)
class _Decision:
    """What the first process decided: all windows with their scores, what goes where, and a name for all of it."""

    table: pa.Table
    files: list[OutputFile]
    fingerprint: str
    certified: Certified | None


def _decide(
    config: BuildConfig,
    words: str,
    shards: ScoredShards,
    scorers: Mapping[str, Scorer],
    certified: Certified | None,
    account: Account,
) -> _Decision | None:
    """Selects, and writes down what all processes are to write; None where the folder holds just that already."""
    folder = shards.folder
    folder.selection.unlink(missing_ok=True)
    table = certified.table if certified else read_all_scores(config, shards, scorers)
    if not len(table):
        raise ValueError(f"No document reaches {config.window_tokens} tokens, so there is nothing to score or keep.")
    table = config.selection.apply(table)
    columns = [ID, config.selection.ranked_by, KEPT]
    fingerprint = hash_json([_hash_table(table.select(columns)), config.result, words, software_versions()])
    if folder.is_finished(fingerprint):
        return None
    account.selected(table)
    if folder.staging.exists():
        shutil.rmtree(folder.staging)
    files = plan_files(table, config.categories)
    write_selection(files, table, shards, [name for name in added_features(config) if name in table.column_names])
    return _Decision(table, files, fingerprint, certified)


def _hash_table(table: pa.Table) -> str:
    """Hashes a table by Arrow's own bytes."""
    columns = table.combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns.schema) as writer:
        writer.write_table(columns)
    return sha256(sink.getvalue()).hexdigest()


def _finish(
    decision: _Decision, config: BuildConfig, words: str, shards: ScoredShards, scorers: Mapping[str, Any]
) -> None:
    """Writes figures, page, statistics, report and card beside the staged files, and puts everything in place."""
    # Matplotlib takes as long to load as all else, and a build that has nothing to do needs none
    from longattn_hf.report.figures import draw_figures

    table, folder = decision.table, shards.folder
    staged = BuildFolder(folder.staging)
    report = _describe(decision, config, words, shards, scorers)
    report = replace(report, figures=draw_figures(table, report, staged.path))
    report = replace(report, page=write_report_page(table, report, staged.path))
    if LONGATTN in scorers:
        replace(ScoreStatistics.of(table), scorer=scorers[LONGATTN].scale).save(staged.statistics)
    write_text(staged.report, report.to_json())
    write_text(staged.card, render_card(report))
    folder.finish(decision.fingerprint)


def _describe(
    decision: _Decision, config: BuildConfig, words: str, shards: ScoredShards, scorers: Mapping[str, Any]
) -> Report:
    """Fills a recipe's report in with what the run tells."""
    plan, table, selection = plan_report(config, words), decision.table, config.selection
    longattn = scorers.get(LONGATTN)
    settings: dict[str, Any] = dict(plan.settings)
    if commits := read_pins(shards.folder.sources):
        settings["source_commits"] = commits

    def read_passages(rows: np.ndarray) -> list[tuple[str, float | None]]:
        texts = shards.read_texts(rows)
        if longattn is None:
            return [(echoing_passage(text), None) for text in texts]
        # torch, which builds without attention do not need
        from longattn_hf.scoring.passages import find_passages

        return find_passages(longattn, texts)

    if longattn is not None:
        layer = longattn.load_layer()
        settings["impl"] = longattn.pick_impl(layer.device)
        sizes = {name: getattr(layer, name) for name in ("num_heads", "num_kv_heads", "head_dim", "max_positions")}
        plan = replace(
            plan,
            model=ModelFacts(**layer.identity | sizes | {"model": plan.model.model}),
            agreement=compare_conventions(table, selection),
        )
    return replace(
        plan,
        not_run=False,
        settings=settings,
        software=software_versions(),
        certificate=decision.certified.describe(table[KEPT]) if decision.certified else None,
        categories=dict(describe_categories(table, shards.counts, selection, plan.scores)),
        sources=describe_sources(table, shards.counts),
        others=compare_scores(table, selection, plan.scores, read_passages),
        examples=pick_examples(table, selection, plan.scores, read_passages),
        refused=pick_refused(table, selection, plan.scores, read_passages),
        configs=describe_files(decision.files, shards.folder.staging),
        figures=[],
    )


def _release(config: BuildConfig, repo_id: str) -> Publication:
    """Publishes the finished build."""
    return publish(
        config.folder,
        repo_id,
        revision=config.hub_revision,
        create_pr=config.create_pr,
        private=config.private,
        tag=config.tag,
        dry_run=config.dry_run,
    )
