"""What a benchmark says that the stages of a build take: real builds, of which one was killed."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longattn_hf.columns import CATEGORY, ID, KEPT, ROW_FRACTION
from recipes.benchmarks.pipeline_cost import PipelineCostConfig, compare_builds, measure_build
from recipes.benchmarks.stage_meter import STAGES, StageMeter
from tests.support.recipes import text

ROWS = [{"category": name, "text": text(150, f"{name}{i}")} for name in ("book", "code") for i in range(20)]


def test_each_stage_has_its_time_and_peak_a_killed_run_counts_and_a_certified_build_stands_beside(
    tiny_llama, tmp_path
):
    # what is left of a run that was killed while it cut documents
    killed = {"start-up": (3.0, 2.0, 100.0), "tokenising": (1000.0, 500.0, 9e9)}
    killed = {name: dict(zip(("wall_s", "cpu_s", "peak_mb"), facts, strict=True)) for name, facts in killed.items()}
    (tmp_path / "cost-000.json").write_text(json.dumps(killed))
    config = PipelineCostConfig(model=str(tiny_llama), window_tokens=128, windows=24, threads=1)
    found = measure_build(ROWS, config, tmp_path)
    # documents of both categories in turn, and no more than are needed
    assert found["windows"] >= 24 > found["windows"] - found["windows"] / found["documents"]
    assert found["kept_windows"] == pytest.approx(found["windows"] / 2, abs=1) and found["runs"] == 2
    stages = found["stages"]
    assert [*stages] == [*STAGES]
    own = json.loads((tmp_path / "cost-001.json").read_text())
    assert own.keys() == STAGES.keys() and all(0 < one["cpu_s"] <= one["wall_s"] * 1.5 for one in own.values())
    assert stages["start-up"]["wall_s"] == 3 and stages["tokenising"]["peak_mb"] == 9e9
    assert stages["tokenising"]["wall_s"] == pytest.approx(1000 + own["tokenising"]["wall_s"])
    assert stages["scoring"]["cpu_s"] == own["scoring"]["cpu_s"] and stages["scoring"]["peak_mb"] > 50
    for kind in ("wall", "cpu"):
        assert sum(one[f"{kind}_share"] for one in stages.values()) == pytest.approx(1, abs=1e-3)
    # the same windows built once more, with a certified cut
    certified = measure_build(ROWS, replace(config, certify=True), tmp_path / "certified")
    assert (found["certify"], certified["certify"]) == (False, True)
    compared = compare_builds(tmp_path, tmp_path / "certified")
    assert compared["kept_by_exact"] == found["kept_windows"]
    assert compared["kept_by_certified"] == certified["kept_windows"]
    assert found["kept_windows"] - 1 <= compared["kept_by_both"] <= found["kept_windows"]
    assert sum(compared["windows_by_share_of_rows_read"].values()) == found["windows"] == certified["windows"]


def test_builds_are_compared_window_by_window(tmp_path):
    ids, shares = ["a", "b", "c", "d"], [1.0, 0.0625, 0.0625, 1.0]
    for name, order, kept in (("one", [0, 1, 2, 3], "ab"), ("two", [3, 1, 0, 2], "bd"), ("fewer", [0, 1], "a")):
        rows = [
            {CATEGORY: "book", ID: ids[i], KEPT: ids[i] in kept, ROW_FRACTION: shares[i] if name == "two" else 1.0}
            for i in order
        ]
        path = tmp_path / name / "out" / "scores" / "train-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert compare_builds(tmp_path / "one", tmp_path / "two") == {
        "kept_by_both": 1,
        "kept_by_exact": 2,
        "kept_by_certified": 2,
        "windows_by_share_of_rows_read": {"0.0625": 2, "1.0": 2},
    }
    with pytest.raises(ValueError, match="not of the same windows"):
        compare_builds(tmp_path / "one", tmp_path / "fewer")


def test_a_stages_peak_is_its_own(tmp_path):
    with StageMeter(tmp_path / "cost.json") as meter:
        meter.begin("tokenising")
        large = bytearray(300 * 2**20)
        meter.begin("scoring")
        del large
        meter.begin("writing")
    stages = json.loads((tmp_path / "cost.json").read_text())
    assert stages["tokenising"]["peak_mb"] - stages["writing"]["peak_mb"] > 250
