"""Puts the explorer up as a Space beside a published dataset."""

import shutil
from importlib.metadata import requires
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from huggingface_hub.utils import validate_repo_id
from packaging.requirements import Requirement

from longattn_hf import __version__
from longattn_hf.hub.repository import commit_folder

_PACKAGE = Path(__file__).parents[1]
# the Gradio that the explorer was tested with; the Space's builder wants one version
_GRADIO = "6.31.0"

_APP = '''"""The explorer over {dataset}."""

import os

from longattn_hf.explore.server import serve
from longattn_hf.explore.session import Session

serve(Session({dataset!r}), host="0.0.0.0", port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
'''

_CARD = """
# Explorer of {dataset}

Scores of long documents, made by `longattn_hf` (LongAttn, [arXiv:2502.16860](https://arxiv.org/abs/2502.16860)): move
the cut, change the weights, open windows, and save the recipe. The dataset:
[{dataset}](https://huggingface.co/datasets/{dataset}). Nothing is written, and nothing leaves this Space.
"""


def publish_space(
    repo_id: str, dataset_repo_id: str, *, token: str | None = None, private: bool | None = None, attempts: int = 6
) -> str:
    """Publishes the explorer of a dataset as a Space, in one commit; none where it is there already.

    The Space holds a copy of this package, so it shows what this version shows.

    Args:
        repo_id: The Space, "owner/name"; it is created where it does not exist.
        dataset_repo_id: The dataset, "owner/name", with its scores, as `publish` puts it up.
        token: A token with write permission; default: HF_TOKEN, or that of `hf auth login`. The Space does not get it:
            for a private dataset give the Space a secret HF_TOKEN on its page.
        private: Whether a Space that is created is private; an existing one must agree.
        attempts: How often to try what may pass.

    Returns:
        The commit's hash.

    Raises:
        ValueError: A name is not "owner/name", the Space shows something else, or the Hub refuses: token, permission.
        ConnectionError: Every attempt failed.
        RuntimeError: What was read back differs from what was sent.
    """
    for name in (repo_id, dataset_repo_id):
        validate_repo_id(name)
        if "/" not in name:
            raise ValueError(f"{name!r} does not say whose it is: give 'owner/{name}'")
    with TemporaryDirectory(prefix="longattn_hf-") as folder:
        _write_space(Path(folder), repo_id, dataset_repo_id)
        message = f"Explorer of {dataset_repo_id} (longattn_hf {__version__})"
        return commit_folder(
            Path(folder),
            repo_id,
            message=message,
            mark=("app.py", "longattn_hf.explore"),
            token=token,
            private=private,
            attempts=attempts,
            space_sdk="gradio",
        )


def _write_space(folder: Path, repo_id: str, dataset: str) -> None:
    front = {
        "title": repo_id.split("/")[-1],
        "sdk": "gradio",
        "sdk_version": _GRADIO,
        "app_file": "app.py",
        "license": "apache-2.0",
        "datasets": [dataset],
    }
    head = yaml.safe_dump(front, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{head}---\n{_CARD.format(dataset=dataset)}", encoding="utf-8")
    (folder / "app.py").write_text(_APP.format(dataset=dataset), encoding="utf-8")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in _requirements()), encoding="utf-8")
    shutil.copytree(_PACKAGE, folder / _PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))


def _requirements() -> list[str]:
    """Returns what the package needs at run time, and the explorer; Gradio itself comes with the Space."""
    requirements = [Requirement(line) for line in requires("longattn_hf") or ()]
    needed = [
        requirement
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": "explore"})
    ]
    return sorted(
        f"{requirement.name}{requirement.specifier}" for requirement in needed if requirement.name != "gradio"
    )
