"""A build's settings: one flat dataclass, filled from a YAML file and the command line."""

import argparse
import json
import shlex
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from longattn_hf.method import get_convention

_SELECTION = ("alpha", "threshold", "fraction", "token_budget", "refuse_overlap", "statistics")
_CARD = ("pretty_name", "description", "data_version", "language")
_HUB = ("push_to_hub", "hub_revision", "create_pr", "private", "tag", "dry_run")
_THIS_RUN = ("output_dir", "overwrite", "batch_tokens", *_HUB)


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where documents of one category come from; the names are those of `datasets.load_dataset`.

    Attributes:
        category: The category of its documents.
        path: A Hub id, a local folder, a format (`parquet`, `json`, `text`) with `data_files`, or `demo`.
        name: The data set's configuration.
        split: The split to read.
        data_files: Files or patterns.
        data_dir: A folder of the data set.
        revision: The data set's branch, tag or commit; a branch is pinned to its commit when the build starts.
        text_column: The column that holds the documents.
        columns: The columns to keep beside it; all if None.
        json_lines: Read `data_files` (of the Hub id `path`, or anywhere if it is `json`) line by line and take only
            the text and `columns` of each, for files whose other fields differ in type.
        source: What the column `source` says where documents have none; the path if None.
        license: What the column `license` says where documents have none.
        max_documents: Read no more than this from each stream shard.
    """

    category: str
    path: str
    name: str | None = None
    split: str = "train"
    data_files: str | list | None = None
    data_dir: str | None = None
    revision: str | None = None
    text_column: str = "text"
    columns: list | None = None
    json_lines: bool = False
    source: str | None = None
    license: str | None = None
    max_documents: int | None = None

    def __post_init__(self) -> None:
        check_types(self, f"source {self.path!r}")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """All settings of a build.

    Those from `alpha` on may change on a scored corpus; the others are fixed once an output directory holds shards.

    Attributes:
        name: The data set's name, for its card.
        model: A Hub id, a local directory, a GGUF file, or `package:NAME/FILE` for a file an installed package brings.
        sources: Where the documents come from; see `SourceConfig`.
        revision: The model's branch, tag or commit on the Hub.
        gguf_file: The GGUF file's name inside `model`.
        convention: `paper` or `reference_code`.
        window_tokens: The windows' length.
        min_distance: The paper's k; a quarter of the window if None.
        rope_theta: A RoPE base in place of the model's own.
        rope_scaling: A RoPE scaling in place of the model's own.
        dtype: The weights' dtype; None lets the device decide.
        impl: The attention implementation.
        add_bos: Put BOS before each window; None does as the tokenizer does.
        row_fraction: Score a random share of the query rows and record standard errors; None scores all, exactly.
        seed: Of that drawing.
        per_head: Keep the scores of each head too.
        on_error: What a bad document or window does: `raise`, or `skip` with a reason and a count.
        documents_per_shard: Documents per resumable piece of work.
        alpha: The weight of the distribution uniformity.
        threshold: Keep windows above this score; a number, or one for each category.
        fraction: Keep this share; a number, or one for each category.
        token_budget: Keep this many tokens of each category; a number, or one for each category.
        refuse_overlap: Leave out windows that share tokens with better ones.
        statistics: A `statistics.json` of another build, to score on its scale.
        pretty_name: The card's title.
        description: The card's first paragraph.
        data_version: The data set's version.
        language: Language codes for the card.
        output_dir: Where everything goes; `out/NAME` if None.
        overwrite: Discard what another configuration left in the output directory.
        batch_tokens: Tokens scored together.
        push_to_hub: Publish the finished build in this data set repository, `owner/name`.
        hub_revision: The branch to publish on; main if None.
        create_pr: Open a pull request there instead.
        private: Whether a repository that is made is private.
        tag: The tag of this release there.
        dry_run: Only say what would be published.
    """

    name: str
    model: str
    sources: tuple[SourceConfig, ...]
    revision: str | None = None
    gguf_file: str | None = None
    convention: str = "paper"
    window_tokens: int = 32768
    min_distance: int | None = None
    rope_theta: float | None = None
    rope_scaling: dict | None = None
    dtype: str | None = None
    impl: str = "auto"
    add_bos: bool | None = None
    row_fraction: float | None = None
    seed: int = 0
    per_head: bool = False
    on_error: str = "skip"
    documents_per_shard: int = 64
    alpha: float = 0.5
    threshold: float | dict | None = None
    fraction: float | dict | None = None
    token_budget: int | dict | None = None
    refuse_overlap: bool = False
    statistics: str | None = None
    pretty_name: str | None = None
    description: str = ""
    data_version: str = "1.0.0"
    language: list = field(default_factory=lambda: ["en"])
    output_dir: str | None = None
    overwrite: bool = False
    batch_tokens: int = 65536
    push_to_hub: str | None = None
    hub_revision: str | None = None
    create_pr: bool = False
    private: bool | None = None
    tag: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_types(self, "the configuration")
        if not self.sources:
            raise ValueError("The configuration names no sources; give at least one with category and path.")
        if self.window_tokens < 1 or self.documents_per_shard < 1:
            raise ValueError("window_tokens and documents_per_shard must be at least 1.")
        if not 0 <= self.resolved_min_distance < self.window_tokens:
            raise ValueError(
                f"min_distance={self.min_distance} must lie in [0, window_tokens), here [0, {self.window_tokens})."
            )
        given = [name for name in ("threshold", "fraction", "token_budget") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"Give one of threshold, fraction and token_budget, not {' and '.join(given)}.")
        if not given:
            fraction = get_convention(self.convention).fraction
            if fraction is None:
                raise ValueError("Say how much to keep: give one of threshold, fraction and token_budget.")
            object.__setattr__(self, "fraction", fraction)

    @property
    def work(self) -> dict[str, Any]:
        """The settings that windows and scores depend on."""
        return {n: v for n, v in asdict(self).items() if n not in (*_SELECTION, *_CARD, *_THIS_RUN)}

    @property
    def result(self) -> dict[str, Any]:
        """The settings that the finished data set depends on."""
        return {name: value for name, value in asdict(self).items() if name not in _THIS_RUN}

    @property
    def resolved_min_distance(self) -> int:
        """The paper's k in tokens."""
        return self.window_tokens // 4 if self.min_distance is None else self.min_distance

    @property
    def folder(self) -> Path:
        """The output directory."""
        return Path(self.output_dir or f"out/{self.name}")

    @property
    def categories(self) -> list[str]:
        """The categories, in the order of the sources."""
        return list(dict.fromkeys(source.category for source in self.sources))


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping of settings.

    Raises:
        ValueError: The file cannot be read, is not YAML, or holds something else.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of settings, and holds {type(values).__name__}.")
    return values


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> BuildConfig:
    """Reads a YAML file of settings.

    Args:
        path: The file.
        overrides: Settings that go before the file's.

    Raises:
        ValueError: The file is missing or no mapping, or a key, a type or a value is not one of `BuildConfig`'s.
    """
    values = read_mapping(path)
    values |= overrides or {}
    check_names(values, BuildConfig, str(path))
    sources = values.get("sources") or []
    if not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
        raise ValueError(f"sources in {path} must be a list of mappings with category and path.")
    for source in sources:
        check_names(source, SourceConfig, f"a source of {path}")
    return BuildConfig(**(values | {"sources": tuple(SourceConfig(**source) for source in sources)}))


def hide_paths(value: Any) -> Any:
    """Reduces each path in a setting that leads out of the working directory to its last name, as cards show it."""
    if isinstance(value, Mapping):
        return {name: hide_paths(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [hide_paths(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~", "../")):
        return Path(value).name
    return value


def parse_command_line(arguments: Sequence[str] | None, *, default_config: Path) -> tuple[BuildConfig, str]:
    """Reads `--config FILE` and `--any_setting VALUE`.

    Args:
        arguments: The command line's words; the process's own if None.
        default_config: The configuration without `--config`.

    Returns:
        The settings, and the words that the same data set is built with anywhere: without those of this run alone.

    Raises:
        ValueError: As `load_config`, and on an unknown option, naming the nearest.
    """
    parser = argparse.ArgumentParser(description=BuildConfig.__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", default=str(default_config), help="a YAML file of settings")
    for item in fields(BuildConfig):
        flag: dict[str, Any] = {"nargs": "?", "const": True} if item.type in (bool, bool | None) else {}
        parser.add_argument(f"--{item.name}", type=yaml.safe_load, default=MISSING, help=str(item.type), **flag)
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        check_names({word.lstrip("-").split("=")[0]: None for word in unknown[:1]}, BuildConfig, "the command line")
        raise ValueError(f"The command line's {' '.join(unknown)} cannot be read; write --setting VALUE.")
    overrides = {name: value for name, value in vars(given).items() if value is not MISSING and name != "config"}
    path = Path(given.config)
    words = [] if path == default_config else ["--config", hide_paths(path.as_posix())]
    for name, value in overrides.items():
        if name not in _THIS_RUN:
            value = hide_paths(value)
            words += [f"--{name}", shlex.quote(value if isinstance(value, str) else json.dumps(value))]
    return load_config(given.config, overrides), " ".join(words)


def check_names(values: Mapping[str, Any], kind: type, where: str) -> None:
    """Checks that the values' names are fields of a dataclass, and that none without a default is missing."""
    known = {item.name: item for item in fields(kind)}
    for name in values:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" It has {', '.join(known)}."
            raise ValueError(f"Unknown setting {name!r} in {where}.{hint}")
    missing = [
        n for n, i in known.items() if n not in values and i.default is MISSING and i.default_factory is MISSING
    ]
    if missing and where != "the command line":
        raise ValueError(f"{where} lacks {', '.join(missing)}.")


def check_types(config: Any, where: str) -> None:
    """Checks each field against its annotation; numbers that YAML reads as text, such as 2.5e6, are converted."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        kinds = tuple(typing.get_origin(kind) or kind for kind in kinds)
        if float in kinds and isinstance(value, int | str) and not isinstance(value, bool):
            try:
                value = float(value)
            except ValueError:
                pass
            else:
                object.__setattr__(config, name, value)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            accepted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"{name}={value!r} in {where} must be {accepted}, not {type(value).__name__}.")
