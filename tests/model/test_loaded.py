"""Objects where names are taken, and what goes with a name: a token, and code that may run."""

import json
import pickle
import shutil

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaModel

from longattn_hf import FirstLayer, LongAttnScorer, WindowDocuments
from longattn_hf.baselines import DeepAttention, Ladm, LossGain, ProLong
from longattn_hf.model.attention_hooks import SHOWS_ATTENTION
from longattn_hf.model.location import ModelRef, locate
from tests.support.tiny import build_tokenizer, save_tiny_llama, write_gguf

TEXTS = [" ".join(f"word{(i * n) % 17}" for i in range(60)) for n in range(1, 5)]


@pytest.fixture
def network(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def documents():
    return Dataset.from_dict({"text": TEXTS})


@pytest.mark.parametrize("settings", [{}, {"rope_theta": 1e6}, {"dtype": "bfloat16", "add_bos": False}], ids=str)
def test_a_loaded_model_scores_as_its_folder_does(tiny_llama, network, tokenizer, documents, settings):
    expected = documents.map(LongAttnScorer(str(tiny_llama), **settings), batched=True)
    for model in (network, LlamaModel.from_pretrained(tiny_llama), network.train().requires_grad_(True)):
        scored = documents.map(LongAttnScorer(model, tokenizer=tokenizer, **settings), batched=True)
        assert scored.to_dict() == expected.to_dict()


def test_a_first_layer_scores_as_its_model_does_and_refuses_other_settings(tiny_llama, tokenizer, documents):
    layer = FirstLayer.from_pretrained(str(tiny_llama), rope_theta=1e6)
    expected = documents.map(LongAttnScorer(str(tiny_llama), rope_theta=1e6), batched=True)
    for settings in ({}, {"rope_theta": 1e6}, {"dtype": "float32", "device": "cpu"}):
        scorer = LongAttnScorer(layer, tokenizer=tokenizer, **settings)
        assert documents.map(scorer, batched=True).to_dict() == expected.to_dict()
    with pytest.raises(ValueError, match="FirstLayer given has rope_theta=1000000.0, where the scorer says .*=5.0"):
        LongAttnScorer(layer, tokenizer=tokenizer, rope_theta=5.0)({"text": TEXTS})
    with pytest.raises(ValueError, match="has dtype='float32', where the scorer says dtype='float16'"):
        LongAttnScorer(layer, tokenizer=tokenizer, dtype="float16").prepare()


def test_a_tokenizer_cuts_as_its_folder_does_whatever_it_was_last_asked(tiny_llama, tokenizer, documents):
    def cut(tokenizer):
        windows = WindowDocuments(tokenizer=tokenizer, window_tokens=48)
        return documents.map(windows, batched=True, remove_columns=["text"])

    spoilt = AutoTokenizer.from_pretrained(tiny_llama)
    spoilt("a", truncation=True, max_length=3)
    assert cut(spoilt).to_dict() == cut(tokenizer).to_dict() == cut(str(tiny_llama)).to_dict()


def test_results_are_known_by_the_weights_and_the_tokenizers_own_definition(tiny_llama, network, documents):
    def fingerprint(model, tokenizer):
        return documents.map(LongAttnScorer(model, tokenizer=tokenizer), batched=True)._fingerprint

    again = AutoModelForCausalLM.from_pretrained(tiny_llama)
    first = fingerprint(network, build_tokenizer())
    assert fingerprint(again, build_tokenizer()) == first
    assert fingerprint(network, build_tokenizer(bos=False)) != first
    with torch.no_grad():
        # of another layer than the first, and unused rows of a matrix
        network.model.layers[1].self_attn.q_proj.weight += 1
        assert fingerprint(network, build_tokenizer()) == first
        network.model.layers[0].self_attn.k_proj.weight += 1
    assert fingerprint(network, build_tokenizer()) != first
    again.config.rope_parameters["rope_theta"] = 5e5
    assert fingerprint(again, build_tokenizer()) != first
    keyed = LongAttnScorer(str(tiny_llama)).fingerprint
    assert LongAttnScorer(str(tiny_llama), token="secret").fingerprint == keyed
    assert LongAttnScorer(str(tiny_llama), tokenizer=str(tiny_llama)).fingerprint == keyed


def test_what_is_done_to_a_model_later_changes_no_score_of_a_scorer_that_has_it(network, tokenizer, documents):
    scorer = LongAttnScorer(network, tokenizer=tokenizer)
    first = scorer({"text": TEXTS})
    with torch.no_grad():
        network.model.embed_tokens.weight.zero_()
    assert scorer({"text": TEXTS}) == first


@pytest.mark.slow
def test_objects_reach_forked_processes_and_say_so_where_they_cannot(
    network, tokenizer, documents, run_python, tmp_path
):
    scorer = LongAttnScorer(network, tokenizer=tokenizer)
    forked = documents.map(scorer, batched=True, num_proc=2)
    assert forked.to_dict() == documents.map(scorer, batched=True, load_from_cache_file=False).to_dict()
    (tmp_path / "scorer").write_bytes(pickle.dumps(scorer))
    assert (tmp_path / "scorer").stat().st_size < 2000
    program = (
        f"import pickle; scorer = pickle.load(open({str(tmp_path / 'scorer')!r}, 'rb'))\n"
        "try:\n    scorer({'text': ['a b c d e f g h']})\nexcept ValueError as error:\n    print(error)"
    )
    said = run_python(program).stdout
    assert "object of another process" in said and "save_pretrained" in said


def test_objects_that_cannot_be_used_are_refused(network, tokenizer, tiny_llama, documents):
    with pytest.raises(ValueError, match="brings no tokenizer: give tokenizer= too"):
        LongAttnScorer(network).prepare()
    with pytest.raises(ValueError, match="model is a int: give a name, a FirstLayer, or a model of transformers"):
        LongAttnScorer(3)
    with pytest.raises(ValueError, match="tokenizer is a Tokenizer: .*PreTrainedTokenizerFast"):
        WindowDocuments(tokenizer=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM \(an object\) is loaded already: leave out revision"):
        LongAttnScorer(network, tokenizer=tokenizer, revision="main").prepare()
    with pytest.raises(ValueError, match="is loaded already: leave out trust_remote_code"):
        LongAttnScorer(network, tokenizer=tokenizer, trust_remote_code=True).prepare()
    with pytest.raises(ValueError, match="model is a int: give a name, or a causal language model of transformers"):
        LossGain(model=3)
    with pytest.raises(ValueError, match="model is a LlamaModel: give a name, or a causal language model"):
        LossGain(model=network.model)
    with pytest.raises(
        ValueError, match="The model given has dtype='float32', where the scorer says dtype='bfloat16'"
    ):
        LossGain(model=network, tokenizer=tokenizer, dtype="bfloat16").prepare()
    with pytest.raises(ValueError, match="The layer is a loaded model's"):
        FirstLayer.from_model(network).save_pretrained("nowhere")
    with pytest.raises(ValueError, match="has no files to read"):
        locate(LongAttnScorer(network).model_ref)
    network.model.layers[0].self_attn.q_proj = torch.nn.Sequential(network.model.layers[0].self_attn.q_proj)
    with pytest.raises(ValueError, match=r"lacks model.layers.0.self_attn.q_proj.weight, .* merge its adapters"):
        LongAttnScorer(network)
    with pytest.raises(
        ValueError, match="not made of its configuration's weights alone .*q_proj.* merge its adapters"
    ):
        LossGain(model=network)


@pytest.mark.parametrize("score", [LossGain, DeepAttention, Ladm, ProLong], ids=lambda score: score.__name__)
def test_a_neural_baseline_scores_with_a_loaded_model_as_with_its_folder(
    score, tiny_llama, network, tokenizer, documents
):
    settings = {"segment_tokens": 16} if score is ProLong else {}
    expected = documents.map(score(model=str(tiny_llama), **settings))
    network.train()
    scorer = score(model=network, tokenizer=tokenizer, **settings)
    assert documents.map(scorer).to_dict() == expected.to_dict()
    # the caller's model is as it was
    assert network.training and network.config._attn_implementation != SHOWS_ATTENTION
    again = AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert score(model=again, tokenizer=tokenizer, **settings).fingerprint == scorer.fingerprint


def test_a_neural_baseline_notices_that_its_model_has_been_trained_on(tiny_llama, network, tokenizer):
    scorer = LossGain(model=network, tokenizer=tokenizer)
    first = scorer({"text": TEXTS[0]})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()
    with pytest.raises(ValueError, match="weights of the model given have changed since: make the scorer anew"):
        scorer({"text": TEXTS[0]})
    assert LossGain(model=network, tokenizer=tokenizer).fingerprint != scorer.fingerprint
    # another model with the weights as they were is known by the same name
    fresh = LossGain(model=AutoModelForCausalLM.from_pretrained(tiny_llama), tokenizer=tokenizer)
    assert fresh.fingerprint == scorer.fingerprint and fresh({"text": TEXTS[0]}) == scorer({"text": TEXTS[0]}) == first


def test_a_neural_baseline_takes_a_tokenizer(tiny_llama, tokenizer, documents):
    expected = documents.map(LossGain(model=str(tiny_llama)))
    assert documents.map(LossGain(model=str(tiny_llama), tokenizer=tokenizer)).to_dict() == expected.to_dict()


def test_a_token_reaches_the_hub_and_shows_nowhere(hub, tiny_llama, monkeypatch):
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo("me/secret", private=True)
    api.upload_folder(repo_id="me/secret", folder_path=tiny_llama)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="me/secret"):
        WindowDocuments(tokenizer="me/secret", window_tokens=48)({"text": TEXTS})
    cut = WindowDocuments(tokenizer="me/secret", window_tokens=48, token="hf_writer")
    scorer = LongAttnScorer("me/secret", token="hf_writer")
    for transform in (cut, scorer):
        assert len(transform({"text": TEXTS})) > 0
        assert "hf_writer" not in repr(transform) + repr(transform.model_ref)


CODE = "from transformers import LlamaConfig\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"


@pytest.fixture
def with_code(tmp_path):
    folder = save_tiny_llama(tmp_path / "with-code")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    own = "from transformers import LlamaForCausalLM\nclass Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    (folder / "own.py").write_text(CODE + own)
    return folder


def test_code_runs_only_where_it_is_trusted(with_code, tiny_llama, documents):
    with pytest.raises(ValueError, match="trust_remote_code=True|custom code"):
        LongAttnScorer(str(with_code))({"text": TEXTS})
    expected = documents.map(LongAttnScorer(str(tiny_llama)), batched=True)
    scored = documents.map(LongAttnScorer(str(with_code), trust_remote_code=True), batched=True)
    assert scored.to_dict() == expected.to_dict()
    gain = documents.map(LossGain(model=str(with_code), trust_remote_code=True))
    assert gain.to_dict() == documents.map(LossGain(model=str(tiny_llama))).to_dict()


def test_code_that_the_models_identity_does_not_cover_is_refused(with_code, tiny_llama, tmp_path):
    config = json.loads((with_code / "config.json").read_text())
    config["auto_map"]["AutoConfig"] = "other/repo--own.OwnConfig"
    (with_code / "config.json").write_text(json.dumps(config))
    makers = (
        lambda m: LongAttnScorer(m, trust_remote_code=True).prepare(),
        lambda m: LossGain(model=m, trust_remote_code=True).load_model(),
        lambda m: WindowDocuments(tokenizer=m, trust_remote_code=True)({"text": TEXTS}),
    )
    for make in makers:
        with pytest.raises(
            ValueError, match=r"takes code from another repository \(other/repo--own.OwnConfig, config.json\)"
        ):
            make(str(with_code))
    pytest.importorskip("gguf")
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama)
    for make in makers:
        with pytest.raises(ValueError, match="is a GGUF file, which brings no code"):
            make(str(file))


def test_changed_code_is_other_bytes(with_code):
    documents = Dataset.from_dict({"text": TEXTS[:1]})
    scorer = LongAttnScorer(str(with_code), trust_remote_code=True)
    first = documents.map(scorer)._fingerprint
    (with_code / "own.py").write_text((with_code / "own.py").read_text() + "# changed\n")
    assert documents.map(scorer)._fingerprint != first
    assert ModelRef("a/b", trust_remote_code=True) != ModelRef("a/b")
    assert ModelRef("a/b", token="x") == ModelRef("a/b")
    shutil.rmtree(with_code)
