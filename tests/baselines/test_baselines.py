import math
import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from longattn_hf.baselines import (
    DeepAttention,
    DeepFarAttention,
    GzipRatio,
    KindScorer,
    Ladm,
    Length,
    LossGain,
    ProLong,
    RandomScore,
)
from longattn_hf.model.language_model import token_losses
from longattn_hf.pipeline.demo_corpus import demo_documents
from longattn_hf.scoring.echo import EchoScorer, echo_gains, load_calibration
from longattn_hf.scoring.longattn import LongAttnScorer

VOCABULARY = 300


@pytest.fixture(scope="module")
def model(tiny_llama):
    """The tiny Llama with the ordinary attention of transformers, as the baselines' reference."""
    return AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation="eager").eval()


def draw_ids(tokens, seed=0):
    return np.random.default_rng(seed).integers(2, VOCABULARY, tokens)


def exact_losses(model, ids):
    """Each token's loss from whole logits in one go."""
    with torch.no_grad():
        logits = model(torch.tensor(ids)[None]).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").numpy()


def scorers(tiny_llama):
    path = str(tiny_llama)
    return [
        RandomScore(),
        Length(),
        GzipRatio(),
        EchoScorer(),
        LossGain(model=path, device="cpu"),
        ProLong(model=path, device="cpu", segment_tokens=16, pairs=4),
        Ladm(model=path, device="cpu"),
        DeepAttention(model=path, device="cpu"),
        DeepFarAttention(model=path, device="cpu"),
    ]


def test_every_scorer_adds_a_float_column_of_its_name_beside_longattns(tiny_llama):
    texts = [" ".join(f"w{n}" for n in np.random.default_rng(i).zipf(1.5, 600) % 50) for i in range(2)]
    windows = Dataset.from_dict({"text": texts, "input_ids": [draw_ids(128, i) for i in range(2)], "other": [1, 2]})
    scored = windows.map(LongAttnScorer(str(tiny_llama)), batched=True)
    for scorer in scorers(tiny_llama):
        scored = scored.map(scorer, batched=True)
        assert scored.features[scorer.column].dtype == "float64", scorer
        assert scorer.citation
        # one row alone gives what it gives within a batch
        assert scorer(windows[1])[scorer.column] == scored[scorer.column][1]
    assert scored["other"] == [1, 2] and "dependency_strength" in scored.column_names


def test_a_scorer_keeps_its_fingerprint_after_use(tiny_llama):
    from datasets.fingerprint import Hasher

    for make in (0, 4, 5, 6):
        scorer = scorers(tiny_llama)[make]
        before = Hasher.hash(scorer)
        scorer({"text": ["a b c"], "input_ids": [draw_ids(128)]})
        assert Hasher.hash(scorer) == before == Hasher.hash(scorers(tiny_llama)[make])


def test_rows_that_an_earlier_stage_skipped_stay_null_and_others_are_refused():
    rows = {"text": [None, "a text"], "skip_reason": ["missing", None]}
    assert Length()(rows)["length"] == [None, 6.0]
    with pytest.raises(ValueError, match="Row 1 of column 'text' is empty"):
        Length()({"text": ["a", ""]})
    with pytest.raises(ValueError, match="No column 'text'.*the columns are body"):
        Length()({"body": ["a"]})


def test_random_is_uniform_and_depends_on_text_and_seed_alone():
    texts = [f"text {i}" for i in range(2000)]
    values = np.array(RandomScore()({"text": texts})["random"])
    # a uniform mean of 2000 has a standard deviation of 0.0065
    assert abs(values.mean() - 0.5) < 0.03 and 0 <= values.min() and values.max() < 1
    assert (
        values.tolist() == RandomScore()({"text": texts})["random"] != RandomScore(seed=1)({"text": texts})["random"]
    )


def test_gzip_tells_repetition_from_noise():
    noise = "".join(chr(c) for c in np.random.default_rng(0).integers(33, 127, 5000))
    ratios = GzipRatio()({"text": ["again " * 800, noise]})["gzip_ratio"]
    # 94 equally likely characters hold log2(94) = 6.55 of 8 bits
    assert ratios[0] < 0.02 and math.log2(94) / 8 < ratios[1] < 0.87


def test_token_losses_are_those_of_the_whole_logits(tiny_llama, model):
    network = LossGain(model=str(tiny_llama), device="cpu").load_model()
    ids = draw_ids(1200)
    ours = token_losses(network, torch.tensor(ids)[None])[0].double().numpy()
    np.testing.assert_allclose(ours, exact_losses(model, ids), atol=2e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_gain_is_the_drop_from_two_blocks_of_context_to_all_of_it(tiny_llama, model, weighted):
    ids, block = draw_ids(90), 16
    whole = exact_losses(model, ids[:80])
    gains = []
    for t in range(2 * block, 80):
        start = (t // block - 1) * block
        near = exact_losses(model, ids[start : t + 1])[-1]
        drop = near - whole[t - 1]
        gains.append(drop * math.exp(-whole[t - 1]) if weighted else drop)
    scorer = LossGain(model=str(tiny_llama), device="cpu", short_tokens=block, weighted=weighted)
    assert scorer({"input_ids": [ids]})["loss_gain"][0] == pytest.approx(np.mean(gains), abs=1e-5)


def test_loss_gain_needs_three_blocks(tiny_llama):
    with pytest.raises(ValueError, match=r"no far context beyond blocks of 16; it needs at least 48 tokens\)"):
        LossGain(model=str(tiny_llama), device="cpu", short_tokens=16)({"input_ids": [draw_ids(40)]})
    scored = LossGain(model=str(tiny_llama), device="cpu", on_error="skip")(
        {"input_ids": [draw_ids(15), draw_ids(16)]}
    )
    assert scored["loss_gain"][0] is None and scored["loss_gain"][1] is not None
    assert scored["skip_reason"][0].endswith("it needs at least 16 tokens)")


def test_prolong_is_the_papers_sum_over_all_pairs(tiny_llama, model):
    ids, size, threshold = draw_ids(64, seed=3), 16, -10.0
    segments = ids.reshape(-1, size)
    alone = [math.exp(exact_losses(model, s).mean()) for s in segments]
    expected = 0.0
    for i in range(1, 4):
        both = [
            math.exp(exact_losses(model, np.concatenate([segments[j], segments[i]]))[-15:].mean()) for j in range(i)
        ]
        drops = alone[i] - np.array(both)
        weights = np.exp(drops - drops.max()) / np.exp(drops - drops.max()).sum()
        entropy = -sum(w * math.log(w) for w in weights if w > 0)
        specificity = 1 - entropy / math.log(i) if i > 1 else 1
        for j in range(i):
            if drops[j] / alone[i] > threshold:
                expected += (drops[j] / alone[i] + (i - j) / 3) * specificity
    scorer = ProLong(model=str(tiny_llama), device="cpu", segment_tokens=size, threshold=threshold)
    assert scorer({"input_ids": [ids]})["prolong"][0] == pytest.approx(expected, rel=1e-3)
    # a strength cannot exceed 1, so that no pair counts
    none = ProLong(model=str(tiny_llama), device="cpu", segment_tokens=size, threshold=1.0)
    assert none({"input_ids": [ids]})["prolong"] == [0.0]


def test_ladm_is_the_papers_sum_over_the_whole_maps(tiny_llama, model):
    ids, span, stride, near = draw_ids(128, seed=5), 4, 4, 4
    with torch.no_grad():
        maps = model(torch.tensor(ids)[None], output_attentions=True).attentions
    count, layers = 32, []
    for layer in maps:
        focus = layer[0].mean(0).double().view(count, span, count, span).sum((1, 3)).numpy()
        total = 0.0
        for j in range(2, count, stride):
            earlier = list(range(1, j - near, stride))
            if len(earlier) > 1:
                row = focus[j, earlier]
                total += j / count * row.std() * sum((j - i) / count * focus[j, i] for i in earlier)
        layers.append(total)
    scorer = Ladm(model=str(tiny_llama), device="cpu", span_tokens=span, stride=stride, near_spans=near)
    assert scorer({"input_ids": [ids]})["ladm"][0] == pytest.approx(np.mean(layers), rel=1e-4)


def test_deep_attention_is_each_whole_maps_far_mass_and_the_chosen_layers(tiny_llama, model):
    ids = draw_ids(96, seed=6)
    with torch.no_grad():
        maps = model(torch.tensor(ids)[None], output_attentions=True).attentions
    expected = [float(layer[0].double().tril(-24).sum((1, 2)).mean()) / 96 for layer in maps]
    scored = DeepAttention(model=str(tiny_llama), device="cpu", layer=0)({"input_ids": [ids]})
    assert scored["strength_by_layer"][0] == pytest.approx(expected, rel=1e-4)
    assert scored["deep_strength"][0] == scored["strength_by_layer"][0][0]


def test_deep_far_attention_is_a_layers_share_beyond_an_eighth_without_the_first_token(tiny_llama, model):
    ids = draw_ids(96, seed=6)
    with torch.no_grad():
        maps = model(torch.tensor(ids)[None], output_attentions=True).attentions
    # rows 24, 48 and 72, and the keys more than 12 before each
    rows = [[m[0, :, r, 1 : r - 12].sum(-1) / m[0, :, r, 1:].sum(-1) for r in (24, 48, 72)] for m in maps]
    expected = [torch.stack(layer).mean().item() for layer in rows]
    for layer, value in ((0, expected[0]), (-1, expected[-1]), (None, expected[len(maps) // 2])):
        scored = DeepFarAttention(model=str(tiny_llama), device="cpu", layer=layer)({"input_ids": [ids]})
        assert scored == {"deep_far": [pytest.approx(value, rel=1e-4)]}
    with pytest.raises(IndexError):
        DeepFarAttention(model=str(tiny_llama), device="cpu", layer=99)({"input_ids": [ids]})
    with pytest.raises(ValueError, match="63 tokens, 64 are the least"):
        DeepFarAttention(model=str(tiny_llama), device="cpu")({"input_ids": [ids[:63]]})


def test_the_layers_behind_the_one_that_is_read_are_not_run(tiny_llama, monkeypatch):
    scorer = DeepFarAttention(model=str(tiny_llama), device="cpu", layer=0)
    network, ids = scorer.load_model(), draw_ids(96, seed=6)
    value = scorer({"input_ids": [ids]})

    def run_on(*args, **kwargs):
        raise AssertionError("a later layer was run")

    for layer in network.base_model.layers[1:]:
        monkeypatch.setattr(layer, "forward", run_on)
    assert scorer({"input_ids": [ids]}) == value
    with pytest.raises(AssertionError, match="a later layer"):
        DeepFarAttention(model=str(tiny_llama), device="cpu", layer=1)({"input_ids": [ids]})


def words(numbers):
    return " ".join(f"w{n}" for n in numbers)


def test_echo_gains_of_a_small_case_are_those_of_the_formula():
    rng = np.random.default_rng(1)
    numbers = rng.integers(0, 40, 512)
    frequencies, other = {f"w{n}": 0.01 for n in range(20)}, 0.001
    near, far = echo_gains(words(numbers), frequencies, other)
    blocks = numbers.reshape(8, 64)
    expected = []
    # of 8 blocks a quarter is 2: one near band of the block before, and all from two blocks on
    for nearest, end in ((1, 2), (2, 8)):
        gains = []
        for b in range(nearest, 8):
            context = blocks[max(b - end + 1, 0) : b - nearest + 1].ravel()
            for word in blocks[b]:
                share = (context == word).mean()
                gains.append(math.log(1 + 0.1 * share / (0.01 if word < 20 else 0.001)))
        expected.append(np.mean(gains))
    assert (near, far) == pytest.approx(expected, rel=1e-12)


def test_echo_of_a_repeated_paragraph_is_nothing():
    paragraph = words(np.random.default_rng(2).permutation(300)[:100])
    repeated = EchoScorer()({"text": " ".join([paragraph] * 20)})
    # beyond the first hundred words, in which none stands twice, only the five after the first seam are no copies
    assert repeated["echo"] == repeated["echo_far"] == 0
    assert repeated["echo_near"] < 5 / 1900 * math.log(1 + 0.1 / (64 * load_calibration().other_frequency))


def test_echo_falls_when_far_words_are_strangers_and_when_the_order_is_lost():
    rng = np.random.default_rng(3)

    def topic(centre, tokens):
        # words drift with their place in the text, over a common ground
        return (rng.normal(centre, 30, tokens) + np.linspace(0, 60, tokens)).astype(int)

    whole = topic(1000, 4096)
    collage = np.concatenate([topic(c, 1024) for c in (5000, 9000, 13000, 17000)])
    shuffled = whole.reshape(-1, 128)[rng.permutation(32)].ravel()
    scores = EchoScorer()({"text": [words(whole), words(collage), words(shuffled)]})
    assert scores["echo_far"][0] > 5 * scores["echo_far"][1]
    assert scores["echo_near"][0] > scores["echo_near"][2]
    assert scores["echo_far"][0] < scores["echo_far"][2]
    assert scores["echo"][0] > max(scores["echo"][1:])


def test_echo_refuses_a_short_text_and_a_file_that_is_no_calibration(tmp_path):
    with pytest.raises(ValueError, match=r"too short for an echo \(3 words, 512 are the least\)"):
        EchoScorer()({"text": ["far too short"]})
    path = tmp_path / "wrong.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"Cannot read a calibration from .*wrong\.json"):
        load_calibration(str(path))


def test_the_packaged_calibration_is_a_distribution():
    calibration = load_calibration()
    shares = np.array(list(calibration.frequencies.values()))
    assert 0 < calibration.other_frequency < shares.min() and 0.5 < shares.sum() < 1
    assert calibration.far_floor > 0 and calibration.sharpness > 0 and calibration.corpus


def test_echo_needs_neither_torch_nor_transformers(run_python):
    program = (
        "import sys; from longattn_hf.scoring.echo import EchoScorer; from longattn_hf.baselines import GzipRatio; "
        "assert not {'torch', 'transformers'} & {name for name in sys.modules if sys.modules[name]}, 'loaded'; "
        "print(EchoScorer()({'text': ' '.join(map(str, range(600)))})['echo'])"
    )
    # no word of this text stands in it twice
    assert float(run_python(program).stdout) == 0


@pytest.mark.parametrize("format_type", [None, "numpy"])
@pytest.mark.parametrize("reasons", [["too short", None], [None, None]])
def test_reasons_of_an_earlier_stage_are_read_in_every_format(format_type, reasons):
    rows = Dataset.from_dict({"text": ["abc", "abcd"], "skip_reason": reasons}).with_format(format_type)
    scored = rows.map(Length(), batched=True).with_format(None)
    assert scored["length"][:] == [None if reasons[0] else 3.0, 4.0]


def test_the_kind_of_intact_documents_is_known_and_that_of_logs_and_tables_is_not():
    chance = random.Random(0)
    logs = "\n".join(
        f"2026-11-{n % 28 + 1:02d}T10:{n % 60:02d}:00Z INFO worker-{n % 7} {chance.randrange(10**6)} took {n} ms"
        for n in range(400)
    )
    rows = "\n".join(",".join(str(chance.randrange(10**5)) for _ in range(8)) for _ in range(600))
    scored = KindScorer()({"text": [document["text"][:30_000] for document in demo_documents()][:12] + [logs, rows]})
    intact, junk = scored["kind"][:12], scored["kind"][12:]
    assert max(junk) < 0 and sum(kind >= 0 for kind in intact) >= 9 and max(scored["kind"]) <= 1
