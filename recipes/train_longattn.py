"""Continual pre-training of a language model on selected long windows and short texts, as the LongAttn paper does it.

    accelerate launch recipes/train_longattn.py --config recipes/configs/train_8b.yaml [--any_setting VALUE]

Sources are mixed by weight, sequences are packed, the RoPE base is raised, the learning rate falls as a cosine. The
same command after a kill goes on from the last checkpoint; on a finished run it does nothing.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any

import torch
from datasets import Dataset, interleave_datasets
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from longattn_hf.files import claim
from longattn_hf.model.device import pick_device
from longattn_hf.model.location import ModelRef, locate, read_config
from longattn_hf.model.rope import override_rope
from longattn_hf.model.tokenizer import load_tokenizer
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import Several, each, read_command_line, settings
from longattn_hf.pipeline.source_config import SourceConfig
from longattn_hf.pipeline.sources import open_source
from longattn_hf.report.describe import software_versions
from recipes.training.packing import collate, pack_source

MODEL, REPORT, SETTINGS, _STATE = "model", "report.json", "settings.json", "trainer_state.json"
# the folder of a run may move, and how its work is spread over devices changes nothing
_MAY_CHANGE = ("output_dir", "windows_per_device", "checkpoint_steps")


@settings
class TrainSource(SourceConfig):
    """A source of texts, as in a build's configuration, and its share of the training tokens.

    Attributes:
        weight: The share, relative to the other sources' weights.
    """

    weight: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weight > 0:
            raise ValueError(f"weight={self.weight} of source {self.path!r} must be positive.")


@settings
class TrainConfig:
    """All settings of a training run.

    Attributes:
        model: The model to start from: a Hub id, a local directory, a GGUF file, or `package:NAME/FILE`.
        sources: The mix; see `TrainSource`.
        tokens: How many to train on, rounded down to whole batches.
        output_dir: Receives `model/` and `report.json`, and while it trains the checkpoints.
        revision: The model's branch, tag or commit on the Hub.
        gguf_file: The GGUF file's name inside `model`.
        window_tokens: The length of a training sequence.
        rope_theta: The raised RoPE base; the model's own if None.
        rope_scaling: A RoPE scaling in place of the model's own.
        batch_windows: Sequences a step, over all processes.
        windows_per_device: Sequences in a device's memory at a time.
        learning_rate: The cosine's top.
        warmup_ratio: The share of the steps over which the learning rate rises to it.
        checkpoint_steps: Steps between checkpoints; the last two are kept.
        seed: Of the order of the texts and the mix.
        trainer: Further arguments of `transformers.TrainingArguments`.
    """

    model: str
    sources: Annotated[Several[TrainSource], each(TrainSource, "a source")]
    tokens: int
    output_dir: str
    revision: str | None = None
    gguf_file: str | None = None
    window_tokens: int = 32768
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    batch_windows: int = 128
    windows_per_device: int = 1
    learning_rate: float = 1e-5
    warmup_ratio: float = 0.0
    checkpoint_steps: int = 50
    seed: int = 0
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("The configuration names no sources; give at least one with weight, category and path.")
        if self.steps < 1:
            raise ValueError(
                f"tokens={self.tokens} is less than one batch of {self.batch_windows} sequences of "
                f"{self.window_tokens} tokens; raise it or lower batch_windows."
            )

    @property
    def model_ref(self) -> ModelRef:
        """The model to start from."""
        return ModelRef(self.model, self.revision, self.gguf_file)

    @property
    def work(self) -> dict[str, Any]:
        """The settings that the trained model depends on."""
        return {name: value for name, value in asdict(self).items() if name not in _MAY_CHANGE}

    @property
    def steps(self) -> int:
        """The number of optimiser steps."""
        return self.tokens // (self.window_tokens * self.batch_windows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains from the command line."""
    with refusing("train_longattn"):
        train(read_command_line(TrainConfig, arguments, description=__doc__))


def train(config: TrainConfig) -> Path:
    """Trains, or goes on training, or returns at once where that is done.

    Args:
        config: The settings.

    Returns:
        The folder of the trained model and its tokenizer.

    Raises:
        ValueError: A setting, the model or a source is not as it should be, or `output_dir` holds another run.
        OSError: The output directory is full or cannot be written to.
    """
    start, folder = time.monotonic(), Path(config.output_dir)
    arguments = make_arguments(config)
    with arguments.main_process_first(local=False, desc="preparing the data"):
        claim(folder / SETTINGS, config.work, folder=folder)
        if (folder / MODEL).is_dir():
            return folder / MODEL
        location = locate(config.model_ref)
        tokenizer = load_tokenizer(ModelRef(location.path, location.commit, location.gguf_file))
        windows, shares = mix(config, tokenizer, folder / "work")
    model = load_model(config)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=windows, data_collator=collate, processing_class=tokenizer
    )
    checkpoint = last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(folder / "work" / MODEL))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        report = {
            "settings": asdict(config),
            "model": {"name": location.name, "commit": location.commit, "rope": rope_of(model)},
            "steps": config.steps,
            "tokens": config.steps * config.batch_windows * config.window_tokens,
            "sequences_by_source": shares,
            "log": trainer.state.log_history,
            "resumed_from": Path(checkpoint).name if checkpoint else None,
            "seconds_since_start": round(time.monotonic() - start, 1),
            "software": software_versions(),
        }
        (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")
        # the model's folder appears last and whole: it stands for a finished run
        os.replace(folder / "work" / MODEL, folder / MODEL)
        # the optimiser's state is several times the model, and of no more use
        for used in (*folder.glob("checkpoint-*"), folder / "work"):
            shutil.rmtree(used)
    trainer.accelerator.wait_for_everyone()
    return folder / MODEL


def make_arguments(config: TrainConfig) -> TrainingArguments:
    """Puts the settings into transformers' terms; `config.trainer` goes before them.

    Raises:
        ValueError: The batch does not divide among the processes, or an argument is unknown.
    """
    processes = int(os.environ.get("WORLD_SIZE", 1))
    at_once = config.windows_per_device * processes
    if config.batch_windows % at_once:
        raise ValueError(
            f"batch_windows={config.batch_windows} must be a multiple of windows_per_device x processes = "
            f"{config.windows_per_device} x {processes}."
        )
    on_gpu = pick_device().type == "cuda"
    values: dict[str, Any] = {
        "max_steps": config.steps,
        "per_device_train_batch_size": config.windows_per_device,
        "gradient_accumulation_steps": config.batch_windows // at_once,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": math.ceil(config.warmup_ratio * config.steps),
        "bf16": on_gpu,
        "save_steps": config.checkpoint_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "seed": config.seed,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": on_gpu,
        # the collator reads a column that the model does not
        "remove_unused_columns": False,
        # the other processes wait while the first prepares the data
        "ddp_timeout": 30 * 24 * 3600,
    }
    try:
        return TrainingArguments(output_dir=config.output_dir, **(values | config.trainer))
    except TypeError as error:
        raise ValueError(f"trainer= holds what transformers.TrainingArguments does not take: {error}") from error


def mix(config: TrainConfig, tokenizer: Any, cache: Path) -> tuple[Dataset, dict[str, int]]:
    """Packs each source and interleaves the sequences by weight; a source that runs out begins again.

    Returns:
        The sequences to train on, and how many different ones each source gave.
    """
    total, needed = sum(source.weight for source in config.sources), config.steps * config.batch_windows
    parts, shares = [], {}
    for number, source in enumerate(config.sources):
        share = source.weight / total
        # the draw of the sources is random; four standard deviations leave room for it
        sequences = math.ceil(share * needed + 4 * math.sqrt(share * (1 - share) * needed))
        parts.append(
            pack_source(
                open_source(source),
                tokenizer,
                window_tokens=config.window_tokens,
                sequences=sequences,
                seed=config.seed,
                cache=cache,
            )
        )
        shares[f"{number} {source.category}"] = len(parts[-1])
    mixed = interleave_datasets(
        parts,
        probabilities=[source.weight / total for source in config.sources],
        seed=config.seed,
        stopping_strategy="all_exhausted",
    )
    return mixed.select(range(min(needed, len(mixed)))), shares


def load_model(config: TrainConfig) -> PreTrainedModel:
    """Loads the model to start from, in float32, with its RoPE base raised and room for the sequences."""
    location = locate(config.model_ref)
    model_config = read_config(location)
    override_rope(model_config, config.rope_theta, config.rope_scaling)
    text = model_config.get_text_config(decoder=True)
    text.max_position_embeddings = max(text.max_position_embeddings, config.window_tokens)
    return AutoModelForCausalLM.from_pretrained(
        location.path, config=model_config, dtype=torch.float32, **location.weights_arguments
    )


def rope_of(model: PreTrainedModel) -> dict[str, Any] | None:
    """Returns the RoPE settings that a model runs with."""
    return getattr(model.config.get_text_config(decoder=True), "rope_parameters", None)


def last_checkpoint(folder: Path) -> str | None:
    """Returns the newest checkpoint that is whole: the trainer writes its state file last."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True):
        try:
            json.loads((path / _STATE).read_text())
        except (OSError, json.JSONDecodeError):
            continue
        return str(path)
    return None


if __name__ == "__main__":
    main()
