import pickle
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets.fingerprint import Hasher
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM

from longattn_hf import FarAttention, FirstLayer, LongAttnScorer
from longattn_hf.scoring.base import equal_lengths
from longattn_hf.scoring.longattn import map_scores
from longattn_hf.scoring.reach import why_out_of_reach
from tests.support.tiny import TINY_SIZES, build_tokenizer, save_tiny_llama

SCORES = ("dependency_strength", "distribution_uniformity", "map_variance")


def windows(count=5, tokens=48, seed=0):
    random = np.random.default_rng(seed)
    ids = [random.integers(2, 300, tokens).astype(np.int32) for _ in range(count)]
    return Dataset.from_dict(
        {"id": [str(i) for i in range(count)], "input_ids": ids},
        features=Features({"id": Value("string"), "input_ids": List(Value("int32"))}),
    )


def eager_map(path, ids, **rope):
    """The first layer's attention map by the model's own eager forward, in float64."""
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=torch.float64)
    with torch.inference_mode():
        return model(torch.tensor([ids]), output_attentions=True).attentions[0][0].numpy()


def scores_of_map(attention, k):
    """The paper's equations as they stand, on a whole map: means over heads of DS_T, DU_T and the map's variance."""
    length = attention.shape[-1]
    far = np.tril(np.ones((length, length)), -k)
    masked = attention * far
    block = masked[:, k:, : length - k]
    return (
        float((masked.sum((1, 2)) / length).mean()),
        float(-block.reshape(len(block), -1).var(1).mean()),
        float(masked.reshape(len(masked), -1).var(1, ddof=1).mean()),
    )


@pytest.fixture(scope="module")
def scorer(tiny_llama):
    return LongAttnScorer(str(tiny_llama))


@pytest.mark.parametrize("min_distance", [None, 0, 5, 47])
def test_scores_are_the_papers_equations_on_the_models_own_map(tiny_llama, min_distance):
    # one BOS, as this tokenizer adds it
    rows = windows(3)
    scored = rows.map(LongAttnScorer(str(tiny_llama), min_distance=min_distance), batched=True, batch_size=2)
    for row in scored:
        attention = eager_map(tiny_llama, [0, *row["input_ids"]])
        expected = scores_of_map(attention, 12 if min_distance is None else min_distance)
        np.testing.assert_allclose([row[name] for name in SCORES], expected, rtol=2e-5, atol=1e-12)


def test_an_attention_map_that_is_uniform_has_the_closed_forms_scores():
    length, k = 1000, 250
    rows = np.arange(length)
    far = np.clip(rows - k + 1, 0, None)
    sums = FarAttention(
        torch.tensor([[float((far / (rows + 1)).sum())]], dtype=torch.float64),
        torch.tensor([[float((far / (rows + 1) ** 2).sum())]], dtype=torch.float64),
        "reference",
    )
    scores = map_scores(sums, length, k)
    assert scores["dependency_strength"].item() == pytest.approx(0.4034, abs=1e-3)
    full = np.tril(np.ones((length, length)) / (rows[:, None] + 1), -k)
    assert scores["distribution_uniformity"].item() == pytest.approx(-full[k:, : length - k].var(), rel=1e-10)
    assert scores["map_variance"].item() == pytest.approx(full.var(ddof=1), rel=1e-10)


def test_sums_without_a_far_pair_or_a_hair_off_give_scores_at_the_ends_of_their_ranges():
    def scores(mass, energy, tokens, k):
        sums = (torch.tensor([[value]], dtype=torch.float64) for value in (mass, energy))
        return [value.item() for value in map_scores(FarAttention(*sums, "reference"), tokens, k).values()]

    assert scores(0.0, 0.0, 8, 8) == [0, 0, 0]
    assert scores(0.0, 0.0, 8, 9) == [0, 0, 0]
    # a map of one entry, and a block of equal entries whose variance rounds below zero
    assert scores(1.0, 1.0, 1, 0) == [1, 0, 0]
    assert scores(2.0, 1.0 - 1e-15, 4, 2)[:2] == [0.5, 0]
    assert scores(4.0, 1.0 - 1e-15, 4, 0) == [1, 0, 0]
    # two of four far entries are 1/2: their mean is 1/4, and their variance 1/16; over all sixteen it is
    # 2/4 - 1/16, by 15
    assert scores(1.0, 0.5, 4, 2) == pytest.approx([1 / 4, -1 / 16, 7 / 16 / 15])


def test_batched_or_not_on_every_container_the_scores_are_the_same(scorer):
    rows = windows(5)
    expected = rows.map(scorer, batched=True).to_list()
    assert rows.map(scorer).to_list() == expected
    assert rows.map(scorer, batched=True, batch_size=2).to_list() == expected
    assert list(rows.to_iterable_dataset().map(scorer, batched=True, batch_size=3)) == expected
    assert list(rows.to_iterable_dataset().map(scorer)) == expected
    assert DatasetDict(train=rows).map(scorer, batched=True)["train"].to_list() == expected
    assert rows.with_format("torch").map(scorer, batched=True).with_format(None).to_list() == expected
    assert rows.with_format("numpy").map(scorer).with_format(None).to_list() == expected


def test_text_scores_as_its_ids_do_with_bos_once(scorer):
    text = "The attention of a long document reaches far back. 日本語 😀"
    ids = build_tokenizer()(text, add_special_tokens=False)["input_ids"]
    by_text = Dataset.from_dict({"text": [text]}).map(scorer, batched=True)
    with_bos = Dataset.from_dict({"input_ids": [ids]}).map(scorer, batched=True)
    without = scorer.__class__(scorer.model, add_bos=False)({"input_ids": [[0, *ids]]})
    for name in SCORES:
        assert by_text[name][0] == with_bos[name][0]
    # the same 0 as a BOS given by hand, but for the distance: a quarter of the window as it came
    assert without["dependency_strength"] == pytest.approx(by_text["dependency_strength"][:], rel=1e-6)


def test_a_tokenizer_without_bos_adds_none(tmp_path):
    path = save_tiny_llama(tmp_path / "model", bos=False)
    ids = list(range(10, 58))
    assert LongAttnScorer(str(path))({"input_ids": [ids]}) == LongAttnScorer(str(path), add_bos=False)(
        {"input_ids": [ids]}
    )
    assert LongAttnScorer(str(path), add_bos=True)({"input_ids": [ids]}) != LongAttnScorer(str(path))(
        {"input_ids": [ids]}
    )


def test_windows_of_unequal_length_score_as_they_do_alone(scorer):
    ids = [list(range(5, 5 + n)) for n in (20, 20, 33, 7, 20)]
    together = scorer({"input_ids": ids})
    for row, row_ids in enumerate(ids):
        alone = scorer({"input_ids": [row_ids]})
        for name in SCORES:
            assert together[name][row] == pytest.approx(alone[name][0], rel=1e-6)


def test_rows_that_follow_one_another_are_scored_together_as_long_as_they_are_equal_and_few():
    def groups(lengths, tokens, **how):
        return list(equal_lengths({7 * row: np.zeros(n) for row, n in enumerate(lengths)}, tokens, **how))

    assert groups([5, 5, 5, 7, 5, 5], 10) == [[0, 7], [14], [21], [28, 35]]
    assert groups([5, 5, 5, 5], 14) == [[0, 7], [14, 21]]
    assert groups([5, 5, 5, 5], 15) == [[0, 7, 14], [21]]
    # one that is too long for the limit is scored all the same
    assert groups([5, 5], 4) == [[0], [7]] and groups([], 4) == []
    # what is padded takes as much as the rest
    assert groups([5, 5, 5], 16, padded_to=8) == [[0, 7], [14]] and groups([5, 5], 10, padded_to=3) == [[0, 7]]
    assert groups([5000, 5000], 10000) == [[0, 7]] and groups([5000, 5000], 10000, on_cpu=True) == [[0], [7]]


def test_a_cpu_works_on_no_more_than_8192_tokens_at_once(tiny_llama, monkeypatch):
    scorer, shapes = LongAttnScorer(str(tiny_llama), add_bos=False, device="cpu"), []
    query_key = FirstLayer.query_key

    def spy(layer, ids):
        shapes.append(tuple(ids.shape))
        return query_key(layer, ids)

    rows = windows(20, tokens=500)
    # whether the layer sees all of so long a window is tried once
    scorer({"input_ids": rows["input_ids"][:1]})
    monkeypatch.setattr(FirstLayer, "query_key", spy)
    together = scorer({"input_ids": rows["input_ids"]})
    assert shapes == [(16, 500), (4, 500)]
    few = replace(scorer, batch_tokens=1000)({"input_ids": rows["input_ids"]})
    assert shapes[2:] == 10 * [(2, 500)] and few == together


def test_the_settings_that_are_not_named_are_the_papers():
    """A map's cached results hang on these values: one that changes is another scorer, and a line of the changes."""
    assert asdict(LongAttnScorer("m")) == {
        "model": "m",
        "revision": None,
        "gguf_file": None,
        "convention": "paper",
        "min_distance": None,
        "rope_theta": None,
        "rope_scaling": None,
        "dtype": None,
        "device": None,
        "impl": "auto",
        "add_bos": None,
        "row_fraction": None,
        "seed": 0,
        "per_head": False,
        "text_column": "text",
        "window_tokens": None,
        "on_error": "raise",
        "batch_tokens": 65536,
        "version": 2,
        "tokenizer": None,
        "token": None,
        "trust_remote_code": False,
    }


def test_a_window_is_given_with_bos_where_the_tokenizer_has_one_and_puts_it(tiny_llama, tmp_path):
    text = "far tokens zq"
    ids = build_tokenizer()(text, add_special_tokens=False)["input_ids"]
    putting, silent = LongAttnScorer(str(tiny_llama)), LongAttnScorer(str(save_tiny_llama(tmp_path / "a", bos=False)))
    ending = build_tokenizer(bos=False)
    # one that puts EOS at the end, and nothing before
    ending._tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    ending.save_pretrained(save_tiny_llama(tmp_path / "c"))
    assert ending("")["input_ids"] == [1]
    for scorer, add_bos, bos in (
        (LongAttnScorer(str(tmp_path / "c")), None, False),
        (putting, None, True),
        (putting, True, True),
        (putting, False, False),
        (silent, None, False),
        (silent, True, True),
    ):
        scorer = replace(scorer, add_bos=add_bos)
        given = scorer.token_ids({"text": text, "id": "x"})
        assert given.tolist() == [0] * bos + ids and given.dtype == np.int64
        assert scorer.scale["bos"] == bos
    with pytest.raises(ValueError, match="The window's column 'input_ids' is unusable: empty"):
        replace(putting, on_error="skip").token_ids({"input_ids": [], "text": text})
    bare = save_tiny_llama(tmp_path / "b", bos=False)
    tokenizer = build_tokenizer(bos=False)
    tokenizer.bos_token = None
    tokenizer.save_pretrained(bare)
    assert LongAttnScorer(str(bare)).token_ids({"text": text}).tolist() == ids
    with pytest.raises(
        ValueError, match="add_bos=True, but the tokenizer of .*b' has no BOS token; pass add_bos=False"
    ):
        LongAttnScorer(str(bare), add_bos=True)({"text": [text]})


def test_the_scale_of_scores_is_that_of_tensors_tokenizer_and_settings(tiny_llama):
    scorer = LongAttnScorer(str(tiny_llama), window_tokens=64, min_distance=5, dtype="bfloat16")
    scale, identity = scorer.scale, scorer.load_layer().identity
    assert (scale["tensors"], scale["rope"]) == (identity["sha256"], identity["rope"])
    assert (scale["convention"], scale["window_tokens"], scale["min_distance"]) == ("paper", 64, 5)
    assert identity["dtype"] == "bfloat16" and scorer.load_layer().device == torch.device("cpu")
    code = replace(scorer, convention="reference_code", dtype=None, rope_theta=None).load_layer().identity
    assert (code["dtype"], code["rope"]["rope_theta"]) == ("float16", 2.5e6)
    own = replace(scorer, convention="reference_code", rope_theta=7e4).load_layer().identity
    assert (own["dtype"], own["rope"]["rope_theta"]) == ("bfloat16", 7e4)


def test_per_head_scores_average_to_the_columns(tiny_llama):
    rows = LongAttnScorer(str(tiny_llama), per_head=True)({"input_ids": windows(2)["input_ids"][:]})
    for name in SCORES[:2]:
        assert [len(heads) for heads in rows[f"{name}_per_head"]] == [4, 4]
        np.testing.assert_allclose([np.mean(heads) for heads in rows[f"{name}_per_head"]], rows[name], rtol=1e-12)


def test_the_reference_code_reads_text_again_with_bos_twice_in_half_precision(tiny_llama):
    text = "The far tokens matter, and so on and on and on."
    scorer = LongAttnScorer(str(tiny_llama), convention="reference_code", window_tokens=20, rope_theta=10_000.0)
    scored = scorer({"text": [text], "input_ids": [[5]]})
    ids = build_tokenizer()("<s> " + text)["input_ids"][:20]
    assert ids[:2] == [0, 0]
    layer = FirstLayer.from_pretrained(str(tiny_llama), dtype="float16", rope_theta=10_000.0)
    q, k, scale = layer.query_key(torch.tensor([ids]))
    logits = (q.float() @ k.float().repeat_interleave(2, 1).mT) * scale
    # a whole window's rows see later keys too, but in the reading of another name
    later = torch.ones(20, 20, dtype=torch.bool).triu(1)
    for convention, map_of in (
        ("reference_code", logits.softmax(-1)),
        ("reference_code_causal", logits.masked_fill(later, -torch.inf).softmax(-1)),
    ):
        scored = replace(scorer, convention=convention)({"text": [text], "input_ids": [[5]]})
        attention = map_of.half().double()[0].masked_fill(later, 0).numpy()
        np.testing.assert_allclose([scored[name][0] for name in SCORES], scores_of_map(attention, 5), rtol=1e-3)


@pytest.fixture(scope="module")
def of_another_process(tiny_llama, run_python):
    """A scorer's fingerprint, and whether `longattn_score` scores rows and batches alike, with the same model."""
    program = (
        "from datasets import Dataset; from datasets.fingerprint import Hasher; "
        "from longattn_hf import LongAttnScorer, longattn_score; "
        f"print(Hasher.hash(LongAttnScorer({str(tiny_llama)!r}))); "
        "rows = Dataset.from_dict({'text': ['some words that are a document'] * 2}); "
        "print(rows.map(longattn_score)['dependency_strength'][:] == "
        "rows.map(longattn_score, batched=True)['dependency_strength'][:])"
    )
    return run_python(program, LONGATTN_MODEL=str(tiny_llama)).stdout.split()


def test_the_fingerprint_is_the_same_before_and_after_use_and_in_another_process(tiny_llama, of_another_process):
    fresh = LongAttnScorer(str(tiny_llama))
    before = Hasher.hash(fresh)
    windows(1).map(fresh, batched=True)
    assert Hasher.hash(fresh) == before == of_another_process[0]
    assert Hasher.hash(LongAttnScorer(str(tiny_llama), min_distance=3)) != before
    assert pickle.loads(pickle.dumps(fresh)) == fresh


def test_a_second_map_is_a_cache_hit_and_two_processes_give_what_one_gives(scorer, tmp_path):
    windows(6).to_parquet(tmp_path / "windows.parquet")
    rows = Dataset.from_parquet(str(tmp_path / "windows.parquet"), cache_dir=str(tmp_path / "cache"))
    first = rows.map(scorer, batched=True, batch_size=2)
    files = sorted((tmp_path / "cache").rglob("*.arrow"))
    assert rows.map(scorer, batched=True, batch_size=2).to_list() == first.to_list()
    assert sorted((tmp_path / "cache").rglob("*.arrow")) == files
    both = rows.map(scorer, batched=True, batch_size=3, num_proc=2, with_rank=True)
    np.testing.assert_allclose(both["dependency_strength"], first["dependency_strength"], rtol=1e-6)


BAD_ROWS = [
    (None, "missing"),
    ([], "empty"),
    ([1.5, 2.5], "not a list of integer token ids"),
    ([5, 300, 7], "token id 300 is outside the vocabulary of 300"),
    ([5, -1, 7], "token id -1 is outside the vocabulary of 300"),
    ([0, 300], "token id 300 is outside"),
    (list(range(2, 103)), r"longer than the window \(101 of at most 100 tokens\)"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS)
def test_a_bad_row_of_ids_raises_or_is_skipped_with_a_reason(tiny_llama, bad, message):
    good = list(range(5, 40))
    with pytest.raises(ValueError, match=f"Row 1 of column 'input_ids' is unusable: {message}.*on_error='skip'"):
        LongAttnScorer(str(tiny_llama), window_tokens=100)({"input_ids": [good, bad]})
    lenient = LongAttnScorer(str(tiny_llama), window_tokens=100, on_error="skip")
    rows = lenient({"input_ids": [good, bad, good]})
    assert rows["dependency_strength"][1] is None and rows["dependency_strength"][0] == rows["dependency_strength"][2]
    assert rows["skip_reason"][0] is None
    assert re.match(message, rows["skip_reason"][1])


def test_a_row_of_ids_with_a_null_inside_is_one_bad_row_batched_or_not(tiny_llama):
    rows = Dataset.from_dict({"input_ids": [[5, None, 7, 8, 9], list(range(5, 25))]})
    scorer = LongAttnScorer(str(tiny_llama), on_error="skip")
    one_by_one, together = (rows.map(scorer, batched=batched) for batched in (False, True))
    assert one_by_one["dependency_strength"][0] is None and one_by_one["dependency_strength"][1] > 0
    assert one_by_one["skip_reason"][:] == together["skip_reason"][:]
    assert one_by_one["skip_reason"][0] == "not a list of integer token ids (object, 1 dimensions)"


@pytest.mark.parametrize(("bad", "reason"), [(None, "missing"), ("", "empty"), (b"x", "not text")])
def test_a_bad_row_of_text_raises_or_is_skipped_with_a_reason(tiny_llama, bad, reason):
    with pytest.raises(ValueError, match=f"Row 0 of column 'text' is unusable: {reason}"):
        LongAttnScorer(str(tiny_llama))({"text": [bad, "fine, a text"]})
    rows = LongAttnScorer(str(tiny_llama), on_error="skip")({"text": [bad, "fine, a text"]})
    assert rows["skip_reason"] == [reason, None] and rows["dependency_strength"][0] is None


def test_the_first_and_last_id_and_a_full_window_are_scored(tiny_llama):
    scorer = LongAttnScorer(str(tiny_llama), window_tokens=40)
    rows = scorer({"input_ids": [[0, *range(5, 43), 299], list(range(5, 20))]})
    assert all(0 < score < 1 for score in rows["dependency_strength"])


def test_a_batch_of_bad_rows_alone_is_skipped_whole(tiny_llama):
    rows = Dataset.from_dict({"text": ["", None]}).map(LongAttnScorer(str(tiny_llama), on_error="skip"), batched=True)
    assert rows["dependency_strength"][:] == [None, None]


def test_rows_that_windowing_skipped_keep_its_reason_and_are_no_error(scorer):
    rows = scorer({"input_ids": [None, list(range(5, 30))], "skip_reason": ["too short", None]})
    assert rows["dependency_strength"][0] is None and rows["dependency_strength"][1] > 0


def test_a_missing_column_and_settings_that_make_no_sense_are_named(scorer):
    with pytest.raises(ValueError, match="No column 'input_ids' or 'text' to score; the columns are body"):
        scorer({"body": ["x"]})
    with pytest.raises(ValueError, match="'thesis' is not known"):
        LongAttnScorer("m", convention="thesis")
    with pytest.raises(ValueError, match="on_error='ignore' must be"):
        LongAttnScorer("m", on_error="ignore")
    with pytest.raises(ValueError, match="min_distance=-1"):
        LongAttnScorer("m", min_distance=-1)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"min_distance": "5"}, "min_distance='5' must be a whole number of at least 0"),
        ({"min_distance": 5.0}, "min_distance=5.0 must be a whole number of at least 0"),
        ({"window_tokens": "9"}, "window_tokens='9' must be a whole number of at least 1"),
        ({"device": "cdua"}, "device='cdua' is none that torch knows: give 'cpu', 'cuda'"),
        ({"device": "cuda:x"}, "device='cuda:x' is none that torch knows"),
    ],
)
def test_a_setting_of_another_kind_is_named(setting, said):
    with pytest.raises(ValueError, match=said):
        LongAttnScorer("m", **setting)


def test_a_window_longer_than_the_layer_sees_is_a_bad_row(tmp_path):
    sizes = {**TINY_SIZES, "pad_token_id": 2}
    folders = {
        "longer than the first layer's attention reaches (33 tokens)": ("mistral", {**sizes, "sliding_window": 32}),
        "longer than the 32 positions that the model has learned (33 tokens)": (
            "gpt2",
            {"vocab_size": 300, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32},
        ),
    }
    for reason, (kind, settings) in folders.items():
        path = tmp_path / kind
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(path)
        build_tokenizer(bos=True).save_pretrained(path)
        rows = {"input_ids": [list(range(5, 5 + tokens)) for tokens in (20, 32, 31, 32)]}
        # with BOS the second and the fourth have 33
        scored = LongAttnScorer(str(path), on_error="skip")(rows)
        assert scored["skip_reason"] == [None, reason, None, reason]
        assert [score is None for score in scored["dependency_strength"]] == [False, True, False, True]
        scored = LongAttnScorer(str(path), on_error="skip", add_bos=False)(rows)
        assert scored["skip_reason"] == [None] * 4
        with pytest.raises(
            ValueError, match=f"Row 1 of column 'input_ids' is unusable: {re.escape(reason)}. Drop such"
        ):
            LongAttnScorer(str(path))(rows)


def test_what_is_no_matter_of_length_is_not_taken_for_a_window_that_is_too_long(tiny_llama):
    layer = FirstLayer.from_pretrained(str(tiny_llama))
    with pytest.raises(ValueError, match=f"Token id {layer.vocab_size} is outside the vocabulary"):
        why_out_of_reach(torch.tensor([[5, layer.vocab_size]]), layer)
    # and nothing is remembered of it
    assert why_out_of_reach(torch.tensor([[5, 6, 7]]), layer) is None


def test_scores_that_are_not_finite_are_an_error_never_a_row(tmp_path):
    path = save_tiny_llama(tmp_path / "broken", initializer_range=0.5)
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"][0, 0] = torch.nan
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not finite|NaN"):
        LongAttnScorer(str(path))({"input_ids": [list(range(5, 30))]})


def test_the_row_whose_score_is_not_finite_is_named(tmp_path):
    path = save_tiny_llama(tmp_path / "broken")
    tensors = load_file(path / "model.safetensors")
    tensors["model.embed_tokens.weight"][77] = torch.nan
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    rows = [list(range(5, 25)), list(range(5, 30)), list(range(60, 85)), list(range(6, 31))]
    with pytest.raises(ValueError, match="The score of row 2 is not finite.*overflow in torch.float32"):
        LongAttnScorer(str(path))({"input_ids": rows})
    assert LongAttnScorer(str(path))({"input_ids": rows[:2]})["dependency_strength"][1] > 0


def test_longattn_score_takes_its_model_from_the_environment(of_another_process):
    assert of_another_process[1] == "True"


def test_sampled_rows_give_an_estimate_within_its_errors_and_all_rows_the_exact_score(tiny_llama):
    rows = {"input_ids": windows(3, tokens=400)["input_ids"][:]}
    exact = LongAttnScorer(str(tiny_llama))(rows)
    assert "dependency_strength_standard_error" not in exact
    sampled = LongAttnScorer(str(tiny_llama), row_fraction=0.25, seed=1)(rows)
    for name in SCORES[:2]:
        for value, estimate, error in zip(exact[name], sampled[name], sampled[f"{name}_standard_error"], strict=True):
            assert estimate != value and 0 < error < 0.2 * abs(value)
            assert abs(estimate - value) < 5 * error
    every = LongAttnScorer(str(tiny_llama), row_fraction=1.0)(rows)
    np.testing.assert_allclose(every["dependency_strength"], exact["dependency_strength"], rtol=1e-6)


def test_the_least_of_rows_gives_a_score_and_its_error(tiny_llama):
    for tokens in (64, 400):
        rows = {"input_ids": windows(1, tokens=tokens)["input_ids"][:]}
        sampled = LongAttnScorer(str(tiny_llama), row_fraction=1e-5)(rows)
        for name in SCORES[:2]:
            assert np.isfinite(sampled[name][0]) and sampled[f"{name}_standard_error"][0] > 0


def test_sampled_scores_alone_are_known_by_how_their_rows_are_drawn(tiny_llama, monkeypatch):
    def known_by():
        scorers = [LongAttnScorer(str(tiny_llama), row_fraction=fraction) for fraction in (None, 0.25)]
        return [(scorer.fingerprint, Hasher.hash(scorer)) for scorer in scorers]

    exact, sampled = known_by()
    monkeypatch.setattr("longattn_hf.scoring.longattn._DRAWN_BY", "lot")
    same, other = known_by()
    assert same == exact and other[0] != sampled[0] and other[1] != sampled[1]


def test_rounded_probabilities_cannot_be_sampled_and_need_the_whole_map():
    for convention, impl in (("paper", "blockwise"), ("reference_code", "reference")):
        assert LongAttnScorer("m", convention=convention).pick_impl(torch.device("cpu")) == impl
    with pytest.raises(ValueError, match="'reference_code' rounds each probability: leave row_fraction at None"):
        LongAttnScorer("m", convention="reference_code", row_fraction=0.5)


@pytest.mark.parametrize(
    ("ids", "min_distance", "reason"),
    [
        ([5], None, "too short .1 tokens, none of them 1 apart."),
        ([5, 6, 7], None, "too short .3 tokens, none of them 1 apart."),
        ([5, 6, 7, 8], None, None),
        (list(range(3, 11)), 8, "too short .8 tokens, none of them 8 apart."),
        (list(range(3, 12)), 8, None),
        ([5], 0, None),
    ],
)
def test_a_window_without_a_far_pair_has_no_score(tiny_llama, ids, min_distance, reason):
    scored = LongAttnScorer(str(tiny_llama), min_distance=min_distance, on_error="skip")({"input_ids": [ids]})
    assert (scored["dependency_strength"][0] is None) == (reason is not None)
    assert scored["skip_reason"] == [reason and re.sub(r" \.(.*)\.$", r" (\1)", reason)]
    if reason:
        with pytest.raises(ValueError, match=f"Row 0 of column 'input_ids' is unusable: {reason}"):
            LongAttnScorer(str(tiny_llama), min_distance=min_distance)({"input_ids": [ids]})
