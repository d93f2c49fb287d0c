"""Builds a long-context data set: documents, windows, scores, selection, card.

    accelerate launch recipes/build_longabc.py [--config FILE] [--any_setting VALUE]

Without arguments it builds the embedded demo. The same command after a kill goes on where it stopped, with any number
of processes; on a finished build it does nothing; with another alpha, fraction, threshold or budget it selects again
without scoring.
"""

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from datasets.utils import disable_progress_bars

from longattn_hf.columns import KEPT, LONG_DISTANCE_SCORE
from longattn_hf.hub.publishing import publish
from longattn_hf.model.packaged_models import model_name, resolve_model
from longattn_hf.pipeline import output
from longattn_hf.pipeline.config import BuildConfig, SourceConfig, hide_paths, read_build
from longattn_hf.pipeline.shards import hash_json
from longattn_hf.pipeline.sources import open_documents, open_source, pin_sources, shareable_recipe
from longattn_hf.pipeline.stages import Process, Source, score_windows, window_sources, windowed_shards
from longattn_hf.report import facts as report
from longattn_hf.report.card import render_card
from longattn_hf.report.figures import draw_figures
from longattn_hf.report.html_report import write_report_page
from longattn_hf.scoring.longattn import LongAttnScorer
from longattn_hf.selection.standardisation import ScoreStatistics
from longattn_hf.windows import WindowDocuments

CONFIGS = Path(__file__).parent / "configs"


def main(arguments: list[str] | None = None) -> None:
    """Runs a build from the command line."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        config, words = read_build(arguments, default_config=CONFIGS / "demo.yaml")
        # processes meet only between stages, and an uneven share of work may take long
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=30))
        if state.device.type == "cpu" and torch.get_num_threads() == 1:
            # `accelerate launch` gives a process one thread unless told otherwise; scores do not depend on the number
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
        build(config, words, Process(state.process_index, state.num_processes), state.wait_for_everyone)
    except (ValueError, OSError) as error:
        sys.exit(f"build_longabc: {error}")


def build(config: BuildConfig, words: str, process: Process, wait: Callable[[], None]) -> None:
    """Runs all stages of a build as one of several processes; each stage's product is reused where it is still right.

    Args:
        config: The settings.
        words: The command line's words, for the card.
        process: This process.
        wait: Returns when all processes have called it.

    Raises:
        ValueError: A setting, a document or a score is not as it should be, or the output holds another build.
        OSError: The output directory is full or cannot be written to.
    """
    start = time.monotonic()
    disable_progress_bars()
    say = print if process.index == 0 else lambda *_: None
    windows, scores = config.folder / "work" / "windows", config.folder / "work" / "scores"
    if process.index == 0:
        guard_output(config)
        pin_sources(config.sources, pins(config))
    wait()
    sources = open_sources(config)
    model = resolve_model(config.model)
    transform = WindowDocuments(
        tokenizer=model,
        revision=config.revision,
        gguf_file=config.gguf_file,
        window_tokens=config.window_tokens,
        on_error=config.on_error,
    )
    window_sources(sources, transform, windows, documents_per_shard=config.documents_per_shard, process=process)
    wait()
    names = windowed_shards(sources, windows)
    scorer = make_scorer(config, model)
    scored = score_windows(names, windows, scores, scorer, process=process)
    wait()
    table, shard_of_row = output.load_scores(names, scores)
    if not len(table):
        raise ValueError(f"No document reaches {config.window_tokens} tokens, so there is nothing to score or keep.")
    table = select(table, config)
    files = output.plan_files(table, config.categories)
    facts = partial(describe, table, shard_of_row, names, windows, files, config=config, words=words, scorer=scorer)
    fingerprint = hash_json([table_hash(table), config.result, words, report.software_versions()])
    if not is_finished(config.folder, fingerprint):
        staging = config.folder / "work" / "staging"
        if process.index == 0 and staging.exists():
            shutil.rmtree(staging)
        wait()
        output.write_files(files, table, shard_of_row, names, windows, staging, process=process)
        wait()
        if process.index == 0:
            finish(table, facts, staging, config.folder, fingerprint)
    if process.index == 0:
        if config.push_to_hub:
            say(release(config))
        say(summary(json.loads((config.folder / "report.json").read_text())))
        say(f"\n{config.folder}: {scored} windows scored by this process, {time.monotonic() - start:.0f} s in all")


def guard_output(config: BuildConfig) -> None:
    """Claims the output directory for these settings.

    Raises:
        ValueError: It holds a build with other settings, and `overwrite` is off.
        OSError: It cannot be written to.
    """
    claim = config.folder / "work" / "settings.json"
    settings = json.loads(json.dumps(config.work))
    try:
        if config.overwrite and config.folder.exists():
            shutil.rmtree(config.folder)
        claim.parent.mkdir(parents=True, exist_ok=True)
        if claim.exists():
            before = json.loads(claim.read_text())
            changed = [name for name in settings if before.get(name) != settings[name]]
            if changed:
                told = "; ".join(f"{name} was {before.get(name)!r} and is now {settings[name]!r}" for name in changed)
                raise ValueError(
                    f"{config.folder} holds a build with other settings: {told}. Choose another output_dir, or pass "
                    "--overwrite true to discard that build."
                )
        temporary = claim.with_suffix(".tmp")
        temporary.write_text(json.dumps(settings, indent=1) + "\n")
        temporary.replace(claim)
    except OSError as error:
        raise OSError(
            error.errno, f"Cannot write to {config.folder}: {error.strerror}; choose another output_dir"
        ) from error


def open_sources(config: BuildConfig) -> list[Source]:
    """Opens all sources; the embedded demo's documents are read once."""
    demo: list[dict[str, Any]] = []
    if any(source.path == "demo" for source in config.sources):
        from longattn_hf.pipeline.demo_corpus import demo_documents

        demo = list(demo_documents())

    def open_one(source: SourceConfig) -> Source:
        if source.path != "demo":
            return open_source(source)
        return open_documents(source, [row for row in demo if row["category"] == source.category])

    return [open_one(source) for source in pin_sources(config.sources, pins(config))]


def pins(config: BuildConfig) -> Path:
    """The file that keeps the commits of the sources on the Hub."""
    return config.folder / "work" / "sources.json"


def make_scorer(config: BuildConfig, model: str) -> LongAttnScorer:
    """Returns the scorer of a build."""
    return LongAttnScorer(
        model,
        revision=config.revision,
        gguf_file=config.gguf_file,
        convention=config.convention,
        min_distance=config.resolved_min_distance,
        rope_theta=config.rope_theta,
        rope_scaling=config.rope_scaling,
        dtype=config.dtype,
        impl=config.impl,
        add_bos=config.add_bos,
        row_fraction=config.row_fraction,
        seed=config.seed,
        per_head=config.per_head,
        window_tokens=config.window_tokens,
        on_error=config.on_error,
        batch_tokens=config.batch_tokens,
    )


def select(table: pa.Table, config: BuildConfig) -> pa.Table:
    """Adds the long-distance score and whether each window is kept."""
    return config.selection.apply(table)


def table_hash(table: pa.Table) -> str:
    """Hashes a score table's content."""
    return hash_json([table[name].to_pylist() for name in ("id", LONG_DISTANCE_SCORE, KEPT)])


def describe_recipe(config: BuildConfig, words: str) -> dict[str, Any]:
    """Returns those of the report's facts that are known before a run."""
    hidden = ("sources", "name", "pretty_name", "description", "data_version", "language")
    settings = {name: hide_paths(value) for name, value in config.result.items() if name not in hidden}
    return {
        "name": config.name,
        "pretty_name": config.pretty_name or config.name,
        "version": config.data_version,
        "description": config.description,
        "language": list(config.language),
        "tags": ["long-context", "data-selection", "longattn"],
        "command": " ".join(["accelerate launch recipes/build_longabc.py", words]).strip(),
        "convention": config.convention,
        "settings": settings | {"model": model_name(config.model), "min_distance": config.resolved_min_distance},
        "default_config": config.categories[0],
        "recipe": shareable_recipe(config),
    }


def describe(
    table: pa.Table,
    shard_of_row: np.ndarray,
    names: list[str],
    windows: Path,
    files: list[output.OutputFile],
    staging: Path,
    *,
    config: BuildConfig,
    words: str,
    scorer: LongAttnScorer,
) -> dict[str, Any]:
    """Gathers the report's facts."""
    counts = report.count_documents(names, windows)
    configs = output.describe_files(files, staging)
    layer = scorer.load_layer()
    recipe = describe_recipe(config, words)
    recipe["settings"]["impl"] = scorer.pick_impl(layer.device)
    if commits := json.loads(pins(config).read_text()) if pins(config).exists() else {}:
        recipe["settings"]["source_commits"] = commits
    return recipe | {
        "software": report.software_versions(),
        "model": {
            **layer.identity,
            "model": model_name(config.model),
            **{name: getattr(layer, name) for name in ("num_heads", "num_kv_heads", "head_dim", "max_positions")},
        },
        "categories": report.describe_categories(table, counts),
        "sources": report.describe_sources(table, counts),
        "agreement": report.compare_conventions(table, convention=config.convention, alpha=config.alpha),
        "examples": report.pick_examples(table, lambda rows: output.read_texts(rows, shard_of_row, names, windows)),
        "configs": configs,
    }


def finish(
    table: pa.Table, facts: Callable[[Path], dict[str, Any]], staging: Path, folder: Path, fingerprint: str
) -> None:
    """Writes figures, page, statistics, report and card beside the staged files, and puts everything in place."""
    found = facts(staging)
    found["figures"] = draw_figures(table, found, staging)
    found["page"] = write_report_page(table, found, staging)
    ScoreStatistics.of(table).save(staging / "statistics.json")
    (staging / "report.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (staging / "README.md").write_text(render_card(found), encoding="utf-8")
    sizes = {
        path.relative_to(staging).as_posix(): path.stat().st_size for path in staging.rglob("*") if path.is_file()
    }
    output.put_in_place(staging, folder)
    staging.rmdir()
    (folder / "work" / "finished.json").write_text(json.dumps({"fingerprint": fingerprint, "sizes": sizes}))


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Says whether the folder holds this very build, every file at its full size."""
    try:
        mark = json.loads((folder / "work" / "finished.json").read_text())
        return mark["fingerprint"] == fingerprint and all(
            (folder / name).stat().st_size == size for name, size in mark["sizes"].items()
        )
    except (OSError, json.JSONDecodeError, KeyError):
        return False


def release(config: BuildConfig) -> str:
    """Publishes the finished build, and says what came of it."""
    done = publish(
        config.folder,
        config.push_to_hub,
        revision=config.hub_revision,
        create_pr=config.create_pr,
        private=config.private,
        tag=config.tag,
        dry_run=config.dry_run,
    )
    return str(done)


def summary(found: dict[str, Any]) -> str:
    """Lays out the table that a build ends with."""
    head = ("category", "documents", "windows", "kept", "kept tokens", "DS min/mean/max", "DU min/mean/max", "cut")
    rows = [head]
    for name, facts in found["categories"].items():
        strength, uniformity = facts["dependency_strength"], facts["distribution_uniformity"]
        spread = [
            "/".join("-" if values[end] is None else format(values[end], form) for end in ("min", "mean", "max"))
            for values, form in ((strength, ".3f"), (uniformity, ".2e"))
        ]
        cut = "-" if facts["cut"] is None else f"{facts['cut']:.3f}"
        counts = (facts["documents"], facts["windows"], facts["kept_windows"], facts["kept_tokens"])
        rows.append((name, *(f"{count:,}" for count in counts), *spread, cut))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    main()
