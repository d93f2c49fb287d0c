"""Reports to render cards from, and the comparison of a committed card with what its report renders to now."""

import copy
import difflib
from pathlib import Path

from longattn_hf.columns.features import SCORE_FEATURES, SELECTION_FEATURES, WINDOW_FEATURES
from longattn_hf.report.card import render_card
from longattn_hf.report.facts import Report


def _range(low: float, high: float) -> dict[str, float]:
    return {"min": low, "mean": (low + high) / 2, "max": high, "std": (high - low) / 4}


def _category(documents: int, windows: int, kept: int) -> dict:
    return {
        "documents": documents,
        "skipped": {"too short": 2, "empty": 1},
        "windows": windows,
        "windows_skipped": {},
        "tokens": windows * 8192,
        "kept_windows": kept,
        "kept_tokens": kept * 8192,
        "kept_documents": kept // 2,
        "cut": 0.8123456,
        "scores": {
            "dependency_strength": _range(0.21, 0.47),
            "distribution_uniformity": _range(-4.5e-6, -2.25e-7),
            "map_variance": _range(2.25e-7, 4.5e-6),
            "long_distance_score": _range(-2.5, 2.25),
        },
    }


def _example(name: str, score: float, excerpt: str) -> dict:
    return {
        "id": name,
        "source": "jinja2==3.1.6",
        "scores": {
            "dependency_strength": 0.41,
            "distribution_uniformity": -6.2e-7,
            "map_variance": 3.5e-7,
            "long_distance_score": score,
        },
        "excerpt": excerpt,
    }


def _config(folder: str, rows: int) -> dict:
    features = WINDOW_FEATURES | SCORE_FEATURES | SELECTION_FEATURES
    return {
        "data_files": f"{folder}/train-*.parquet",
        "num_rows": rows,
        "num_bytes": rows * 70_000,
        "download_size": rows * 30_000,
        "features": [
            {"name": name, "list": "int32"} if name == "input_ids" else {"name": name, "dtype": feature.dtype}
            for name, feature in features.items()
        ],
    }


_REPORT = {
    "name": "longabc-demo",
    "pretty_name": "LongABC demo",
    "version": "1.0.0",
    "description": "A small dataset that shows the whole way.",
    "command": "accelerate launch recipes/build_longabc.py",
    "convention": "paper",
    "settings": {
        "window_tokens": 8192,
        "min_distance": 2048,
        "alpha": 0.5,
        "threshold": None,
        "fraction": 0.25,
        "token_budget": None,
        "refuse_overlap": True,
        "row_fraction": None,
        "add_bos": False,
    },
    "software": {"longattn_hf": "0.1.0", "python": "3.11", "torch": "2.13.0"},
    "model": {
        "model": "SmolLM2-135M-Instruct",
        "revision": None,
        "sha256": "9f" * 32,
        "architecture": "LlamaForCausalLM",
        "dtype": "float32",
        "num_heads": 9,
        "num_kv_heads": 3,
        "head_dim": 64,
        "max_positions": 8192,
        "rope": {"rope_type": "default", "rope_theta": 100000.0},
    },
    "language": ["en", "code"],
    "tags": ["long-context", "pretraining"],
    "categories": {"code": _category(25, 60, 15), "prose": _category(20, 44, 11)},
    "sources": [
        {
            "source": "jinja2==3.1.6",
            "license": "BSD-3-Clause",
            "category": "code",
            "documents": 25,
            "windows": 60,
            "kept_windows": 15,
        },
        {
            "source": "allenai/dolma",
            "license": "ODC-By",
            "category": "prose",
            "documents": 20,
            "windows": 44,
            "kept_windows": 11,
        },
    ],
    "agreement": {
        "other_convention": "reference_code",
        "categories": {
            "code": {"spearman": 0.91234, "kept_overlap": 0.8},
            "prose": {"spearman": None, "kept_overlap": None},
        },
    },
    "examples": {
        "code": {
            "highest": [_example("a1b2", 2.25, "def far(n):\n\n    return [i for i in range(n)]\n")],
            "lowest": [_example("c3d4", -2.5, "| a | b |\n|---|---|\n")],
        },
    },
    "configs": {
        "code": _config("data/code", 15),
        "prose": _config("data/prose", 11),
        "scores": _config("scores", 104),
    },
    "scores": ["dependency_strength", "distribution_uniformity", "map_variance", "long_distance_score"],
    "ranked_by": "long_distance_score",
    "others": {},
    "refused": {},
    "default_config": "code",
    "figures": ["figures/long_distance_scores.png", "figures/kept_by_source.png"],
}

_PLANNED_SOURCE = ("source", "license", "category")


def example_report() -> dict:
    """The report of a small run as plain values, a fresh copy each time."""
    return copy.deepcopy(_REPORT)


def unrun_report() -> dict:
    """The report of a recipe that was not run: what only a run can tell is missing."""
    report = example_report() | {"not_run": True, "categories": {"arxiv": {}, "book": {}}}
    for measured in ("agreement", "examples", "figures", "software", "others", "refused"):
        del report[measured]
    report["model"] = {"model": "meta-llama/Llama-3.1-8B", "revision": "0123456789abcdef0123456789abcdef01234567"}
    report["sources"] = [{name: row[name] for name in _PLANNED_SOURCE} for row in report["sources"]]
    for config in report["configs"].values():
        del config["num_rows"], config["num_bytes"], config["download_size"]
    return report


def render(report: dict) -> str:
    """The card of a report that is given as plain values."""
    return render_card(Report.from_dict(report))


def assert_card_is_current(folder: Path) -> None:
    """Compares `folder/README.md` with what `folder/report.json` renders to."""
    rendered = render_card(Report.from_json((folder / "report.json").read_text(encoding="utf-8")))
    committed = (folder / "README.md").read_text(encoding="utf-8")
    difference = "".join(
        difflib.unified_diff(committed.splitlines(True), rendered.splitlines(True), "committed", "rendered")
    )
    assert committed == rendered, f"{folder.name}/README.md is not what its report.json renders to:\n{difference}"
