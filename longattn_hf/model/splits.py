"""Where a text can be cut so that its parts, tokenised one by one, give the ids of the whole.

A tokenizer of the usual kind first splits a text, mostly by regular expressions, and works on each part by itself. A
place is safe, whatever stands before and after it, where no match can reach across it and one begins there. Between
the characters u and v that holds if in no alternative of an expression something that matches u stands before, or is,
something that matches v, and an alternative that looks at nothing else matches v, or v and the character behind it.
What an expression sees behind u is then the same as the end of the text, as long as no expression looks back.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from tokenizers import Regex, pre_tokenizers

#: GPT-2's expression, which the byte-level step has built in.
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
#: How blanks begin words where they become part of them.
_WORDS = r"[^ ]+| +"
#: Steps that only compare neighbours; as an expression, the boundaries that all of them have at least.
_NEIGHBOURS = {
    **dict.fromkeys(("BertPreTokenizer", "Whitespace", "WhitespaceSplit"), r"\S+|\s+"),
    **dict.fromkeys(("Digits", "Punctuation", "CharDelimiterSplit"), None),
}
#: Normalisers that change characters by themselves and leave blanks between letters as they are.
_BY_CHARACTER = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer"}
_ACROSS = re.compile("[^▁]▁")
_REPEATED = ("*", "+", "{")
_MODELS = {"BPE", "WordPiece", "WordLevel", "Unigram"}
_PART = re.compile(
    r"(?:(?P<open>\((?:\?(?:[imsu]*:|[=!>]))?)|(?P<close>\))|(?P<bar>\|)|(?P<end>\$|\\[zZ])"
    r"|(?P<atom>\[\^?\]?(?:\\.|\[(?:\\.|[^\]\\])*\]|[^\]\\\[])*\]"
    r"|\\[pP]\{[^}]+\}|\\x\{\w+\}|\\x\w\w|\\u\w{4}|\\[^bBAGKkgXRyYpPxu0-9]|[^\\^()|$*+?{\[]))"
    r"(?P<times>(?:[*+?]|\{\d*,?\d*\})[+?]?)?",
    re.DOTALL,
)


class _NotKnown(Exception):
    """The tokenizer holds something whose boundaries are not understood."""


@dataclass(frozen=True)
class _Atom:
    """A class of characters in an expression, and whether it can match several in a row."""

    expression: str
    repeated: bool


@dataclass(frozen=True)
class _Branch:
    """One alternative: its atoms in order, and its text, if it looks at nothing but what it matches."""

    atoms: tuple[_Atom, ...]
    alone: str | None


class Splits:
    """A tokenizer's safe places; none where its steps are not understood, and `reason` says why.

    Args:
        settings: What its tokenizer.json holds.

    Attributes:
        reason: Why no place is safe; None where some are.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.reason: str | None = None
        self._branches: list[_Branch] = []
        # what must stand behind a cut: anything, or a blank behind a letter
        self._blanks_only = self._composes = self._has_no_blanks = False
        try:
            self._read(settings)
        except _NotKnown as error:
            self.reason = str(error)
        self._atoms = sorted({atom.expression for branch in self._branches for atom in branch.atoms})
        self._added = [
            token["content"]
            for token in settings["added_tokens"]
            if not token["special"] and len(token["content"]) > 1
        ]
        self._own = set("".join(self._added))
        self._pairs = {pair for content in self._added for pair in pairwise(content)}
        self._steps: dict[str, Any] = {}
        # characters of one class behave alike; 0 is a character that was not met yet
        self._class_of = np.zeros(0x110000, dtype=np.uint16)
        self._classes: dict[tuple, int] = {}
        self._first: list[str] = [""]
        # by two characters in a row: nothing reaches from the first to the second; a match begins with the first
        self._apart = self._begins = np.zeros((1, 1), dtype=bool)

    def cuts(self, text: str) -> np.ndarray:
        """Returns the safe places inside a text, in order, in characters."""
        if self.reason:
            return np.empty(0, dtype=np.int64)
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        classes = self._class_of[codes]
        if not classes.all():
            for code in np.unique(codes[classes == 0]):
                self._class_of[code] = self._classify(chr(code))
            classes = self._class_of[codes]
        apart, begins = self._apart[classes[:-2], classes[1:-1]], self._begins[classes[1:-1], classes[2:]]
        return np.flatnonzero(apart & begins) + 1

    def _read(self, settings: dict[str, Any]) -> None:
        model = settings["model"]
        if model["type"] not in _MODELS or model.get("dropout"):
            raise _NotKnown(f"its model is {model['type']}" + ", with dropout" * bool(model.get("dropout")))
        for token in settings["added_tokens"]:
            if not token["special"] and (token["lstrip"] or token["rstrip"] or token["single_word"]):
                raise _NotKnown(f"its added token {token['content']!r} depends on what stands beside it")
        for step in _flatten(settings["normalizer"], "normalizers"):
            single = step["type"] == "Replace" and len(step["pattern"].get("String", "  ")) == 1
            if step["type"] not in _BY_CHARACTER and not single:
                raise _NotKnown(f"its normaliser {step['type']} can look at more than one character")
            self._has_no_blanks |= step.get("pattern") == {"String": " "}
            self._composes |= step["type"] == "NFC"
            self._blanks_only |= step["type"] != "NFC"
        for step in _flatten(settings["pre_tokenizer"], "pretokenizers"):
            self._branches += _branches(self._expression(step))
        if not self._branches and _keeps_words_apart(settings):
            self._blanks_only, self._branches = True, _branches(_WORDS)
        if not self._branches:
            raise _NotKnown("nothing splits a text before its model does")

    def _expression(self, step: dict[str, Any]) -> str:
        """Returns the expression by which a step splits, empty if it only splits further."""
        kind = step["type"]
        if kind == "ByteLevel":
            self._blanks_only |= step["add_prefix_space"]
            return _GPT2 if step["use_regex"] else ""
        if kind == "Metaspace":
            self._blanks_only = True
            return _WORDS if step["split"] else ""
        if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            pattern = step["pattern"]
            return pattern["Regex"] if "Regex" in pattern else re.escape(pattern["String"])
        if kind in _NEIGHBOURS:
            return _NEIGHBOURS[kind] or ""
        if kind == "Split" and step["pattern"] == {"String": " "} and self._has_no_blanks:
            return ""
        raise _NotKnown(f"its step {kind} is not known to split at the same places in a part of a text")

    def _classify(self, char: str) -> int:
        key = (
            tuple(self._matches(atom, char) for atom in self._atoms),
            char if char in self._own or char == " " else "",
            char.isascii() and char.isalpha(),
            self._composes and unicodedata.category(char),
            self._composes and unicodedata.is_normalized("NFC", char),
        )
        if key not in self._classes:
            self._classes[key] = len(self._first)
            self._first.append(char)
            self._apart = _grown(self._apart, self._first, self._are_apart)
            self._begins = _grown(self._begins, self._first, self._begin)
        return self._classes[key]

    def _begin(self, v: str, w: str) -> bool:
        alone = [branch.alone for branch in self._branches if branch.alone]
        return any(self._matches(expression, text) for expression in alone for text in (v, v + w))

    def _are_apart(self, u: str, v: str) -> bool:
        if (u, v) in self._pairs:
            return False
        if self._blanks_only and not (u.isascii() and u.isalpha() and v == " "):
            return False
        if self._composes:
            # punctuation and blanks join no character before or behind them; marks and jamo may
            stands = unicodedata.category(u)[0] in "LNPZC" and unicodedata.is_normalized("NFC", u)
            if not stands or "\u1100" <= u <= "\u11ff" or unicodedata.category(v)[0] not in "PZC":
                return False
        return not any(self._crosses(branch, u, v) for branch in self._branches)

    def _crosses(self, branch: _Branch, u: str, v: str) -> bool:
        behind = False
        for atom in branch.atoms:
            takes_v = self._matches(atom.expression, v)
            takes_u = self._matches(atom.expression, u)
            if takes_v and (behind or (takes_u and atom.repeated)):
                return True
            behind |= takes_u
        return False

    def _matches(self, expression: str, text: str) -> bool:
        """Says whether an expression matches all of a text, in any case and with any line ends."""
        if expression not in self._steps:
            either = Regex(f"(?:{expression})|(?mi:{expression})")
            self._steps[expression] = pre_tokenizers.Split(either, "removed")
        return not self._steps[expression].pre_tokenize_str(text)


def _grown(table: np.ndarray, first: list[str], relation: Callable[[str, str], bool]) -> np.ndarray:
    """Returns a table of pairs of classes with a row and a column for the last one, by their first characters."""
    grown = np.zeros((len(first), len(first)), dtype=bool)
    grown[:-1, :-1] = table
    grown[1:, -1] = [relation(other, first[-1]) for other in first[1:]]
    grown[-1, 1:] = [relation(first[-1], other) for other in first[1:]]
    return grown


def _keeps_words_apart(settings: dict[str, Any]) -> bool:
    """Says whether no merge reaches from a word to the blank behind it, though nothing splits there."""
    model = settings["model"]
    return model["type"] == "BPE" and "▁" in model["vocab"] and not any(map(_ACROSS.search, model["vocab"]))


def is_byte_level(settings: dict[str, Any]) -> bool:
    """Says whether a tokenizer's tokens spell a text's bytes as they stand, or as NFC leaves them."""
    steps = [step["type"] for step in _flatten(settings["pre_tokenizer"], "pretokenizers")]
    changes = {step["type"] for step in _flatten(settings["normalizer"], "normalizers")}
    return settings["model"]["type"] == "BPE" and "ByteLevel" in steps and changes <= {"NFC"}


def _flatten(step: dict[str, Any] | None, inner: str) -> Iterator[dict[str, Any]]:
    if step is None:
        return
    if step["type"] == "Sequence":
        for part in step[inner]:
            yield from _flatten(part, inner)
    else:
        yield step


def _branches(expression: str) -> list[_Branch]:
    """Reads the alternatives of an expression; those inside a group count as one after another."""
    branches: list[_Branch] = []
    atoms: list[_Atom] = []
    begin = at = depth = 0
    looks = False
    while at < len(expression):
        part = _PART.match(expression, at)
        times = (part and part["times"]) or ""
        # a group that begins with what is not read here, to look back, say, reads as one that is repeated
        if part is None or (times and not (part["atom"] or part["close"])):
            raise _NotKnown(f"its split {expression!r} looks back, or is not understood")
        if part["bar"] and depth == 0:
            branches.append(_Branch(tuple(atoms), None if looks else expression[begin:at]))
            atoms, begin, looks = [], part.end(), False
        elif part["open"]:
            depth += 1
            looks |= part["open"][-1] in "=!"
        elif part["close"]:
            depth -= 1
            if times.startswith(_REPEATED):
                raise _NotKnown(f"its split {expression!r} repeats a group")
        elif part["end"]:
            looks = True
            atoms.append(_Atom(r"[\s\S]", repeated=False))
        elif part["atom"]:
            atoms.append(_Atom(part["atom"], repeated=times.startswith(_REPEATED)))
        at = part.end()
    if expression:
        branches.append(_Branch(tuple(atoms), None if looks else expression[begin:]))
    return branches
