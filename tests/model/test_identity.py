"""Results are known again by the bytes behind a model's name, and not by the name."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from safetensors.torch import load_file, save_file
from transformers import GraniteConfig, GraniteForCausalLM, LlamaForCausalLM

from longattn_hf import EchoScorer, FirstLayer, LongAttnScorer, WindowDocuments
from longattn_hf.baselines import LossGain
from longattn_hf.model import identity
from longattn_hf.model.identity import identify
from longattn_hf.model.location import ModelRef
from longattn_hf.model.tokenizer import load_tokenizer
from longattn_hf.scoring import echo
from tests.support.tiny import TINY_SIZES, build_tokenizer, save_tiny_llama

# each of 40 words again and again, never in the same order
ECHOING = " ".join(f"w{(i * i + i // 7) % 40}" for i in range(900))
TEXT = "if x: the of and to in a is " * 12


@pytest.fixture
def model(tiny_llama, tmp_path):
    return shutil.copytree(tiny_llama, tmp_path / "model")


def change_weights(folder):
    network = LlamaForCausalLM.from_pretrained(folder)
    with_others = {name: tensor.flip(0) for name, tensor in network.state_dict().items()}
    network.load_state_dict(with_others)
    network.save_pretrained(folder)


@pytest.mark.parametrize(
    "make", [lambda m: LongAttnScorer(m), lambda m: LossGain(model=m)], ids=["longattn", "loss_gain"]
)
def test_other_weights_in_the_same_folder_are_scored_anew_in_one_process(model, make):
    documents = Dataset.from_dict({"text": [TEXT]})
    scorer = make(str(model))
    first, again = documents.map(scorer), documents.map(make(str(model)))
    assert again._fingerprint == first._fingerprint, "equal bytes are known again"
    change_weights(model)
    second = documents.map(scorer)
    true = documents.map(scorer, load_from_cache_file=False)
    assert second.to_dict() == true.to_dict() != first.to_dict()


def test_other_weights_in_a_subfolder_that_the_index_names_are_other_bytes(model, tiny_llama):
    before = identify(ModelRef(str(model)))
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    (model / "weights").mkdir()
    shard = "weights/part.safetensors"
    save_file(tensors, model / shard)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(tensors, shard)}))
    scorer = LongAttnScorer(str(model))
    first = scorer({"text": [TEXT]})
    assert first == LongAttnScorer(str(tiny_llama))({"text": [TEXT]})
    known, hashed = identify(ModelRef(str(model))), Hasher.hash(scorer)
    assert identify(ModelRef(str(model))) == known != before
    query = "model.layers.0.self_attn.q_proj.weight"
    save_file(tensors | {query: tensors[query].flip(0)}, model / shard)
    assert identify(ModelRef(str(model))) != known and Hasher.hash(LongAttnScorer(str(model))) != hashed
    assert scorer({"text": [TEXT]}) != first


def save_granite(folder, attention_multiplier):
    torch.manual_seed(0)
    sizes = TINY_SIZES | {"initializer_range": 0.5, "pad_token_id": 2}
    GraniteForCausalLM(GraniteConfig(**sizes, attention_multiplier=0.25)).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    # the same tensors, by other numbers
    (folder / "config.json").write_text(json.dumps(config | {"attention_multiplier": attention_multiplier}))
    return str(folder)


def test_other_settings_of_the_same_tensors_are_another_layer(tmp_path):
    sharp, flat = (save_granite(tmp_path / name / "m", value) for name, value in {"a": 0.25, "b": 0.02}.items())
    scorers = [LongAttnScorer(model) for model in (sharp, flat)]
    first, other = (scorer({"text": [TEXT]})["dependency_strength"][0] for scorer in scorers)
    assert abs(first - other) > 1e-3
    assert scorers[0].fingerprint != scorers[1].fingerprint and scorers[0].scale != scorers[1].scale
    # objects go by what they are made of: one must not stand where the other was given
    layers = [FirstLayer.from_pretrained(model) for model in (sharp, flat)]
    given = [LongAttnScorer(layer, tokenizer=sharp) for layer in layers]
    assert [scorer({"text": [TEXT]})["dependency_strength"][0] for scorer in given] == [first, other]
    assert layers[0].identity["sha256"] == layers[1].identity["sha256"]


def test_settings_without_a_part_in_the_map_leave_the_identity_as_it_is(model, tmp_path):
    layer = FirstLayer.from_pretrained(str(model))
    layer.save_pretrained(tmp_path / "saved")
    saved = FirstLayer.from_pretrained(str(tmp_path / "saved"))
    assert saved.identity["config_sha256"] == layer.identity["config_sha256"]
    config = json.loads((model / "config.json").read_text())
    others = {
        "transformers_version": "5.99",
        "use_cache": False,
        "num_hidden_layers": 1,
        "a_setting_of_tomorrow": None,
    }
    (model / "config.json").write_text(json.dumps(config | others))
    assert FirstLayer.from_pretrained(str(model)).identity == layer.identity
    (model / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-2}))
    assert FirstLayer.from_pretrained(str(model)).identity != layer.identity


def test_another_tokenizer_in_the_same_folder_cuts_anew(model):
    documents = Dataset.from_dict({"text": [TEXT * 4]})
    cut = WindowDocuments(tokenizer=str(model), window_tokens=16)
    first = documents.map(cut, batched=True, remove_columns=["text"])
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    # without its merges a byte-level tokenizer gives a token a byte
    tokenizer["model"]["merges"] = []
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    second = documents.map(cut, batched=True, remove_columns=["text"])
    assert len(second) > len(first)


def test_another_calibration_under_the_same_name_is_another_fingerprint(tmp_path):
    path = tmp_path / "calibration.json"
    shutil.copy(Path(echo.__file__).with_name("echo_calibration.json"), path)
    scorer, documents = EchoScorer(calibration=str(path)), Dataset.from_dict({"text": [ECHOING]})
    before, first = Hasher.hash(scorer), documents.map(scorer)["echo"][0]
    assert Hasher.hash(EchoScorer(calibration=str(path))) == before
    path.write_text(json.dumps(json.loads(path.read_text()) | {"far_floor": 100.0}))
    assert Hasher.hash(scorer) != before
    assert documents.map(scorer)["echo"][0] != first


def test_a_branch_is_known_by_its_commit_and_followed_when_it_moves(hub, tmp_path):
    files = {}
    for seed in (1, 2):
        folder = save_tiny_llama(tmp_path / str(seed), seed=seed)
        files[seed] = {path.name: path.read_bytes() for path in folder.iterdir()}
    repo = hub.create("me/tiny", files[1], type="model")
    documents, scorer = Dataset.from_dict({"text": [TEXT]}), LongAttnScorer("me/tiny")
    first = documents.map(scorer)
    assert documents.map(LongAttnScorer("me/tiny"))._fingerprint == first._fingerprint
    hub.push(repo, files[2])
    second = documents.map(scorer)
    direct = documents.map(LongAttnScorer(str(tmp_path / "2")))
    assert second.to_dict() == direct.to_dict() != first.to_dict()


def test_what_is_pickled_comes_back_equal_and_says_nothing_of_bytes(model):
    scorer = LongAttnScorer(str(model), min_distance=3)
    back = pickle.loads(pickle.dumps(scorer))
    assert back == scorer and vars(back) == vars(scorer)
    # a model that is not there can still be named
    assert pickle.loads(pickle.dumps(LongAttnScorer("/no/such/model"))).model == "/no/such/model"


def test_a_file_too_large_to_hash_is_known_by_size_and_time(model, monkeypatch):
    monkeypatch.setattr(identity, "_HASHED_BYTES", 0)
    ref = ModelRef(str(model))
    before = identify(ref)
    assert identify(ref) == before
    status = (model / "model.safetensors").stat()
    os.utime(model / "model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert identify(ref) != before


def test_a_tokenizer_that_reads_its_own_file_otherwise_is_refused(model, monkeypatch):
    tokenizer = load_tokenizer(str(model))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: _shifted(tokenizer))
    with pytest.raises(ValueError, match="gives other ids than the tokenizer.json beside it"):
        load_tokenizer(str(model))


def _shifted(tokenizer):
    """The same tokenizer with another split, as a release that forgets an expression has."""
    from tokenizers import Regex, pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("."), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer
