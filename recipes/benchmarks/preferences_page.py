"""The page of preferences.py, in Markdown: for every score what it prefers, and what it keeps that it should not."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_KEPT = 0.05


def render_page(report: Mapping[str, Any]) -> str:
    """Renders the report as Markdown."""
    scores = list(dict.fromkeys(row["score"] for row in report["comparisons"]))
    lines = [
        "# What the scores prefer, and what they keep that they should not",
        "",
        f"{report['windows']} windows of {report['window_tokens']} tokens of documents that nothing was fitted on. "
        + (report["note"] or ""),
        "",
        "A cell is the share that the intact window wins, category by category; chance is .50. **Bold** reaches its "
        "bar. Junk is the share of it in the top eighth of a pool of intact windows with some junk; chance is .13.",
        "",
        "## In short",
        "",
        *(f"- **{score}**: {_in_short(report, score)}" for score in scores),
        "",
        *_table_of_controls(report, scores),
        "",
        *_table_of_junk(report, scores),
        "",
    ]
    for score in scores:
        examples = [row for row in report["junk"] if row["score"] == score and row["example"]]
        if examples:
            lines += ["", f"## What {score} keeps that it should not", ""]
            lines += [f"- {row['kind']} ({row['category']}): `{_flat(row['example'])}`" for row in examples]
    return "\n".join(lines) + "\n"


def _in_short(report: Mapping[str, Any], score: str) -> str:
    rows = [row for row in report["comparisons"] if row["score"] == score and row["target"] is not None]
    missed = sorted({row["kind"] for row in rows if row["value"] < row["target"]})
    junk = [row for row in report["junk"] if row["score"] == score]
    kept: dict[str, float] = {}
    for row in junk:
        kept[row["kind"]] = max(kept.get(row["kind"], 0.0), row["top_eighth"])
    bad = sorted((kind for kind, share in kept.items() if share > _KEPT), key=lambda kind: -kept[kind])
    gold = next((row for row in report["gold"] or () if row["score"] == score), None)
    refused = max((row["share"] for row in report["refused"] if row["score"] == score), default=0)
    return (
        (
            f"rank correlation with a model's gain {gold['spearman']:.2f} [{gold['low']:.2f}, {gold['high']:.2f}]; "
            if gold
            else ""
        )
        + f"reaches {len(rows) - sum(row['value'] < row['target'] for row in rows)} of {len(rows)} bars"
        + (f", missing some of {', '.join(missed)}" if missed else "")
        + f"; junk in the top eighth {np.mean([row['top_eighth'] for row in junk]):.2f} in the mean"
        + (f", most of all {', '.join(f'{kind} {kept[kind]:.2f}' for kind in bad[:5])}" if bad else "")
        + f"; gives nothing to {refused:.0%} of intact windows at most."
    )


def _table_of_controls(report: Mapping[str, Any], scores: list[str]) -> Iterator[str]:
    rows = report["comparisons"]
    categories = sorted({row["category"] for row in rows})
    yield f"## Controls ({' / '.join(categories)})"
    yield ""
    yield f"| control | bar | {' | '.join(scores)} |"
    yield "|---|---|" + "---|" * len(scores)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = {(row["score"], row["category"]): row for row in rows if row["kind"] == kind}
        first = next(iter(of_kind.values()))
        cells = [" ".join(_cell(of_kind[score, c]) for c in categories if (score, c) in of_kind) for score in scores]
        bar = _share(first["target"]) if first["target"] is not None else ""
        yield f"| {kind} ({first['measure']}) | {bar} | {' | '.join(cells)} |"


def _table_of_junk(report: Mapping[str, Any], scores: list[str]) -> Iterator[str]:
    rows = report["junk"]
    categories = sorted({row["category"] for row in rows})
    yield f"## Junk in the top eighth ({' / '.join(categories)})"
    yield ""
    yield f"| junk | {' | '.join(scores)} |"
    yield "|---|" + "---|" * len(scores)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        cells = {(r["score"], r["category"]): r["top_eighth"] for r in rows if r["kind"] == kind}
        texts = [" ".join(_share(cells[s, c]) for c in categories if (s, c) in cells) for s in scores]
        yield f"| {kind} | {' | '.join(texts)} |"
    refused = {(row["score"], row["category"]): row["share"] for row in report["refused"]}
    yield (
        "| intact windows given nothing | "
        + " | ".join(" ".join(_share(refused[s, c]) for c in categories) for s in scores)
        + " |"
    )


def _cell(row: Mapping[str, Any]) -> str:
    text = _share(row["value"])
    return f"**{text}**" if row["target"] is not None and row["value"] >= row["target"] else text


def _share(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("`", "'")[:120]
