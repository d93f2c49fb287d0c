"""Prompts with codes hidden in long generated text, in the four forms of RULER's needle tasks (arXiv:2404.06654)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: New tokens that a model may spend on each value asked for: seven digits and what stands between two values.
TOKENS_PER_VALUE = 16

_COLOURS = (
    "amber azure bronze coral crimson ebony golden indigo ivory jade lilac olive pearl ruby scarlet silver".split()
)
_ANIMALS = (
    "badger beaver bison cobra falcon gecko heron ibis lemur lynx marten otter panther raven tapir walrus".split()
)
_WHO = (
    "the baker|a young teacher|the night porter|an old sailor|the village doctor|a tired clerk|the gardener|"
    "a travelling merchant|the bridge keeper|a quiet student|the mayor|a retired judge"
).split("|")
_DID = (
    "walked past|talked about|swept|painted|measured|wrote a letter about|forgot|looked after|drew|repaired|"
    "dreamt of|asked about"
).split("|")
_WHAT = (
    "the stone well|an empty barn|the market hall|a broken clock|the river path|the copper roof|a row of poplars|"
    "the railway station|a wooden boat|the school garden|a stack of newspapers|the harbour wall"
).split("|")
_WHEN = (
    "before breakfast|in the late afternoon|on the last day of the month|while it rained|after the concert|"
    "as on every Sunday|when nobody was near|until the lamps were lit|during the long winter|without a word|"
    "for the third time|with great care"
).split("|")


@dataclass(frozen=True, kw_only=True)
class NeedleTask:
    """How many keys are hidden, how many values each has, and how many keys are asked for."""

    keys: int
    values: int
    asked: int


TASKS = {
    "single": NeedleTask(keys=1, values=1, asked=1),
    "multi_key": NeedleTask(keys=4, values=1, asked=1),
    "multi_value": NeedleTask(keys=1, values=4, asked=1),
    "multi_query": NeedleTask(keys=4, values=1, asked=4),
}


@dataclass(frozen=True, kw_only=True)
class NeedlePrompt:
    """A prompt and what its answer should hold.

    Attributes:
        text: The prompt, ending where the values should follow.
        values: The values asked for.
        depth: Where the first of them stands in the text, in [0, 1].
        answer_tokens: New tokens to generate.
    """

    text: str
    values: list[str]
    depth: float
    answer_tokens: int


def make_prompts(
    task: str, tokenizer: "PreTrainedTokenizerFast", *, length: int, count: int, seed: int
) -> list[NeedlePrompt]:
    """Makes prompts whose tokens and answer together fill a context.

    The first value asked for stands at depths spread evenly over the text, the other needles anywhere.

    Args:
        task: One of `TASKS`.
        tokenizer: The tested model's.
        length: The context in tokens, the answer included.
        count: How many prompts.
        seed: The same seed, task and length give the same prompts.

    Raises:
        ValueError: The task is unknown, or the length has no room for its needles.
    """
    if task not in TASKS:
        raise ValueError(f"There is no needle task {task!r}; there are {', '.join(TASKS)}.")
    rng = np.random.default_rng([seed, length, list(TASKS).index(task)])
    return [
        _make_prompt(TASKS[task], tokenizer, length, (number + rng.random()) / count, rng) for number in range(count)
    ]


def _make_prompt(
    task: NeedleTask, tokenizer: "PreTrainedTokenizerFast", length: int, depth: float, rng: np.random.Generator
) -> NeedlePrompt:
    pairs = rng.choice(len(_COLOURS) * len(_ANIMALS), task.keys, replace=False)
    keys = [f"{_COLOURS[pair // len(_ANIMALS)]} {_ANIMALS[pair % len(_ANIMALS)]}" for pair in pairs]
    values = rng.choice(9_000_000, (task.keys, task.values), replace=False) + 1_000_000
    needles = [f"A code of the {key} is {value}." for key, row in zip(keys, values, strict=True) for value in row]
    asked_values = [str(value) for value in values[: task.asked].ravel()]
    before = "Some codes are hidden in the following text. Remember them.\n\n"
    after = _question(keys[: task.asked], len(asked_values))
    answer_tokens = TOKENS_PER_VALUE * len(asked_values)
    room = length - answer_tokens - _count(tokenizer, " ".join([before, *needles, after]))
    if room < 0:
        raise ValueError(f"A context of {length} tokens has no room for the needles and the answer; lengthen it.")
    filling = _filling(tokenizer, room, rng)
    while True:
        places = np.concatenate([[depth], rng.random(len(needles) - 1)])
        sentences = list(filling)
        # from the back, so that a place stays where it was counted
        for at in np.argsort(-places, kind="stable"):
            sentences.insert(round(places[at] * len(filling)), needles[at])
        text = before + " ".join(sentences) + after
        if _count(tokenizer, text) + answer_tokens <= length or not filling:
            return NeedlePrompt(text=text, values=asked_values, depth=float(depth), answer_tokens=answer_tokens)
        # joined text may come out a token or two longer than its parts
        filling.pop()


def _question(keys: list[str], values: int) -> str:
    names = ", ".join(f"the {key}" for key in keys)
    if values == 1:
        return f"\n\nQuestion: What is the code of {names}?\nAnswer: The code of {names} is"
    return f"\n\nQuestion: What are the {values} codes of {names}?\nAnswer: The {values} codes of {names} are"


def _filling(tokenizer: "PreTrainedTokenizerFast", room: int, rng: np.random.Generator) -> list[str]:
    """Draws sentences that fill so many tokens."""
    sentences: list[str] = []
    # no sentence is shorter than four tokens
    parts = [rng.choice(words, room // 4 + 1) for words in (_WHO, _DID, _WHAT, _WHEN)]
    drawn = [f"{who} {did} {what} {when}.".capitalize() for who, did, what, when in zip(*parts, strict=True)]
    for start in range(0, len(drawn), 256):
        some = drawn[start : start + 256]
        for sentence, ids in zip(some, _encode(tokenizer, [f" {sentence}" for sentence in some]), strict=True):
            room -= len(ids)
            if room < 0:
                return sentences
            sentences.append(sentence)
    return sentences


def _count(tokenizer: "PreTrainedTokenizerFast", text: str) -> int:
    return len(tokenizer(text, verbose=False)["input_ids"])


def _encode(tokenizer: "PreTrainedTokenizerFast", texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
