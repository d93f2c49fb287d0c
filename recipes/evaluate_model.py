r"""What a language model makes of long contexts.

    python -m recipes.evaluate_model --model out/run/model --output out/run/evaluation.json \
        --documents '[{category: book, path: parquet, data_files: held_out.parquet}]'
    python -m recipes.evaluate_model --model me/model --output evaluation.json --documents '[]' --needles '[]' \
        --benchmarks '[ruler, longbench, humaneval, openbookqa, hellaswag, mmlu]' --run_model_code true

Offline: the loss by position in held-out documents, what the far context takes off it, and needles in generated text.
`--benchmarks` adds the paper's public ones through lm-evaluation-harness. Everything goes into one JSON file.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import evaluate
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from longattn_hf.baselines import LossGain
from longattn_hf.columns import DOC_ID, INPUT_IDS
from longattn_hf.files import write_json
from longattn_hf.model.language_model import load_language_model, token_losses
from longattn_hf.model.location import ModelRef, locate
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import Several, each, read_command_line, settings
from longattn_hf.pipeline.source_config import SourceConfig
from longattn_hf.pipeline.sources import open_source
from longattn_hf.report.describe import software_versions
from longattn_hf.windows import WindowDocuments
from recipes.benchmarks.environment import device_name
from recipes.evaluation.benchmarks import run_benchmarks
from recipes.evaluation.needles import TASKS, make_prompts
from recipes.intervals import Estimate, mean_over_items

NEEDLE_METRIC = Path(__file__).parent / "spaces" / "needle_retrieval"


@settings
class EvaluateConfig:
    """All settings of an evaluation.

    Attributes:
        model: A Hub id, a local directory, a GGUF file, or `package:NAME/FILE`.
        output: The JSON file to write.
        documents: Held-out documents for the losses, as a build's `sources`; no losses if empty.
        revision: The model's branch, tag or commit on the Hub.
        gguf_file: The GGUF file's name inside `model`.
        window_tokens: The length of the windows that losses are taken on.
        near_tokens: The short context is one to two times this; a sixteenth of the window if None.
        windows: The most windows of a category, each of another document.
        needles: Needle tasks; see `evaluation.needles.TASKS`.
        lengths: Context lengths of the needle tasks and of RULER.
        prompts: Needle prompts for each task, length and seed.
        seeds: At least three, for the needles and the choice of windows.
        benchmarks: Names of `evaluation.benchmarks.BENCHMARKS`, or tasks of lm-evaluation-harness.
        limit: Only so many examples of each benchmark.
        run_model_code: Allow benchmarks that run, on this machine, code that the model wrote.
    """

    model: str
    output: str
    documents: Annotated[Several[SourceConfig], each(SourceConfig, "a source of documents")] = ()
    revision: str | None = None
    gguf_file: str | None = None
    window_tokens: int = 32768
    near_tokens: int | None = None
    windows: int = 30
    needles: Several[str] = tuple(TASKS)
    lengths: Several[int] = (4096, 8192, 16384, 32768)
    prompts: int = 20
    seeds: Several[int] = (0, 1, 2)
    benchmarks: Several[str] = ()
    limit: int | None = None
    run_model_code: bool = False

    def __post_init__(self) -> None:
        if self.needles and len(set(self.seeds)) < 3:
            raise ValueError(f"seeds={list(self.seeds)} must be at least three different ones.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluates from the command line."""
    with refusing("evaluate_model"):
        print(summary(evaluate_model(read_command_line(EvaluateConfig, arguments, description=__doc__))))


def evaluate_model(config: EvaluateConfig) -> dict[str, Any]:
    """Runs all that the settings ask for and writes the report.

    Returns:
        `settings`, and as far as asked for `loss` and `needles` and `benchmarks`.

    Raises:
        ValueError: A setting, the model or a source is not as it should be.
    """
    start = time.monotonic()
    model = ModelRef(config.model, config.revision, config.gguf_file)
    network, tokenizer = load_language_model(model), load_tokenizer_once(model)
    report: dict[str, Any] = {"settings": asdict(config)}
    if config.documents:
        windows = held_out_windows(config)
        near = config.near_tokens or config.window_tokens // 16
        gain = LossGain(model=config.model, revision=config.revision, gguf_file=config.gguf_file, short_tokens=near)
        report["loss"] = {category: losses_of(ids, network, gain) for category, ids in windows.items()}
    if config.needles:
        report["needles"] = list(find_needles(network, tokenizer, config))
    if config.benchmarks:
        measured = run_benchmarks(
            config.benchmarks,
            locate(model).path,
            revision=config.revision,
            lengths=config.lengths,
            limit=config.limit,
            run_model_code=config.run_model_code,
        )
        report["benchmarks"] = {
            task: {name: asdict(estimate) for name, estimate in metrics.items()} for task, metrics in measured.items()
        }
    report |= {
        "device": device_name(network.device),
        "dtype": str(network.dtype).removeprefix("torch."),
        "seconds": round(time.monotonic() - start, 1),
        "software": software_versions(),
    }
    write_json(Path(config.output), report)
    return report


def held_out_windows(config: EvaluateConfig) -> dict[str, np.ndarray]:
    """Cuts one window, at random, out of each of so many documents of a category.

    Returns:
        By category int64 `[N, T]`.

    Raises:
        ValueError: No document of a category is as long as a window.
    """
    windows: dict[str, list[np.ndarray]] = {}
    for source in map(open_source, config.documents):
        cut = WindowDocuments(
            tokenizer=config.model,
            revision=config.revision,
            gguf_file=config.gguf_file,
            window_tokens=config.window_tokens,
            text_column=source.text_column,
        )
        of_category = windows.setdefault(source.category, [])
        rng = np.random.default_rng(config.seeds[0])
        for document in source.stream:
            if len(of_category) == config.windows:
                break
            rows = cut({name: [value] for name, value in document.items()})
            if rows[DOC_ID]:
                of_category.append(rows[INPUT_IDS][rng.integers(len(rows[DOC_ID]))].astype(np.int64))
    for category, of_category in windows.items():
        if not of_category:
            raise ValueError(f"No document of {category!r} reaches {config.window_tokens} tokens.")
    return {category: np.stack(of_category) for category, of_category in windows.items()}


def losses_of(windows_NT: np.ndarray, network: PreTrainedModel, gain: LossGain) -> dict[str, Any]:
    """Measures the loss by position, and what the far context takes off it.

    Returns:
        `by_position`: in nats a token, by the token's position, the mean loss from there to twice there; `mean`; and
        `far_gain`, the drop of the loss, in nats a token, when all the window is given rather than the last one to
        two times the near context. Intervals are over windows, each of another document.
    """
    losses_NT = np.stack([token_losses(network, torch.from_numpy(ids)[None])[0].cpu().numpy() for ids in windows_NT])
    by_position = {}
    for power in range(math.ceil(math.log2(losses_NT.shape[1] + 1))):
        # the first loss is of position 1, which sees one token
        bucket_N = losses_NT[:, 2**power - 1 : 2 ** (power + 1) - 1].mean(1, dtype=np.float64)
        by_position[2**power] = asdict(mean_over_items(bucket_N))
    gains_N = np.array([gain({INPUT_IDS: ids})[gain.column] for ids in windows_NT])
    return {
        "mean": asdict(mean_over_items(losses_NT.mean(1, dtype=np.float64))),
        "far_gain": asdict(mean_over_items(gains_N)),
        "by_position": by_position,
    }


def find_needles(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: EvaluateConfig
) -> Iterator[dict[str, Any]]:
    """Yields, task by task and length by length, the recall with its interval, and seed by seed."""
    metric = evaluate.load(str(NEEDLE_METRIC))
    for task in config.needles:
        for length in config.lengths:
            answers: list[list[str]] = []
            values: list[list[list[str]]] = []
            for seed in config.seeds:
                prompts = make_prompts(task, tokenizer, length=length, count=config.prompts, seed=seed)
                answers.append([answer(network, tokenizer, p.text, p.answer_tokens) for p in prompts])
                values.append([prompt.values for prompt in prompts])
            result = metric.compute(predictions=sum(answers, []), references=sum(values, []))
            by_seed = [
                metric.compute(predictions=predictions, references=references)["recall"]
                for predictions, references in zip(answers, values, strict=True)
            ]
            yield {"task": task, "length": length, **result, "recall_by_seed": by_seed}


@torch.inference_mode()
def answer(network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, tokens: int) -> str:
    """Returns what the model goes on with, greedily."""
    ids_BT = tokenizer(prompt, return_tensors="pt", verbose=False)["input_ids"].to(network.device)
    out_BT = network.generate(
        input_ids=ids_BT,
        attention_mask=torch.ones_like(ids_BT),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
    return tokenizer.decode(out_BT[0, ids_BT.shape[1] :], skip_special_tokens=True)


def summary(report: Mapping[str, Any]) -> str:
    """Sets a report's numbers as lines of text."""
    lines = []
    for category, loss in report.get("loss", {}).items():
        mean, gain = Estimate(**loss["mean"]), Estimate(**loss["far_gain"])
        lines.append(f"loss, {category}: {mean} nats a token in {mean.count} windows; far context takes off {gain}")
    for cell in report.get("needles", []):
        low, high = cell["recall_interval"]
        recall = Estimate(value=cell["recall"], low=low, high=high)
        lines.append(f"needles, {cell['task']} at {cell['length']}: {recall}")
    for task, metrics in report.get("benchmarks", {}).items():
        lines += [f"{task}, {name}: {Estimate(**metric)}" for name, metric in metrics.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
