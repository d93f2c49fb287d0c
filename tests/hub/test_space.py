import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml
from huggingface_hub import HfApi, snapshot_download
from packaging.requirements import Requirement

from longattn_hf import publish_space
from longattn_hf.explore.scored_corpus import ScoredCorpus
from tests.support.scored_build import write_build


@pytest.fixture
def published(hub, tmp_path):
    write_build(tmp_path / "out")
    HfApi().create_repo("me/small", repo_type="dataset")
    HfApi().upload_folder(
        repo_id="me/small", folder_path=tmp_path / "out", repo_type="dataset", ignore_patterns=["work/*"]
    )
    return hub


def test_a_space_holds_the_explorer_and_says_which_data_set_it_shows(published, tmp_path):
    commit = publish_space("me/look", "me/small", private=True)
    space = HfApi().repo_info("me/look", repo_type="space")
    assert space.sha == commit and space.private
    snapshot_download("me/look", repo_type="space", local_dir=tmp_path / "space")
    front = yaml.safe_load((tmp_path / "space" / "README.md").read_text().split("---")[1])
    assert (front["sdk"], front["app_file"], front["datasets"]) == ("gradio", "app.py", ["me/small"])
    needed = {Requirement(line).name for line in (tmp_path / "space" / "requirements.txt").read_text().splitlines()}
    assert {"torch", "transformers", "datasets", "accelerate"} <= needed and not {"gradio", "pytest"} & needed
    assert (tmp_path / "space" / "longattn_hf" / "pages" / "explorer.js").is_file()
    texts = [path.read_text() for path in (tmp_path / "space").rglob("*.*") if path.suffix in (".py", ".md", ".txt")]
    assert "hf_writer" not in "".join(texts)
    # the same again makes no commit
    assert publish_space("me/look", "me/small") == commit


def test_the_published_space_runs_and_shows_the_data_set(published, tmp_path):
    pytest.importorskip("gradio", reason="no Gradio: pip install 'longattn_hf[explore]'")
    publish_space("me/look", "me/small")
    snapshot_download("me/look", repo_type="space", local_dir=tmp_path / "space")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "PYTHONPATH": str(tmp_path / "space")}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=tmp_path / "space", env=environment)
    try:
        for _ in range(600):
            assert process.poll() is None, "the Space ended"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=20) as answer:
                    config = json.load(answer)
                break
            except OSError:
                time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(20)
    assert config["title"] == "me/small: LongAttn explorer"
    headline = next(it["props"]["value"] for it in config["components"] if it["props"].get("elem_id") == "headline")
    assert f"{len(ScoredCorpus('me/small'))} windows scored" in headline


def test_a_name_without_its_owner_is_refused():
    with pytest.raises(ValueError, match="give 'owner/look'"):
        publish_space("look", "me/small")
    with pytest.raises(ValueError, match="give 'owner/small'"):
        publish_space("me/look", "small")


def test_a_space_that_is_public_or_shows_something_else_is_left_alone(hub):
    publish_space("me/open", "me/small")
    with pytest.raises(ValueError, match="private=True is given, but me/open is public"):
        publish_space("me/open", "me/small", private=True)
    theirs = hub.create("me/app", {"app.py": b"print('mine')"}, type="space")
    with pytest.raises(ValueError, match="the space repository me/app holds something else .app.py., which"):
        publish_space("me/app", "me/small")
    assert theirs.files["app.py"] == b"print('mine')"
    empty = hub.create("me/new", {"README.md": b"# Soon\n", ".gitignore": b"*.css\n"}, type="space")
    with pytest.raises(ValueError, match="the .gitignore of me/new keeps longattn_hf/pages/.*css.*[*].css"):
        publish_space("me/new", "me/small")
    assert "app.py" not in empty.files


def test_a_space_that_reads_back_differently_is_an_error(hub):
    space = hub.create("me/look", {"README.md": b"# Soon\n"}, type="space")

    def spoil():
        space.resolve("main").tree.pop("longattn_hf/files.py", None)

    hub.fault("GET", "/tree/", "call", call=spoil, skip=2)
    with pytest.raises(RuntimeError, match="differs from what was sent: longattn_hf/files.py"):
        publish_space("me/look", "me/small")
