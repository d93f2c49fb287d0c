"""Writes `recipes/configs/README.md`: every setting of a build, from the docstrings of the classes that hold them.

    python -m recipes.render_settings

A test sees to it that the page is up to date.
"""

import argparse
import inspect
import json
import re
from dataclasses import MISSING, Field, fields
from pathlib import Path

from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.source_config import SourceConfig

PAGE = Path(__file__).parent / "configs" / "README.md"
_HEAD = """# The settings of a build

Made by `python -m recipes.render_settings` from the docstrings of the package: change them there.

A configuration is a YAML file of these; each can also be given on the command line, `--name VALUE`, which goes before
the file. Recipes: [demo.yaml](demo.yaml), the embedded demo; [longabc_32k.yaml](longabc_32k.yaml) and
[longabc_32k_70b.yaml](longabc_32k_70b.yaml), the paper's LongABC-32K with open sources; [arxiv.yaml](arxiv.yaml),
[books.yaml](books.yaml), [code_repositories.yaml](code_repositories.yaml) and [longmino.yaml](longmino.yaml) read one
kind of source each. `train_*.yaml`, `compare_*.yaml` and `pilot_cpu.yaml` are settings of
[train_longattn.py](../train_longattn.py) and [compare_selections.py](../compare_selections.py), whose `--help`
explains them.
"""


def render() -> str:
    """Returns the page."""
    build, sources = _table(BuildConfig), _table(SourceConfig)
    note = " ".join(inspect.cleandoc(BuildConfig.__doc__ or "").split("\n\n")[1].split())
    return f"{_HEAD}\n{note}\n\n{build}\n## Each of the `sources`\n\n{sources}"


def _table(kind: type) -> str:
    attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")[2]
    meanings = dict(re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", attributes, flags=re.MULTILINE))
    rows = [
        f"| `{field.name}` | {_default(field)} | {' '.join(meanings[field.name].split())} |" for field in fields(kind)
    ]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows, ""])


def _default(field: Field) -> str:
    if field.default_factory is not MISSING:
        return f"`{json.dumps(field.default_factory())}`"
    return "required" if field.default is MISSING else f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(render(), encoding="utf-8")
