"""A build's command line: the settings that it gives, and its words as the card shows them."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from longattn_hf.pipeline.config import THIS_RUN, BuildConfig, load_config
from longattn_hf.pipeline.packaged_configs import CONFIGS, find_config
from longattn_hf.pipeline.settings import parse_command_line, parse_words
from longattn_hf.pipeline.source_config import hide_paths
from longattn_hf.pipeline.terminal import OUTPUT


def read_build(
    arguments: Sequence[str] | None,
    *,
    default_config: Path = CONFIGS / "demo.yaml",
    description: str | None = None,
) -> tuple[BuildConfig, str]:
    """Reads `--config FILE` and `--any_setting VALUE`.

    Args:
        arguments: The command line's words; the process's own if None.
        default_config: The configuration without `--config`; the embedded demo's if not given.
        description: What stands in the help above the options.

    Returns:
        The settings, and the words that the same dataset is built with anywhere: without those of this run alone.

    Raises:
        ValueError: As `load_config`, and on an unknown option, naming the nearest.
    """
    path, words = parse_command_line(BuildConfig, arguments, description=description, parents=[OUTPUT])
    overrides = parse_words(BuildConfig, words)
    path = find_config(path or default_config)
    is_packaged = path.resolve().parent == CONFIGS
    shown = ["--config", path.stem if is_packaged else hide_paths(path.as_posix())]
    if path.resolve() == default_config.resolve():
        shown = []
    for name, value in overrides.items():
        if name not in THIS_RUN:
            hidden, text = hide_paths(value), words[name]
            # a number as it was written, a mapping as JSON
            if hidden != value or not isinstance(text, str) or isinstance(value, dict | list):
                text = hidden if isinstance(hidden, str) else json.dumps(hidden)
            shown += [f"--{name}", shlex.quote(text)]
    return load_config(path, overrides), " ".join(shown)
