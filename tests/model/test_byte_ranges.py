import json
import signal
import struct
import subprocess
import sys

import pytest
import torch
from huggingface_hub import HfApi, cached_assets_path, snapshot_download
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from longattn_hf.model.byte_ranges import fetch_tensors
from longattn_hf.model.first_layer import FirstLayer
from tests.model.test_first_layer import ARCHITECTURES, save_model
from tests.support.tiny import build_tokenizer

NEEDED = [
    "model.embed_tokens.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.0.self_attn.q_proj.weight",
]
IDS = torch.arange(40)[None] * 7 % 300


def upload(hub, folder, repo_id, **flags):
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return hub.create(repo_id, files, type="model", **flags)


def ranges(hub):
    """The weights' byte ranges that were asked for: file, first byte, last byte and status of each."""
    asked = [entry for entry in hub.log if entry.method == "GET" and entry.path.endswith(".safetensors")]
    assert all(entry.range for entry in asked), "no file is read whole"
    spans = [(entry.path.rpartition("/")[2], *map(int, entry.range[6:].split("-")), entry.status) for entry in asked]
    return sorted(spans)


def header_of(data):
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), 8 + length


def assert_only_what_is_needed_was_asked_for(hub, files):
    """Every data byte asked for belongs to a needed tensor, and every byte of those was asked for once."""
    allowed, asked = {}, {}
    for file, data in files.items():
        header, start = header_of(data)
        spans = [header[name]["data_offsets"] for name in NEEDED if name in header]
        allowed[file] = {start + byte for first, stop in spans for byte in (first, stop - 1)}
        needed = sum(stop - first for first, stop in spans)
        data_ranges = [span for span in ranges(hub) if span[0] == file and span[1] >= start]
        asked[file] = sum(last - first + 1 for _, first, last, _ in data_ranges)
        assert asked[file] == needed
        for _, first, last, _ in data_ranges:
            assert any(start + lo <= first and last < start + hi for lo, hi in merged(spans)), file
        headers = [span for span in ranges(hub) if span[0] == file and span[1] < start]
        assert all(last < start for _, _, last, _ in headers)
    return sum(asked.values())


def merged(spans):
    joined = []
    for first, stop in sorted(spans):
        if joined and joined[-1][1] == first:
            joined[-1][1] = stop
        else:
            joined.append([first, stop])
    return joined


@pytest.fixture
def sharded(tiny_llama, tmp_path):
    folder = tmp_path / "sharded"
    LlamaForCausalLM.from_pretrained(tiny_llama).save_pretrained(folder, max_shard_size="40KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_llama / name).read_bytes())
    return folder


@pytest.mark.parametrize("cdn", [False, True], ids=["from the Hub", "from another origin"])
@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_a_remote_layer_is_the_local_one_and_costs_its_own_bytes(hub, request, tiny_llama, kind, cdn):
    folder = tiny_llama if kind == "single" else request.getfixturevalue("sharded")
    hub.cdn = cdn
    repo_id = f"me/{kind}{cdn}"
    repo = upload(hub, folder, repo_id, private=True)
    layer = FirstLayer.from_pretrained(repo_id, dtype="float32", device="cpu")
    local = FirstLayer.from_pretrained(str(tiny_llama), dtype="float32", device="cpu")
    for ours, theirs in zip(layer.query_key(IDS)[:2], local.query_key(IDS)[:2], strict=True):
        assert torch.equal(ours, theirs)
    assert layer.identity["sha256"] == local.identity["sha256"]
    assert layer.identity["revision"] == repo.refs["refs/heads/main"]
    files = {name: data for name, data in repo.files.items() if name.endswith(".safetensors")}
    whole = sum(map(len, files.values()))
    if not cdn:
        assert 0 < assert_only_what_is_needed_was_asked_for(hub, files) < whole / 2
    hub.log.clear()
    FirstLayer.from_pretrained(repo_id, dtype="float32", device="cpu")
    assert not ranges(hub), "what was read once is kept"


def seventy_b(scale):
    """Names and shapes of Llama-3.1-70B, each dimension divided by `scale`."""
    hidden, inner, keys, vocabulary = (size // scale for size in (8192, 28672, 1024, 128256))
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden)}
    for layer in range(80):
        at = f"model.layers.{layer}"
        for name, shape in {
            "q": (hidden, hidden),
            "k": (keys, hidden),
            "v": (keys, hidden),
            "o": (hidden,) * 2,
        }.items():
            shapes[f"{at}.self_attn.{name}_proj.weight"] = shape
        for name in ("gate", "up"):
            shapes[f"{at}.mlp.{name}_proj.weight"] = (inner, hidden)
        shapes[f"{at}.mlp.down_proj.weight"] = (hidden, inner)
        for name in ("input", "post_attention"):
            shapes[f"{at}.{name}_layernorm.weight"] = (hidden,)
    return shapes | {"model.norm.weight": (hidden,)}


def bf16_bytes(shapes):
    return sum(2 * torch.Size(shape).numel() for shape in shapes)


def test_of_a_70b_checkpoint_one_part_in_sixty_is_asked_for(hub, tmp_path):
    full = seventy_b(1)
    whole, part = bf16_bytes(full.values()), bf16_bytes(full[name] for name in NEEDED)
    assert (round(whole / 1e9, 1), round(part / 1e9, 2)) == (141.1, 2.25)
    shapes = seventy_b(64)
    names, index = list(shapes), {}
    for number in range(30):
        mine = names[number::30] if number else [name for name in names[::30]]
        torch.manual_seed(number)
        file = f"model-{number + 1:05d}-of-00030.safetensors"
        save_file({name: torch.randn(shapes[name]).bfloat16() for name in mine}, tmp_path / file)
        index |= dict.fromkeys(mine, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    repo = upload(hub, tmp_path, "me/big")
    path = fetch_tensors("me/big", repo.refs["refs/heads/main"], lambda _: dict.fromkeys(NEEDED))
    found = load_file(path)
    assert set(found) == set(NEEDED)
    for name, tensor in found.items():
        assert torch.equal(tensor, load_file(tmp_path / index[name])[name])
    files = {name: repo.files[name] for name in {index[name] for name in NEEDED}}
    asked = assert_only_what_is_needed_was_asked_for(hub, files)
    assert {file for file, *_ in ranges(hub)} == set(files), "other shards are not even opened"
    assert asked / bf16_bytes(shapes.values()) == pytest.approx(part / whole, rel=0.01)


def test_neighbours_come_in_one_request_and_large_tensors_in_pieces(hub, tmp_path, monkeypatch):
    tensors = {name: torch.full((64,), float(number)) for number, name in enumerate("abcde")}
    save_file(tensors, tmp_path / "model.safetensors")
    repo = upload(hub, tmp_path, "me/parts")
    commit = repo.refs["refs/heads/main"]
    start = header_of(repo.files["model.safetensors"])[1]
    assert set(load_file(fetch_tensors("me/parts", commit, lambda _: dict.fromkeys("abd")))) == {"a", "b", "d"}
    data = [(first - start, last - start) for _, first, last, _ in ranges(hub) if first >= start]
    assert data == [(0, 511), (768, 1023)]
    hub.log.clear()
    monkeypatch.setattr("longattn_hf.model.byte_ranges._PIECE_BYTES", 100)
    found = load_file(fetch_tensors("me/parts", commit, lambda _: {"e": None}))
    assert found["e"].tolist() == [4.0] * 64
    assert [last - first + 1 for _, first, last, _ in ranges(hub) if first >= start] == [100, 100, 56]


def byte_ranges(data, name, rows=slice(None)):
    """Where the rows of a tensor stand in a safetensors file: the first byte, and the one behind the last."""
    header, start = header_of(data)
    (first, stop), count = header[name]["data_offsets"], header[name]["shape"][0]
    width = (stop - first) // count
    lines = range(count)[rows]
    return start + first + lines[0] * width, start + first + (lines[-1] + 1) * width


@pytest.mark.parametrize("shards", [None, "30KB"], ids=["single", "sharded"])
def test_of_a_fused_projection_the_rows_of_the_queries_and_keys_are_fetched_and_no_byte_of_the_values(
    hub, tmp_path, shards
):
    # 4 query heads and 2 key heads of 16: of 128 rows, 64 make queries, 32 keys and 32 values
    model = save_model(tmp_path / "one", "Phi3")
    model.save_pretrained(tmp_path / "phi3", **({"max_shard_size": shards} if shards else {}))
    repo = upload(hub, tmp_path / "phi3", f"me/phi3-{shards}")
    layer = FirstLayer.from_pretrained(f"me/phi3-{shards}", device="cpu")
    local = FirstLayer.from_pretrained(str(tmp_path / "one"), device="cpu")
    assert layer.identity["sha256"] == local.identity["sha256"]
    for ours, theirs in zip(layer.query_key(IDS)[:2], local.query_key(IDS)[:2], strict=True):
        assert torch.equal(ours, theirs)
    at = "model.layers.0.self_attn.qkv_proj.weight"
    fetched = {}
    for file, first, last, _ in ranges(hub):
        fetched.setdefault(file, set()).update(range(first, last + 1))
    wanted = {at: slice(0, 96), "model.embed_tokens.weight": slice(None)}
    wanted["model.layers.0.input_layernorm.weight"] = slice(None)
    for file, data in repo.files.items():
        if file.endswith(".safetensors"):
            header, start = header_of(data)
            mine = {name: rows for name, rows in wanted.items() if name in header}
            bytes_of = [set(range(*byte_ranges(data, name, rows))) for name, rows in mine.items()]
            asked = {byte for byte in fetched.get(file, ()) if byte >= start}
            assert asked == set().union(*bytes_of), file
            if at in header:
                values = set(range(*byte_ranges(data, at, slice(96, 128))))
                assert len(values) == 32 * 64 * 4 and not values & fetched[file]


def test_the_values_of_a_fused_projection_change_neither_the_layer_nor_its_identity(tmp_path):
    model = save_model(tmp_path / "one", "Phi3")
    before = FirstLayer.from_pretrained(str(tmp_path / "one"), device="cpu")
    matrix = model.model.layers[0].self_attn.qkv_proj.weight
    for rows, same in ((slice(96, 128), True), (slice(95, 96), False)):
        with torch.no_grad():
            matrix[rows] += 1
        model.save_pretrained(tmp_path / "two")
        after = FirstLayer.from_pretrained(str(tmp_path / "two"), device="cpu")
        assert (after.identity["sha256"] == before.identity["sha256"]) is same
        assert torch.equal(after.query_key(IDS)[1], before.query_key(IDS)[1]) is same


@pytest.mark.parametrize("place", ["a folder", "the Hub"])
def test_a_fused_projection_of_another_size_than_the_configurations_is_refused(hub, tmp_path, place):
    save_model(tmp_path / "one", "Phi3")
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    (tmp_path / "one" / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 4}))
    upload(hub, tmp_path / "one", "me/phi3-of-another-size")
    with pytest.raises(ValueError, match=r"qkv_proj.weight has the shape \[128, 64\].* says 192 rows"):
        FirstLayer.from_pretrained(str(tmp_path / "one") if place == "a folder" else "me/phi3-of-another-size")


def test_where_heads_hold_queries_keys_and_values_in_turn_all_rows_are_fetched(hub, tmp_path):
    save_model(tmp_path / "neox", "GPTNeoX", rotary_pct=0.25)
    repo = upload(hub, tmp_path / "neox", "me/neox")
    FirstLayer.from_pretrained("me/neox", device="cpu")
    first, stop = byte_ranges(repo.files["model.safetensors"], "gpt_neox.layers.0.attention.query_key_value.weight")
    asked = {byte for _, low, high, _ in ranges(hub) for byte in range(low, high + 1)}
    assert set(range(first, stop)) <= asked


def test_a_model_that_the_cache_holds_whole_is_read_from_there(hub, tiny_llama):
    upload(hub, tiny_llama, "me/whole")
    snapshot_download("me/whole")
    hub.log.clear()
    FirstLayer.from_pretrained("me/whole", device="cpu")
    assert not ranges(hub)


def test_what_was_read_serves_offline_and_what_was_not_says_so(hub, tiny_llama, run_python):
    upload(hub, tiny_llama, "me/kept")
    upload(hub, tiny_llama, "me/known")
    FirstLayer.from_pretrained("me/kept", device="cpu")
    HfApi().hf_hub_download("me/known", "config.json")
    asked = len(hub.log)
    program = (
        "from longattn_hf.model.first_layer import FirstLayer\n"
        "print(FirstLayer.from_pretrained('me/kept', device='cpu').identity['sha256'])\n"
        "try: FirstLayer.from_pretrained('me/known', device='cpu')\n"
        "except ValueError as error: print(error)"
    )
    first, second = run_python(program, HF_HUB_OFFLINE="1").stdout.splitlines()
    assert first == FirstLayer.from_pretrained(str(tiny_llama), device="cpu").identity["sha256"]
    assert "first layer of 'me/known'" in second and "Load it once where there is a network" in second
    assert len(hub.log) == asked


def test_of_many_processes_one_downloads_and_the_others_wait(hub, tiny_llama):
    repo = upload(hub, tiny_llama, "me/shared")
    commit = repo.refs["refs/heads/main"]
    program = (
        "from longattn_hf.model.byte_ranges import fetch_tensors; from safetensors.torch import load_file\n"
        f"print(sorted(load_file(fetch_tensors('me/shared', {commit!r}, lambda _: dict.fromkeys({NEEDED})))))"
    )
    start = [sys.executable, "-c", program]
    several = [subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in several:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.strip() == str(NEEDED)
    data = ranges(hub)
    assert len(data) == len(set(data)) + 2, (
        "one download: its listing and its reading ask for the header, twice 2 ranges"
    )


def test_a_killed_download_leaves_nothing_that_would_be_read(hub, tiny_llama):
    repo = upload(hub, tiny_llama, "me/killed")
    commit = repo.refs["refs/heads/main"]
    fault = hub.fault("GET", "safetensors$", "hang", skip=5)
    program = (
        "from longattn_hf.model.byte_ranges import fetch_tensors\n"
        f"fetch_tensors('me/killed', {commit!r}, lambda _: dict.fromkeys({NEEDED}))"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    assert hub.hanging.wait(60) and fault.done
    process.kill()
    process.wait()
    folder = cached_assets_path("longattn_hf", namespace="me/killed", subfolder=commit)
    assert not list(folder.glob("[!.]*.safetensors")) and len(list(folder.glob(".*.tmp"))) == 1
    path = fetch_tensors("me/killed", commit, lambda _: dict.fromkeys(NEEDED))
    assert sorted(load_file(path)) == NEEDED and not list(folder.glob(".*.tmp"))


def test_a_download_killed_before_it_is_put_in_its_place_leaves_nothing_that_would_be_read(
    hub, tiny_llama, run_python
):
    commit = upload(hub, tiny_llama, "me/unplaced").refs["refs/heads/main"]
    # all is written: the process dies at the rename of the tensors' file
    program = (
        "import os, signal; from longattn_hf.model.byte_ranges import fetch_tensors\n"
        "rename = os.replace\n"
        "def die_at_the_tensors(source, target):\n"
        "    if str(target).endswith('.safetensors'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    rename(source, target)\n"
        "os.replace = die_at_the_tensors\n"
        f"fetch_tensors('me/unplaced', {commit!r}, lambda _: dict.fromkeys({NEEDED}))"
    )
    run_python(program, exits=-signal.SIGKILL)
    folder = cached_assets_path("longattn_hf", namespace="me/unplaced", subfolder=commit)
    assert not list(folder.glob("[!.]*.safetensors"))
    (left,) = folder.glob(".*.tmp")
    assert set(load_file(left)) == set(NEEDED), "it was complete"
    hub.log.clear()
    assert sorted(load_file(fetch_tensors("me/unplaced", commit, lambda _: dict.fromkeys(NEEDED)))) == NEEDED
    assert ranges(hub) and not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize(
    "settings",
    [
        dict(action="status", status=503),
        dict(action="status", status=429, headers={"Retry-After": "2"}),
        dict(action="reset"),
        dict(action="drop_body", keep=100),
        dict(action="truncate", keep=3),
    ],
    ids=lambda settings: f"{settings['action']} {settings.get('status', '')}",
)
def test_a_fault_that_passes_is_not_noticed(hub, clock, tiny_llama, settings):
    repo = upload(hub, tiny_llama, "me/faulty")
    for skip in (0, 5):
        hub.fault("GET", "safetensors$", skip=skip, **settings)
    path = fetch_tensors("me/faulty", repo.refs["refs/heads/main"], lambda _: dict.fromkeys(NEEDED))
    theirs = load_file(tiny_llama / "model.safetensors")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in load_file(path).items())


def lasting_faults():
    return {
        "truncated": (dict(action="truncate", keep=3), ValueError, "is cut short: of its bytes 0 to 7, 3 arrived"),
        "corrupted header": (dict(action="corrupt"), ValueError, "is damaged or arrived so .*its header"),
        "corrupted text": (dict(action="corrupt", skip=1), ValueError, "its header cannot be read: Unicode"),
        "corrupted range": (dict(action="corrupt", skip=4), ValueError, "model.* holds values that are not finite"),
        "forbidden": (dict(status=403), ValueError, "me/broken.*write permission|may not do this"),
        "unavailable": (dict(status=503), ConnectionError, "Reading 'me/broken' failed: .*503"),
        "reset": (
            dict(action="reset"),
            ConnectionError,
            "Reading 'me/broken' failed: the connection failed: .*ReadError",
        ),
    }


@pytest.mark.parametrize("name", lasting_faults())
def test_a_fault_that_stays_says_what_to_do_and_keeps_nothing(hub, clock, tiny_llama, name):
    commit = upload(hub, tiny_llama, "me/broken").refs["refs/heads/main"]
    settings, error, message = lasting_faults()[name]
    hub.fault("GET", "safetensors$", times=None, **settings)
    with pytest.raises(error, match=message):
        FirstLayer.from_pretrained("me/broken", device="cpu")
    folder = cached_assets_path("longattn_hf", namespace="me/broken", subfolder=commit)
    assert not [path for path in folder.iterdir() if path.suffix in (".safetensors", ".tmp")]


def test_a_file_that_contradicts_its_header_or_the_index_is_refused(hub, tiny_llama, sharded, tmp_path):
    data = (tiny_llama / "model.safetensors").read_bytes()
    cases = {
        "it has .* bytes, and its header tells of": {"model.safetensors": data + b"\0"},
        "does not fill the bytes": {"model.safetensors": data.replace(b'"shape":[300,64]', b'"shape":[300,65]')},
        "header would end at": {"model.safetensors": struct.pack("<Q", 1 << 60) + data[8:]},
        "is cut short": {"model.safetensors": b"\x01\x02"},
        "it lacks the tensor model.embed_tokens.weight": {
            "model.safetensors": data,
            "model.safetensors.index.json": json.dumps(
                {"weight_map": dict.fromkeys(NEEDED, "other.safetensors")}
            ).encode(),
            "other.safetensors": (tmp_path / "other.safetensors"),
        },
        "is not an index": {"model.safetensors": data, "model.safetensors.index.json": b"[]"},
    }
    save_file({"something.else": torch.zeros(4)}, tmp_path / "other.safetensors")
    for number, (message, files) in enumerate(cases.items()):
        files = {name: data if isinstance(data, bytes) else data.read_bytes() for name, data in files.items()}
        files["config.json"] = (tiny_llama / "config.json").read_bytes()
        hub.create(f"me/case{number}", files, type="model")
        with pytest.raises(ValueError, match=message):
            FirstLayer.from_pretrained(f"me/case{number}", device="cpu")


def test_a_model_that_may_not_be_read_says_why(hub, tiny_llama, tmp_path):
    upload(hub, tiny_llama, "other/gated", gated=True)
    upload(hub, tiny_llama, "other/private", private=True)
    upload(hub, tiny_llama, "me/open")
    hub.create("me/pickled", {"config.json": (tiny_llama / "config.json").read_bytes(), "a.bin": b""}, type="model")
    cases = [
        ("other/gated", {}, "gated: ask for access"),
        ("other/private", {}, "no such repository, or it is private"),
        ("me/absent", {}, "no such repository, or it is private"),
        ("me/open", {"token": "hf_wrong"}, "does not accept the token: log in"),
        ("me/open", {"revision": "v9"}, r"no such branch, tag or commit \(any more\): check `revision`"),
        ("me/pickled", {}, "neither model.safetensors nor .*can run code"),
    ]
    for model, settings, message in cases:
        with pytest.raises(ValueError, match=message) as raised:
            FirstLayer.from_pretrained(model, device="cpu", **settings)
        assert "hf_wrong" not in str(raised.value)


@pytest.mark.parametrize("source", ["a folder", "the Hub"])
def test_a_saved_layer_is_a_small_model_that_loads_alike(hub, tiny_llama, sharded, tmp_path, source):
    upload(hub, sharded, "me/source")
    theirs = FirstLayer.from_pretrained(
        str(tiny_llama) if source == "a folder" else "me/source", device="cpu", dtype="bfloat16", rope_theta=5e5
    )
    theirs.save_pretrained(tmp_path / "layer")
    whole = load_file(tiny_llama / "model.safetensors")
    saved = load_file(tmp_path / "layer" / "model.safetensors")
    assert set(saved) == set(NEEDED) and all(torch.equal(saved[name], whole[name]) for name in saved)
    ours = FirstLayer.from_pretrained(str(tmp_path / "layer"), device="cpu", dtype="bfloat16")
    for mine, other in zip(ours.query_key(IDS)[:2], theirs.query_key(IDS)[:2], strict=True):
        assert torch.equal(mine, other)
    assert ours.identity["sha256"] == theirs.identity["sha256"]
    assert ours.config.first_layer_of["rope_theta"] == 5e5
    card = (tmp_path / "layer" / "README.md").read_text()
    assert ("base_model: me/source" in card) == (source == "the Hub") and '"rope_theta": 500000.0' in card
    assert str(tiny_llama.parent) not in card + (tmp_path / "layer" / "config.json").read_text()
    # and once more, from the small model
    ours.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "layer" / "model.safetensors"
    ).read_bytes()


# those whose checkpoints name or fuse the tensors differently from transformers' modules, or have more of them
@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "phi3", "gemma3", "mixtral", "llama4", "deepseek v3"])
def test_a_saved_layer_of_any_architecture_loads_alike(tmp_path, name):
    kind, settings = ARCHITECTURES[name]
    save_model(tmp_path / "model", kind, **settings)
    build_tokenizer().save_pretrained(tmp_path / "model")
    theirs = FirstLayer.from_pretrained(str(tmp_path / "model"), device="cpu")
    theirs.save_pretrained(tmp_path / "layer")
    ours = FirstLayer.from_pretrained(str(tmp_path / "layer"), device="cpu")
    for mine, other in zip(ours.query_key(IDS)[:2], theirs.query_key(IDS)[:2], strict=True):
        assert torch.equal(mine, other)
    assert ours.identity["sha256"] == theirs.identity["sha256"]


def test_a_pushed_layer_scores_without_the_model(hub, clock, sharded):
    from longattn_hf.scoring.longattn import LongAttnScorer

    upload(hub, sharded, "me/source")
    layer = FirstLayer.from_pretrained("me/source", device="cpu")
    hub.fault("POST", "/commit/", "lose")
    commit = layer.push_to_hub("me/source-layer-0", private=True)
    repo = hub.repos["model", "me/source-layer-0"]
    assert repo.private and repo.refs["refs/heads/main"] == commit and len(repo.commits) == 2
    assert layer.push_to_hub("me/source-layer-0") == commit, "nothing new, no commit"
    assert b"me/source-layer-0" in repo.files["README.md"] and b"base_model: me/source\n" in repo.files["README.md"]
    texts = {"text": ["The attention of a long document reaches far back. "]}
    scores = [
        LongAttnScorer(name, window_tokens=64, device="cpu")(texts) for name in ("me/source", "me/source-layer-0")
    ]
    assert scores[0] == scores[1]


def test_a_layer_goes_to_no_repository_of_something_else(hub, sharded):
    layer = FirstLayer.from_pretrained(str(sharded), device="cpu")
    whole = upload(hub, sharded, "me/whole")
    before = whole.files
    with pytest.raises(ValueError, match="the model repository me/whole holds something else .config.json, "):
        layer.push_to_hub("me/whole")
    assert whole.files == before
    hub.create("me/weights", {"pytorch_model.bin": b"x"}, type="model")
    with pytest.raises(ValueError, match="holds something else .pytorch_model.bin."):
        layer.push_to_hub("me/weights")
    hub.create("me/card", {"README.md": b"# Soon\n", "LICENSE": b"MIT"}, type="model")
    commit = layer.push_to_hub("me/card")
    assert layer.push_to_hub("me/card") == commit
    with pytest.raises(ValueError, match="private=True is given, but me/card is public"):
        layer.push_to_hub("me/card", private=True)
    ignoring = hub.create("me/ignoring", {".gitignore": b"*.safetensors\n"}, type="model")
    with pytest.raises(ValueError, match="keeps model.safetensors out of every commit .*'[*].safetensors'"):
        layer.push_to_hub("me/ignoring")
    assert "config.json" not in ignoring.files


@pytest.mark.parametrize(
    "name", ["../../other/private/model.safetensors", "/etc/x.safetensors", "a/../../b", "a\\b", "x?y"]
)
def test_an_index_that_names_files_elsewhere_is_refused_and_none_is_asked_for(hub, sharded, name):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], name)
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    commit = upload(hub, sharded, "me/elsewhere").refs["refs/heads/main"]
    with pytest.raises(ValueError, match="is not an index.*no file beside"):
        fetch_tensors("me/elsewhere", commit, lambda names: dict.fromkeys(NEEDED))
    assert not [entry for entry in hub.log if "other" in entry.path or entry.path.endswith(".safetensors")]


def test_tensors_that_overlap_are_refused(hub, tiny_llama):
    data = (tiny_llama / "model.safetensors").read_bytes()
    header, start = header_of(data)
    header.pop("__metadata__", None)
    # two of one size: the first is said to lie where the second does, and the sizes still add up
    first, second = NEEDED[3], NEEDED[3].replace("q_proj", "o_proj")
    assert header[first]["shape"] == header[second]["shape"]
    header[first]["data_offsets"] = header[second]["data_offsets"]
    text = json.dumps(header).encode()
    hub.create("me/overlap", {"model.safetensors": struct.pack("<Q", len(text)) + text + data[start:]}, type="model")
    commit = hub.repos["model", "me/overlap"].refs["refs/heads/main"]
    with pytest.raises(ValueError, match="tensors overlap or leave gaps"):
        fetch_tensors("me/overlap", commit, lambda names: dict.fromkeys(NEEDED))
