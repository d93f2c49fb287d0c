"""Builds on a real Ray cluster of two nodes: whoever makes a shard, and whoever dies, the bytes are the same."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml
from datasets import Dataset

from longattn_hf.files import read_record, write_record
from longattn_hf.pipeline import build, load_config
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.run import make_transform
from longattn_hf.pipeline.scoring import Scoring, make_scorers
from longattn_hf.pipeline.shards import ScoredShards
from longattn_hf.pipeline.sources import open_sources
from longattn_hf.pipeline.stages import Windowing
from tests.support.recipes import text, write_recipe

ROOT = Path(__file__).parents[2]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


def test_without_ray_the_engine_says_what_to_install(run_python, recipe, tmp_path):
    given = ["build", "--config", str(recipe), "--output_dir", str(tmp_path / "out"), "--engine", "ray"]
    program = "import sys; sys.modules['ray'] = None; from longattn_hf.__main__ import main; "
    said = run_python(f"{program}main({given})", exits=2).stderr
    assert said == "build: The engine ray needs Ray: pip install 'longattn_hf[ray]'.\n"
    assert "pip install 'longattn_hf[ray]'" in run_python(f"{program}import longattn_hf.ray", exits=1).stderr
    # whoever goes through all modules of the package knows what that is
    run_python(f"{program}\ntry:\n    import longattn_hf.ray\nexcept ImportError:\n    sys.exit(3)", exits=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 2}, "workers: settings of an engine, and none is named; give --engine ray"),
        ({"engine": "spark"}, "engine='spark' in .* must be 'ray'"),
    ],
)
def test_settings_of_engines_are_checked(recipe, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        build(load_config(recipe, {"output_dir": str(tmp_path / "out")} | settings))
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def recipe(tiny_llama, tmp_path_factory):
    """A configuration of two categories of two files, whose scores need no model."""
    folder = tmp_path_factory.mktemp("recipe")
    documents = {
        category: [{"id": f"{category}{i}", "text": text(1 + 40 * i, f"{category}{i}")} for i in range(24)]
        for category in ("arxiv", "book")
    }
    return write_recipe(folder, tiny_llama, documents, parts=2, documents_per_shard=1, scorers=["gzip", "random"])


def start(recipe, output, *words, program=("-m", "longattn_hf", "build")):
    command = [sys.executable, *program, "--config", str(recipe), "--output_dir", str(output), *words]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(child):
    output, errors = child.communicate(timeout=600)
    assert child.returncode == 0, errors
    return output


def refusal_of(errors):
    """The last line of what a build said, which no traceback goes before."""
    assert "Traceback" not in errors, errors
    (line,) = (line for line in errors.splitlines() if line.startswith("build: "))
    return line


def results(output):
    """Every byte of the dataset, and of all shards."""
    work = BuildFolder(output).work
    private = {path for name in ("windows", "scores*") for path in work.glob(f"{name}/*/*")}
    files = (path for path in Path(output).rglob("*") if path.is_file())
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(files)
        if path in private or work not in path.parents
    }


def scored(output):
    """How many shards of scores there are."""
    return len(list(BuildFolder(output).work.glob("scores-*/*/[!.]*.parquet")))


# of 48 shards of windows, by two scorers
EVERY = 96


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    finish(start(recipe, output))
    return results(output)


def until(is_so, *, seconds=200.0):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


class Cluster:
    """Two nodes, each of one CPU, that processes of this machine stand for."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args=NODE)
        self.nodes = [self._cluster.head_node, self._cluster.add_node(**NODE)]
        self.address = self._cluster.address

    def workers(self, node):
        """The processes of a node's workers."""
        found = []
        for process in psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True):
            try:
                found += [process] if process.cmdline()[:1] and "_Worker" in process.cmdline()[0] else []
            except psutil.NoSuchProcess:
                continue
        return found

    def all_workers(self):
        return [worker for node in self.nodes for worker in self.workers(node)]

    def kill_a_node(self):
        self._cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def heal(self):
        if len(self.nodes) == 1:
            self.nodes.append(self._cluster.add_node(**NODE))
        until(lambda: not self.all_workers())

    def see_both_at_work(self, output, *, more=3):
        """Stops each node's worker in turn, and waits until the other has scored shards without it."""
        until(lambda: scored(output) and all(map(self.workers, self.nodes)))
        for node in self.nodes:
            (stopped,) = self.workers(node)
            stopped.suspend()
            # of what it was writing when it was stopped, nothing is renamed any more
            before = scored(output)
            until(lambda before=before: scored(output) >= before + more)
            stopped.resume()

    def stop(self):
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def two_nodes():
    pytest.importorskip("ray", reason="no Ray: pip install 'longattn_hf[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", str(ROOT))
        cluster = Cluster()
        yield cluster
        cluster.stop()


@pytest.fixture
def cluster(two_nodes):
    yield two_nodes
    two_nodes.heal()


@pytest.fixture
def on_ray(cluster, recipe, tmp_path):
    """Starts a build on the cluster, in `tmp_path / "out"`."""
    children = []

    def start_one(*words):
        output = tmp_path / "out"
        children.append(start(recipe, output, "--engine", "ray", "--address", cluster.address, *words))
        return children[-1], output

    yield start_one
    for child in children:
        child.kill()
        child.communicate()


@pytest.mark.slow
def test_two_nodes_take_work_and_end_in_the_bytes_of_one_process(on_ray, cluster, recipe, undisturbed):
    child, output = on_ray()
    cluster.see_both_at_work(output)
    (slow,) = cluster.workers(cluster.nodes[0])
    slow.suspend()
    with pytest.raises(ValueError, match="is being built by process"):
        build(load_config(recipe, {"output_dir": str(output)}))
    # all but those of the shard that the slow one is at
    until(lambda: scored(output) >= EVERY - 2)
    slow.resume()
    assert "windows scored" in finish(child)
    assert results(output) == undisturbed


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again(on_ray, cluster, undisturbed):
    child, output = on_ray()
    cluster.see_both_at_work(output)
    (worker,) = cluster.workers(cluster.nodes[0])
    worker.kill()
    finish(child)
    assert results(output) == undisturbed


@pytest.mark.slow
def test_a_node_that_dies_leaves_its_work_to_the_other(on_ray, cluster, undisturbed):
    child, output = on_ray()
    cluster.see_both_at_work(output)
    cluster.kill_a_node()
    finish(child)
    assert results(output) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("then", ["ray", "processes"])
def test_the_driver_dies_and_its_workers_with_it_and_the_same_command_goes_on(
    on_ray, cluster, recipe, undisturbed, then
):
    child, output = on_ray()
    cluster.see_both_at_work(output)
    child.kill()
    child.wait()
    until(lambda: not cluster.all_workers(), seconds=60)
    assert 0 < scored(output) < EVERY
    finish(on_ray()[0] if then == "ray" else start(recipe, output))
    assert results(output) == undisturbed


@pytest.mark.slow
def test_what_processes_began_ends_under_ray(on_ray, recipe, undisturbed, tmp_path):
    child = start(recipe, tmp_path / "out")
    until(lambda: scored(tmp_path / "out") > 20)
    child.kill()
    child.communicate()
    assert scored(tmp_path / "out") < EVERY
    child, output = on_ray()
    finish(child)
    assert results(output) == undisturbed


@pytest.mark.slow
def test_rounds_of_a_certified_cut_with_a_model_are_shared_out_too(on_ray, recipe, tmp_path):
    words = ["--scorers", "[longattn]", "--certify", "true"]
    finish(start(recipe, tmp_path / "plain", *words))
    child, output = on_ray(*words)
    finish(child)
    assert any(name.startswith("work/scores-longattn-exact/") for name in results(output))
    assert results(output) == results(tmp_path / "plain")


@pytest.mark.slow
def test_a_bad_document_is_refused_in_the_words_of_a_build_without_ray(on_ray, recipe, tmp_path):
    rows = [{"id": "a", "text": "the far tokens " * 40}, {"id": "b", "text": None}]
    Dataset.from_list(rows).to_parquet(tmp_path / "bad.parquet")
    sources = f"[{{category: book, path: parquet, data_files: {tmp_path / 'bad.parquet'}}}]"
    words = ["--on_error", "raise", "--sources", sources]
    lines = []
    for child in (start(recipe, tmp_path / "plain", *words), on_ray(*words)[0]):
        _, errors = child.communicate(timeout=600)
        assert child.returncode == 2, errors
        lines.append(refusal_of(errors))
    assert "row 2, cannot be read as a document: missing" in lines[0] and lines[0] == lines[1]


@pytest.mark.slow
def test_a_node_without_the_folder_is_refused_by_name(cluster, recipe, tmp_path):
    """A node in a file system of its own, where another folder lies under the name of the build's."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    mount = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "sh"]
    if subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("no right to mount")
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", cluster.address]
    extra = [*ray, "--num-cpus", "4", "--object-store-memory", str(80 * 2**20), "--block"]
    node = subprocess.Popen([*mount, *extra], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert any("Ray runtime started" in line for line in node.stdout)
        child = start(recipe, hidden / "out", "--engine", "ray", "--address", cluster.address, "--workers", "6")
        # those that see the folder must not be through before the others are there
        until(lambda: all(map(cluster.workers, cluster.nodes)))
        stopped = cluster.all_workers()
        for worker in stopped:
            worker.suspend()
        _, errors = child.communicate(timeout=600)
        for worker in filter(psutil.Process.is_running, stopped):
            worker.resume()
        last = refusal_of(errors)
        assert child.returncode == 2 and "does not see the build's folder" in last, errors
        assert f"The node {os.uname().nodename}" in last and "need one shared folder" in last
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait(timeout=60)


def stages_of(config):
    """Both stages of a build that was begun."""
    folder = BuildFolder(config.folder)
    sources = tuple(open_sources(config.sources, folder.sources))
    yield Windowing(sources, make_transform(config), folder, config.documents_per_shard)
    yield Scoring(ScoredShards.load(folder), make_scorers(config))


@pytest.fixture(scope="module")
def engine():
    return pytest.importorskip("longattn_hf.pipeline.ray_engine", exc_type=ImportError)


def test_a_unit_that_is_done_twice_is_the_same_bytes_and_a_worker_without_its_driver_writes_nothing(
    engine, recipe, undisturbed, tmp_path
):
    config = load_config(recipe, {"output_dir": str(tmp_path / "out")})
    build(config)
    before, folder = results(config.folder), BuildFolder(config.folder)
    stages = list(stages_of(config))
    for path in folder.work.glob("*/*/*.parquet"):
        path.unlink()
    for stage in stages:
        for unit in [*stage.units(3, slice(None))] * 2:
            stage.do(unit, lambda count: None)
    assert results(config.folder) == before
    # the card names the command, and here is none
    assert all(before[name] == content for name, content in undisturbed.items() if name.startswith("work/"))
    write_record(folder.owner, {"host": "there", "pid": 1, "started": "yesterday"})
    worker, unit = engine._Worker(), next(iter(stages[0].units(1, slice(None))))
    promise = engine._Promise(read_record(folder.owner), {}, stages[0].made_with(), str(tmp_path))
    worker.begin(stages[0], promise)
    worker.do(unit)
    with pytest.raises(ValueError, match=r"by longattn_hf \(.* there, 0 here\): give all nodes"):
        worker.begin(stages[0], replace(promise, software={"longattn_hf": "0"}))
    for path in folder.windows.rglob("*.parquet"):
        path.unlink()
    write_record(folder.owner, {"host": "there", "pid": 2, "started": "today"})
    with pytest.raises(ValueError, match="does not see the build's folder"):
        worker.do(unit)
    assert not list(folder.windows.rglob("*.parquet"))


@pytest.mark.slow
def test_a_unit_that_ends_every_worker_is_named(cluster, run_python, tmp_path):
    program = f"""
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.ray_engine import RayCluster

def main():
    import os
    class Deadly:
        name, counted, runs_models, folder = "deadly", "units", False, BuildFolder({str(tmp_path)!r})
        def units(self, workers, share): return ["harmless", "deadly"]
        def size(self, unit): return 1
        def do(self, unit, tick): unit == "harmless" or os._exit(1)
        def made_with(self): return {{}}
    with Deadly.folder.owned():
        try:
            RayCluster(address={cluster.address!r}, workers=1).run(Deadly())
        except ValueError as error:
            print(error)
main()
"""
    assert "deadly has ended 5 workers" in run_python(program).stdout


@pytest.mark.slow
def test_a_data_set_of_ray_data_is_windowed_and_scored_with_all_its_columns(run_python, recipe):
    pytest.importorskip("ray", reason="no Ray: pip install 'longattn_hf[ray]'")
    model = yaml.safe_load(recipe.read_text())["model"]
    program = f"""
import ray, pyarrow as pa
from longattn_hf import LongAttnScorer, WindowDocuments, on_arrow
from longattn_hf.ray import map_dataset
# two actors, and whoever reads
ray.init("local", num_cpus=3, object_store_memory=80 * 2**20, include_dashboard=False)
docs = ray.data.read_parquet({str(recipe.parent / "book-0.parquet")!r})
cut, scorer = WindowDocuments(tokenizer={model!r}, window_tokens=32), LongAttnScorer({model!r}, device="cpu")
scored = map_dataset(map_dataset(docs, cut, workers=1), scorer, workers=1)
table = pa.concat_tables(ray.get(scored.to_arrow_refs()), promote_options="permissive").sort_by("id")
import pyarrow.parquet as pq
plain = on_arrow(scorer)(on_arrow(cut)(pq.read_table({str(recipe.parent / "book-0.parquet")!r}))).sort_by("id")
assert table.num_rows == plain.num_rows > 100 and set(table.column_names) == set(plain.column_names)
assert all(table[name].to_pylist() == plain[name].to_pylist() for name in plain.column_names)
try:
    map_dataset(docs, len)
except ValueError as error:
    print(error)
"""
    done = run_python(program, RAY_AUTH_MODE="disabled", PYTHONPATH=str(ROOT))
    assert "on_arrow takes a scorer or WindowDocuments" in done.stdout
