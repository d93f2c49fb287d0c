"""Does selecting pay? Equal tokens chosen by each score, a model trained on each, and what the models make of them.

    python -m recipes.compare_selections --config recipes/configs/compare_smollm2.yaml

Documents are split into those to select from and those held out, the former cut into windows and scored; the best
windows by each score, as many tokens of each category for all, train one model a seed; every model is evaluated by
evaluate_model.py. Written are `comparison.json` and `comparison.md`: means over the seeds with 95% intervals, and
differences to random selection paired by seed; after every seed, those of the seeds so far. The same command after a
kill goes on where it stopped; of a run that is evaluated it needs `evaluation.json` alone.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from datasets import Dataset, concatenate_datasets, load_dataset
from datasets.utils import disable_progress_bars

from longattn_hf.baselines import RandomScore
from longattn_hf.columns import CATEGORY, INPUT_IDS, LONG_DISTANCE_SCORE, TEXT
from longattn_hf.files import as_pattern, claim
from longattn_hf.model.tokenizer import load_tokenizer
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import Several, check_settings, each, read_command_line, settings
from longattn_hf.pipeline.source_config import SourceConfig
from longattn_hf.pipeline.sources import open_source
from longattn_hf.report.describe import software_versions
from longattn_hf.selection.select import select_windows
from longattn_hf.windows import WindowDocuments
from recipes.evaluate_model import EvaluateConfig, evaluate_model
from recipes.intervals import Estimate, mean_over_runs
from recipes.scores import CHEAP_SCORES, SCORES, Model
from recipes.train_longattn import SETTINGS, TrainConfig, TrainSource, train
from recipes.training.collages import deal_collages
from recipes.training.scratch import ScratchConfig, save_scratch_models

# of the scores that add several columns, the one to select by
_SELECT_BY = {"longattn": LONG_DISTANCE_SCORE, "gzip": "gzip_middle"}
_UNTRAINED, _RANDOM, _COLLAGE = "untrained", "random", "collage"
# what is known before a model has learnt anything
_NEED_NO_MODEL = {*CHEAP_SCORES, _COLLAGE} - {"longattn"}


@settings
class CompareConfig:
    """All settings of a comparison.

    Attributes:
        documents: The corpus, as a build's `sources`.
        output_dir: Receives everything.
        token_budget: Tokens of each category that each score keeps.
        model: The model to train: a Hub id, a local directory, a GGUF file, or `package:NAME/FILE`.
        scratch: In place of `model`, the sizes of one to train from scratch, `training.scratch.ScratchConfig`: its
            tokenizer is trained on the documents to select from, its weights are drawn anew for each seed.
        scorer: The model that scores; `model` if None.
        scores: Names of `scores.SCORES`; `random` is among them. And `collage`: the windows of `random` cut into
            passages that are put together to windows anew, each passage of one being of another document.
        collage_tokens: The passages' length.
        window_tokens: The windows' length, for scoring, training and the losses.
        held_out: The share of the documents that is kept for the evaluation.
        long_share: The share of the training tokens that the selections make up; the rest is `short`.
        short: Sources of short texts, as in a training configuration; none if empty.
        seeds: Of the training runs, and of the random selections.
        train: Further settings of `train_longattn.TrainConfig`, among them `tokens`.
        evaluate: Further settings of `evaluate_model.EvaluateConfig`.
        note: A sentence for the table, such as what the documents are.
    """

    documents: Annotated[Several[SourceConfig], each(SourceConfig, "a source of documents")]
    output_dir: str
    token_budget: int
    model: str | None = None
    scratch: dict[str, Any] = field(default_factory=dict)
    scorer: str | None = None
    scores: Several[str] = tuple(SCORES)
    collage_tokens: int = 512
    window_tokens: int = 32768
    held_out: float = 0.2
    long_share: float = 0.9
    short: Annotated[Several[TrainSource], each(TrainSource, "a source of short")] = ()
    seeds: Several[int] = (0, 1, 2)
    train: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        known = (*SCORES, _COLLAGE)
        if set(self.scores) - set(known) or _RANDOM not in self.scores:
            raise ValueError(
                f"scores={list(self.scores)} must hold 'random', to compare with, and others of {', '.join(known)}."
            )
        if bool(self.model) == bool(self.scratch):
            raise ValueError(f"Give either model= or scratch=, not model={self.model!r} and scratch={self.scratch}.")
        if self.scratch:
            check_settings(ScratchConfig, self.scratch, "scratch")
            if not self.scorer and (blind := set(self.scores) - _NEED_NO_MODEL):
                raise ValueError(f"{', '.join(sorted(blind))} need a model that has learnt something: give scorer=.")
        if self.collage_tokens < 1:
            raise ValueError(f"collage_tokens={self.collage_tokens} must be positive.")
        if not self.documents or not self.seeds:
            raise ValueError("Give at least one source of documents and one seed.")
        # what is wrong in `train` and `evaluate` shows now, not after hours of scoring
        categories = list(dict.fromkeys(source.category for source in self.documents))
        training(self, Path(), Path(), self.seeds[0], categories)
        evaluation(self, Path(), self.start(self.seeds[0]), Path(), categories)

    def start(self, seed: int) -> str:
        """The model that the training with a seed starts from."""
        return self.model or str(Path(self.output_dir) / "scratch" / str(seed))

    @property
    def scoring_model(self) -> str:
        """The model that scores and tokenises."""
        return self.scorer or self.start(self.seeds[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Compares from the command line."""
    disable_progress_bars()
    with refusing("compare_selections"):
        print(compare(read_command_line(CompareConfig, arguments, description=__doc__)))


def compare(config: CompareConfig) -> str:
    """Selects, trains, evaluates and tabulates; what an earlier call finished is taken over.

    Returns:
        The table, in Markdown.

    Raises:
        ValueError: A setting or a source is not as it should be, or a category has too few windows for the budget.
    """
    folder = Path(config.output_dir)
    claim(folder / SETTINGS, {name: v for name, v in asdict(config).items() if name != "output_dir"}, folder=folder)
    categories = once(folder / "documents", lambda path: split_documents(config, path))
    if config.scratch:
        once(folder / "scratch", lambda path: start_from_scratch(config, folder / "documents", path))
    once(folder / "selections", lambda path: select_all(config, folder / "documents", path))
    measured: dict[str, list[dict[str, float]]] = {}
    for seed in config.seeds:
        for score in (*((_UNTRAINED,) if seed == config.seeds[0] else ()), *config.scores):
            run = folder / "runs" / f"{score}-{seed}"
            report = run / "evaluation.json"
            # the model of a run that is evaluated may be deleted, or lie on another machine
            if not report.exists():
                print(f"{run}: {'evaluating' if score == _UNTRAINED else 'training and evaluating'}", flush=True)
                model, selection = config.start(seed), folder / "selections" / f"{score}-{seed}"
                if score != _UNTRAINED:
                    model = str(train(training(config, selection, run, seed, categories)))
                evaluate_model(evaluation(config, folder / "documents", model, report, categories))
            measured.setdefault(score, []).append(measures_of(json.loads(report.read_text())))
        table = tabulate(config, measured, folder)
    return table


def once(folder: Path, make: Callable[[Path], Any]) -> list[str]:
    """Fills a folder unless it is there, whole or not at all; returns the names of what it holds, without endings."""
    if not folder.exists():
        staging = folder.with_name(f".{folder.name}")
        shutil.rmtree(staging, ignore_errors=True)
        make(staging)
        staging.rename(folder)
    return sorted({path.stem for path in folder.rglob("*.jsonl")})


def split_documents(config: CompareConfig, folder: Path) -> None:
    """Writes each category's documents, those held out apart from those to select from; equal ones count once."""
    texts: dict[str, dict[str, str]] = {}
    for source in map(open_source, config.documents):
        of_category = texts.setdefault(source.category, {})
        for row in source.stream if source.max_documents is None else source.stream.take(source.max_documents):
            text = row[source.text_column]
            if text:
                of_category[sha256(text.encode("utf-8", "surrogatepass")).hexdigest()] = text
    for category, of_category in texts.items():
        # the order of the hashes is as good as random, and the same for any order of the documents
        ordered = [of_category[digest] for digest in sorted(of_category)]
        cut = math.ceil(config.held_out * len(ordered))
        for name, part in (("held_out", ordered[:cut]), ("select", ordered[cut:])):
            if not part:
                raise ValueError(f"None of {len(ordered)} documents of {category!r} falls to {name}; give more.")
            path = folder / name / f"{category}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps({TEXT: text}) + "\n" for text in part))


def start_from_scratch(config: CompareConfig, documents: Path, folder: Path) -> None:
    """Trains a tokenizer on the documents to select from, and writes a model with random weights for each seed."""
    files = [as_pattern(str(path)) for path in sorted((documents / "select").glob("*.jsonl"))]
    save_scratch_models(
        check_settings(ScratchConfig, config.scratch, "scratch"),
        (row[TEXT] for row in load_dataset("json", data_files=files, split="train", streaming=True)),
        folder,
        window_tokens=config.window_tokens,
        seeds=config.seeds,
    )


def select_all(config: CompareConfig, documents: Path, folder: Path) -> None:
    """Scores the windows by each score and writes the best, equally many tokens for all.

    Raises:
        ValueError: A category has too few windows that do not overlap.
    """
    parts = []
    for path in sorted((documents / "select").glob("*.jsonl")):
        cut = WindowDocuments(tokenizer=config.scoring_model, window_tokens=config.window_tokens, category=path.stem)
        texts = Dataset.from_json(as_pattern(str(path)))
        parts.append(texts.map(cut, batched=True, batch_size=4, remove_columns=texts.column_names))
    windows = concatenate_datasets(parts)
    whole = config.token_budget // config.window_tokens * config.window_tokens
    for score in config.scores:
        # collages are made beside the random windows that they are of
        for seed in config.seeds if score != _COLLAGE else ():
            if score == _RANDOM or seed == config.seeds[0]:
                scored = windows.add_column(LONG_DISTANCE_SCORE, values_of(score, windows, config, seed))
                kept = select_windows(scored, token_budget=config.token_budget, refuse_overlap=True)
                for category in sorted(set(windows[CATEGORY])):
                    best = kept.filter(lambda row, category=category: row[CATEGORY] == category)
                    if sum(best["num_tokens"]) < max(whole, 1):
                        raise ValueError(
                            f"{category!r} holds {sum(best['num_tokens'])} tokens in windows that do not overlap, "
                            f"fewer than the budget of {config.token_budget}: lower it, or give more documents."
                        )
                    best.remove_columns([INPUT_IDS]).to_json(folder / f"{score}-{seed}" / f"{category}.jsonl")
                    if score == _RANDOM and _COLLAGE in config.scores:
                        tokenizer = load_tokenizer(config.scoring_model)
                        collages = deal_collages(best, tokenizer, tokens=config.collage_tokens)
                        collages.to_json(folder / f"{_COLLAGE}-{seed}" / f"{category}.jsonl")
            else:
                shutil.copytree(folder / f"{score}-{config.seeds[0]}", folder / f"{score}-{seed}")


def values_of(score: str, windows: Dataset, config: CompareConfig, seed: int) -> np.ndarray:
    """Scores all windows: float64 `[len(windows)]`, larger being better within a category."""
    transform = SCORES[score].make(Model(name=config.scoring_model))
    if score == _RANDOM:
        transform = RandomScore(seed=seed)
    added = windows.map(transform, batched=True, batch_size=4, remove_columns=windows.column_names)
    columns = {name: np.asarray(added[name], dtype=np.float64) for name in added.column_names}
    columns = SCORES[score].columns(columns, np.asarray(windows[CATEGORY]))
    return columns[_SELECT_BY.get(score, next(iter(columns)))]


def training(config: CompareConfig, selection: Path, run: Path, seed: int, categories: Sequence[str]) -> TrainConfig:
    """The training run on a selection: all categories alike, and the short texts."""
    share = (config.long_share if config.short else 1.0) / len(categories)
    long = [
        {"weight": share, "category": name, "path": "json", "data_files": str(selection / f"{name}.jsonl")}
        for name in categories
    ]
    total = sum(source.weight for source in config.short)
    short = [replace(source, weight=(1 - config.long_share) * source.weight / total) for source in config.short]
    values = {"window_tokens": config.window_tokens, "seed": seed, "output_dir": str(run)} | config.train
    return check_settings(TrainConfig, {"model": config.start(seed), "sources": [*long, *short]} | values, "train")


def evaluation(
    config: CompareConfig, documents: Path, model: str, report: Path, categories: Sequence[str]
) -> EvaluateConfig:
    """The evaluation of a model on the documents held out."""
    held_out = [
        {"category": name, "path": "json", "data_files": str(documents / "held_out" / f"{name}.jsonl")}
        for name in categories
    ]
    values = {"window_tokens": config.window_tokens, "documents": held_out} | config.evaluate
    return check_settings(EvaluateConfig, {"model": model, "output": str(report)} | values, "evaluate")


def measures_of(report: Mapping[str, Any]) -> dict[str, float]:
    """Boils an evaluation down: losses averaged over categories, needles over tasks, benchmarks as they are."""
    losses = report["loss"].values()
    measures = {
        "loss": float(np.mean([loss["mean"]["value"] for loss in losses])),
        "far gain": float(np.mean([loss["far_gain"]["value"] for loss in losses])),
    }
    needles: dict[int, list[float]] = {}
    for cell in report.get("needles", []):
        needles.setdefault(cell["length"], []).append(cell["recall"])
    measures |= {f"needles at {length}": float(np.mean(recalls)) for length, recalls in needles.items()}
    for task, metrics in report.get("benchmarks", {}).items():
        measures |= {f"{task} {name}": metric["value"] for name, metric in metrics.items()}
    return measures


def tabulate(config: CompareConfig, measured: Mapping[str, Sequence[Mapping[str, float]]], folder: Path) -> str:
    """Writes the comparison as JSON and as a Markdown table."""
    names = list(measured[_RANDOM][0])
    rows, results = [], {}
    for score, runs in measured.items():
        means = {name: mean_over_runs([run[name] for run in runs]) for name in names}
        paired: dict[str, Estimate] = {}
        if score not in (_UNTRAINED, _RANDOM):
            both = list(zip(runs, measured[_RANDOM], strict=True))
            paired = {name: mean_over_runs([run[name] - base[name] for run, base in both]) for name in names}
        results[score] = {
            name: {"mean": asdict(means[name]), "minus_random": asdict(paired[name]) if paired else None}
            for name in names
        }
        cells = [f"{means[name]}" + (f"<br>difference {paired[name]}" if paired else "") for name in names]
        rows.append(f"| {score} | {' | '.join(cells)} |")
    text = "\n".join(
        [
            f"Means over {len(measured[_RANDOM])} training runs with 95% intervals; below them the mean difference to "
            f"random selection, paired by seed. {config.note}",
            "",
            f"| selected by | {' | '.join(names)} |",
            f"|---|{'---|' * len(names)}",
            *rows,
        ]
    )
    facts = {"settings": asdict(config), "results": results, "software": software_versions()}
    (folder / "comparison.json").write_text(json.dumps(facts, indent=1) + "\n")
    (folder / "comparison.md").write_text(text + "\n")
    return text


if __name__ == "__main__":
    main()
