"""The whole build: documents, windows, scores, selection, card."""

import shutil
import socket
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from datasets.utils import disable_progress_bars

from longattn_hf.baselines.by_name import LONGATTN
from longattn_hf.hub.access import check_access
from longattn_hf.hub.publishing import Publication, publish
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.account import Account
from longattn_hf.pipeline.certify import certify_cut
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.engine import start_engine
from longattn_hf.pipeline.finish import decide, finish
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.output import write_kept
from longattn_hf.pipeline.processes import Process
from longattn_hf.pipeline.result import BuildResult
from longattn_hf.pipeline.scoring import fingerprints_of, make_scorers, score_windows
from longattn_hf.pipeline.shards import ScoredShards
from longattn_hf.pipeline.so_far import write_plan
from longattn_hf.pipeline.source_pins import pin_sources
from longattn_hf.pipeline.sources import open_sources
from longattn_hf.pipeline.stages import window_sources, windowed_shards
from longattn_hf.pipeline.traces import describe_inputs, is_untouched, remember
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
        inputs = describe_inputs(config, words, folder) if process.index == 0 else None
        account = Account(config, folder, process)
        # several processes could find different things: what the first one does holds
        if process.tell(is_untouched(inputs, folder)):
            result = BuildResult(folder=folder.path, scored_windows=0, is_new=False)
        else:
            result = process.tell(_build(config, words, folder, process, account))
            if process.index == 0:
                remember(inputs, folder)
    if not config.push_to_hub or process.index:
        return result
    account.begin("publish")
    return replace(result, published=_release(config, config.push_to_hub))


def _build(config: BuildConfig, words: str, folder: BuildFolder, process: Process, account: Account) -> BuildResult:
    """Runs all stages; what the first process returns holds for all."""
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
    score_windows(shards, scorers, process=process)
    process.wait()
    if process.index == 0:
        account.scored(shards)
    certified = None
    if config.certify:
        account.begin("certify")
        certified = certify_cut(config, shards, scorers, process=process)
        if certified:
            account.certified(certified)
    account.begin("select")
    decision = None
    if process.index == 0:
        decision = decide(config, words, shards, scorers, certified, account=account, process=process)
    process.wait()
    if folder.selection.exists():
        account.begin("write")
        write_kept(shards, process=process)
        process.wait()
        if decision:
            finish(decision, config, words, shards, scorers, process=process)
    return BuildResult(
        folder=folder.path,
        scored_windows=account.scored_windows,
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
