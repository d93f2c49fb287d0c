"""All that the page's controls say at a time, what it selects, and the link that says it again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any
from urllib.parse import urlencode

from longattn_hf.explore.listing import ORDERS, Listed, find_windows
from longattn_hf.explore.scored_corpus import Selected
from longattn_hf.explore.session import Session
from longattn_hf.explore.views import cuts, shares
from longattn_hf.method import CONVENTIONS
from longattn_hf.pages.text import did_you_mean
from longattn_hf.selection.cut import Selection

#: The ways to say how much is kept.
FRACTION, BUDGET, TOTAL, CUT = KEEP_BY = ("fraction", "token budget", "total budget", "cut")
#: One more, where the build's own limits are a share or a budget for each category: no other control says these.
BUILT = "as built"
_LIMIT_OF = {FRACTION: "fraction", BUDGET: "token_budget", TOTAL: "total_token_budget", CUT: "threshold"}
# what a link calls the fields, in its order; the cuts are `cut.CATEGORY`
_NAMES = {
    "category": "category",
    "score": "score",
    "alpha": "alpha",
    "keep": "keep_by",
    "fraction": "fraction",
    "tokens": "budget",
    "overlap": "refuse_overlap",
    "other_score": "other_score",
    "other_alpha": "other_alpha",
    "other_convention": "other_convention",
    "list": "order",
    "find": "words",
    "filter": "conditions",
    "text": "text",
    "list_page": "page",
    "window": "window",
}
_CUT_OF = "cut."


@dataclass(frozen=True)
class State:
    """What the controls say; None is an empty field.

    Attributes:
        score: What ranks the windows.
        alpha: The weight of the uniformity.
        keep_by: One of `ways_to_keep`.
        fraction: The share of each category.
        budget: The tokens of each category, or of all together.
        refuse_overlap: Whether overlapping windows are refused.
        thresholds: The cut of each category; of those that are not in it, the one that `before` leads to.
        before: Where a cut starts from: the share or the budget that was shown before it.
        other_score: What ranks the windows of the other selection.
        other_alpha: Its alpha.
        other_convention: Its convention.
        category: Whose windows are listed: a category's, or those of all.
        order: One of `ORDERS`.
        words: What an id, document or source has to hold.
        conditions: The filter; see `meet`.
        text: What a window's text has to hold.
        paged: The page that was turned to, beside the list that it is a page of.
        window: The opened window's name, which is its id where no other has that.
    """

    score: str
    alpha: float | None
    keep_by: str
    fraction: float | None
    budget: float | None
    refuse_overlap: bool
    thresholds: dict[str, float] | None
    before: dict[str, Any]
    other_score: str
    other_alpha: float | None
    other_convention: str
    category: str
    order: str = ORDERS[0]
    words: str = ""
    conditions: str = ""
    text: str = ""
    paged: dict[str, Any] | None = None
    window: str | None = None

    @classmethod
    def start(cls, session: Session) -> "State":
        """Returns what the page starts with: the build's own selection."""
        first, corpus = session.start(), session.corpus
        ((name, value),) = first.limit.items()
        keep_by = BUILT if _is_by_category(first) else next(kind for kind, of in _LIMIT_OF.items() if of == name)
        # a build that goes on may have no window of a category yet
        cuts_at = {name: float(first.limit_of(name)) for name in corpus.categories}
        half = int(corpus.table["num_tokens"].to_numpy().sum()) // (2 * len(corpus.categories))
        return cls(
            score=corpus.scores[0],
            alpha=first.alpha,
            keep_by=keep_by,
            fraction=value if keep_by == FRACTION else 0.5,
            budget=value if keep_by in (BUDGET, TOTAL) else half,
            refuse_overlap=first.refuse_overlap,
            thresholds=cuts_at if keep_by == CUT else None,
            before=first.limit if keep_by != CUT else {"fraction": 0.5},
            other_score=corpus.scores[-1],
            other_alpha=1.0,
            other_convention=first.convention,
            category=corpus.categories[0],
        )

    def to_values(self) -> list[Any]:
        """Returns the fields in their order."""
        return [getattr(self, one.name) for one in fields(self)]

    @property
    def page(self) -> int | None:
        """The page of the list that was turned to; None where the list is another by now."""
        return self.paged["page"] if self.paged and self.paged["of"] == self._list else None

    def turn_to(self, page: int) -> dict[str, Any]:
        """Returns `paged` for a page of the list."""
        return {"of": self._list, "page": page}

    @property
    def _list(self) -> list[str]:
        return [self.category, self.order, self.words, self.conditions, self.text]

    def selections(self, session: Session) -> tuple[Selection, Selection]:
        """Returns the selection looked at and the one beside it.

        Beside a cut stands what the other keeps of as many windows of each category: its scores are on another scale.

        Raises:
            ValueError: A field is empty, or its value selects nothing.
        """
        needed = {"Alpha": self.alpha, "The other alpha": self.other_alpha}
        needed |= {"Tokens to keep": self.budget} if self.keep_by in (BUDGET, TOTAL) else {}
        needed |= {"Fraction of each category": self.fraction} if self.keep_by == FRACTION else {}
        if empty := [name for name, value in needed.items() if value is None]:
            raise ValueError(f"{empty[0]} must be a number.")
        own: dict[str, Any] = session.own | {"refuse_overlap": self.refuse_overlap}
        here = own | {"score": self.score, "alpha": self.alpha, "convention": session.corpus.convention}
        there = own | {"score": self.other_score, "alpha": self.other_alpha, "convention": self.other_convention}
        if self.keep_by != CUT:
            value = self.fraction if self.keep_by == FRACTION else self.budget
            limit = session.start().limit if self.keep_by == BUILT else {_LIMIT_OF[self.keep_by]: value}
            return Selection(**here, **limit), Selection(**there, **limit)
        thresholds = self.thresholds or {}
        if set(session.corpus.categories) - set(thresholds):
            shown = Selection(**here, **self.before)
            thresholds = cuts(session.corpus, session.select(shown)) | thresholds
        # a cut leaves nothing to chance
        selected = Selection(**here | {"temperature": 0.0}, threshold=thresholds)
        kept = shares(session.corpus, session.select(selected))
        return selected, Selection(**there | {"temperature": 0.0}, fraction=kept)

    def find(self, session: Session, selected: Selected, other: Selected) -> Listed:
        """Finds the windows to list; raises ValueError where the filter is not understood."""
        return find_windows(
            session.corpus,
            selected,
            other,
            category=self.category,
            order=self.order,
            words=self.words,
            conditions=self.conditions,
            search=session.search(self.text, self.category) if self.text.strip() else None,
        )

    def to_query(self, start: "State") -> str:
        """Returns the part of a link behind `?` that leads from what the page starts with to this."""
        found: dict[str, Any] = {}
        for name, field in _NAMES.items():
            value = getattr(self, field)
            if value not in (None, "") and (value != getattr(start, field) or (name == "keep" and value == CUT)):
                found[name] = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        if self.keep_by == CUT:
            found |= {_CUT_OF + name: value for name, value in (self.thresholds or {}).items()}
        return urlencode(found)

    def follow(self, link: Mapping[str, str], session: Session) -> tuple["State", list[str]]:
        """Returns what a link leads to, and a sentence for each part of it that is refused."""
        changed: dict[str, Any] = {}
        refused: list[str] = []
        cut_at: dict[str, float] = {}
        readers = _readers(session)
        known = [*readers, *(_CUT_OF + name for name in session.corpus.categories)]
        for name, text in link.items():
            # names of the page's framework and of what it is embedded in
            if name.startswith("__") or name == "view":
                continue
            try:
                if name not in known:
                    raise ValueError(f"is not understood. {did_you_mean(name, known)}")
                if name.startswith(_CUT_OF):
                    cut_at[name.removeprefix(_CUT_OF)] = _number(text)
                else:
                    changed[_NAMES[name]] = readers[name](text)
            except ValueError as error:
                refused.append(f"The link's {name}={text} {error}".strip())
        page = changed.pop("page", None)
        if cut_at:
            changed["thresholds"] = (self.thresholds or {}) | cut_at
        state = replace(self, **changed)
        return (replace(state, paged=state.turn_to(page)) if page else state), refused


def ways_to_keep(session: Session) -> tuple[str, ...]:
    """Returns the ways to say how much is kept that a session's page offers."""
    return (*KEEP_BY, BUILT) if _is_by_category(session.start()) else KEEP_BY


def _is_by_category(selection: Selection) -> bool:
    """Says whether a selection's limit is a share or a budget for each category; cuts have a control each."""
    ((name, limits),) = selection.limit.items()
    return isinstance(limits, Mapping) and name != "threshold"


def _readers(session: Session) -> dict[str, Callable[[str], Any]]:
    scores = _choice(session.corpus.scores)
    return {
        "category": _choice(session.corpus.lists),
        "score": scores,
        "alpha": _number,
        "keep": _choice(ways_to_keep(session)),
        "fraction": _number,
        "tokens": _whole,
        "overlap": lambda text: _choice(("yes", "no"))(text) == "yes",
        "other_score": scores,
        "other_alpha": _number,
        "other_convention": _choice(list(CONVENTIONS)),
        "list": _choice(ORDERS),
        "find": str,
        "filter": str,
        "text": str,
        "list_page": _whole,
        "window": str,
    }


def _choice(choices: Any) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            listed = ", ".join(choices[:10]) + (" ..." if len(choices) > 10 else "")
            raise ValueError(f"is none of {listed}. {did_you_mean(text, choices)}")
        return text

    return read


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise ValueError("is no number.")
    return value


def _whole(text: str) -> int:
    value = _number(text)
    if value < 0 or value != int(value):
        raise ValueError("is no whole number from 0 up.")
    return int(value)
