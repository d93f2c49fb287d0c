import pytest
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from longattn_hf.hub.client import httpx
from tests.support.hub_client import CLIENT_HEEDS_RETRY_AFTER

ROWS = {"text": ["a", "b", "", "😀"], "score": [0.5, 1.5, -2.0, 0.0]}


def test_a_pushed_dataset_comes_back_whole_and_streamed(hub):
    for name in ("arxiv", "book"):
        DatasetDict({"train": Dataset.from_dict(ROWS)}).push_to_hub("me/data", name, num_shards={"train": 3})
    assert load_dataset("me/data", "book", split="train").to_dict() == ROWS
    assert [row["text"] for row in load_dataset("me/data", "arxiv", split="train", streaming=True)] == ROWS["text"]
    assert len(hub.requests("PUT", "/lfs/")) == 3, "the second configuration's bytes are stored already"


def test_a_pull_request_leaves_main_as_it_was(hub):
    hub.create("me/data", {"README.md": b"hello"})
    info = HfApi().upload_file(
        path_or_fileobj=b"new", path_in_repo="a.txt", repo_id="me/data", repo_type="dataset", create_pr=True
    )
    assert info.pr_num == 1
    assert "a.txt" not in hub.repos["dataset", "me/data"].files
    found = hf_hub_download("me/data", "a.txt", repo_type="dataset", revision="refs/pr/1")
    assert open(found, "rb").read() == b"new"


def test_a_long_tree_comes_in_pages(hub):
    hub.create("me/data", {f"folder/{i:04d}.txt": b"" for i in range(1500)})
    names = [entry.path for entry in HfApi().list_repo_tree("me/data", repo_type="dataset", recursive=True)]
    assert len(names) == 1502 and len(set(names)) == 1502


def test_ranges_are_served_here_and_from_another_origin_without_the_token(hub):
    hub.create("me/data", {"big.bin": bytes(range(200))}, private=True)
    for hub.cdn in (False, True):
        HfFileSystem.clear_instance_cache()
        with HfFileSystem().open("datasets/me/data/big.bin", block_size=16) as file:
            file.seek(100)
            assert file.read(5) == bytes(range(100, 105))
    assert hub.requests("GET", "/cdn/") and not any(entry.authorized for entry in hub.requests("GET", "/cdn/"))


def test_gated_private_and_foreign_repositories_are_refused(hub):
    hub.create("other/gated", {"a.txt": b"x"}, gated=True)
    hub.create("other/private", {"a.txt": b"x"}, private=True)
    with pytest.raises(GatedRepoError):
        hf_hub_download("other/gated", "a.txt", repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        HfApi().repo_info("other/private", repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        HfApi(token="hf_wrong").repo_info("other/gated", repo_type="dataset")


def test_faults_happen_as_often_as_asked(hub, clock):
    hub.create("me/data", {"a.txt": b"0123456789"})
    hub.fault("GET", "/resolve/", "drop_body", keep=4)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{hub.endpoint}/datasets/me/data/resolve/main/a.txt")
    hub.fault("GET", "/resolve/", "truncate", keep=4)
    assert httpx.get(f"{hub.endpoint}/datasets/me/data/resolve/main/a.txt").content == b"0123"
    hub.fault("GET", "/resolve/", "corrupt")
    assert httpx.get(f"{hub.endpoint}/datasets/me/data/resolve/main/a.txt").content == b"\xff" * 10
    hub.fault("GET", "/resolve/", "reset")
    with pytest.raises(httpx.ReadError):
        httpx.get(f"{hub.endpoint}/datasets/me/data/resolve/main/a.txt")
    assert httpx.get(f"{hub.endpoint}/datasets/me/data/resolve/main/a.txt").content == b"0123456789"
    if not CLIENT_HEEDS_RETRY_AFTER:
        return
    hub.fault("GET", "/api/", status=429, headers={"Retry-After": "2"}, times=2, skip=1)
    names = [entry.path for entry in HfApi().list_repo_tree("me/data", repo_type="dataset")]
    names += [entry.path for entry in HfApi().list_repo_tree("me/data", repo_type="dataset")]
    assert names == [".gitattributes", "a.txt"] * 2 and clock.slept == [3.0, 3.0]


def test_an_upload_through_xet_arrives(hub, run_python, tmp_path):
    hub.xet_dir = tmp_path
    done = run_python(
        "import os; del os.environ['HF_HUB_DISABLE_XET']; from datasets import Dataset, load_dataset\n"
        "import datasets; datasets.config.USE_PARQUET_EXPORT = False; "
        "Dataset.from_dict({'n': list(range(5000))}).push_to_hub('me/data'); "
        "print(sum(load_dataset('me/data', split='train')['n']))"
    )
    assert done.stdout.strip() == str(sum(range(5000)))
    assert not hub.requests("PUT", "/lfs/") and hub.requests("GET", "/xet-write-token/")
