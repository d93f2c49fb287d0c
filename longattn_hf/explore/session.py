"""The explorer's memory: the corpus, the latest selections and searches, and the windows opened last."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

from longattn_hf.columns import TEXT
from longattn_hf.explore.document_map import map_document
from longattn_hf.explore.scored_corpus import ScoredCorpus, Selected
from longattn_hf.explore.texts import TextSearch
from longattn_hf.explore.token_view import TokenView, explain
from longattn_hf.explore.why import stand
from longattn_hf.files import write_text
from longattn_hf.pages.page import visible
from longattn_hf.pipeline.choice import ScorerChoice
from longattn_hf.pipeline.scored_with import scorer_arguments
from longattn_hf.scoring.longattn import LongAttnScorer
from longattn_hf.selection.cut import LIMITS, Selection

# characters of an excerpt before and behind the words
# few before, so that a narrow column shows the words too
_BEFORE, _BEHIND = 24, 130


class Session:
    """One corpus being looked at.

    Args:
        folder: As in `ScoredCorpus`.
        revision: As in `ScoredCorpus`.
        statistics: As in `ScoredCorpus`.
        convention: As in `ScoredCorpus`.
        model: The model of the token view; that of the build if None.
        recipe: The file that "Save as recipe" writes; None shows the recipe only.

    Raises:
        ValueError: As `ScoredCorpus`.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        revision: str | None = None,
        statistics: str | None = None,
        convention: str | None = None,
        model: str | None = None,
        recipe: Path | None = None,
    ) -> None:
        how = {"revision": revision, "statistics": statistics, "convention": convention}
        self._open = lambda: ScoredCorpus(folder, **how)
        self._model, self.recipe = model, recipe
        self._selected: dict[str, Selected] = {}
        self._searches: dict[tuple[str, str], TextSearch] = {}
        self._selecting, self._searching, self._looking = Lock(), Lock(), Lock()
        # a view holds the window's queries and keys, some hundred megabytes for a long one
        self._view = lru_cache(maxsize=2)(self._explain)
        self.reload()

    def reload(self) -> None:
        """Reads the corpus again, for a build that goes on."""
        self.corpus = self._open()
        self._selected.clear()
        self._searches.clear()
        # another window may have the name by now
        self._view.cache_clear()

    def select(self, selection: Selection) -> Selected:
        """Returns what a selection makes of the windows, of the last few without computing it again."""
        key = repr(selection)
        with self._selecting:
            if key not in self._selected:
                while len(self._selected) > 3:
                    self._selected.pop(next(iter(self._selected)))
                self._selected[key] = self.corpus.select(selection)
            return self._selected[key]

    def start(self) -> Selection:
        """Returns the build's own selection as far as it is known, else half of the windows."""
        known = self.corpus.settings
        limit = {name: known[name] for name in LIMITS if known.get(name) is not None}
        return Selection(
            alpha=float(known.get("alpha", 0.5)),
            score=self.corpus.scores[0],
            convention=self.corpus.convention,
            refuse_overlap=bool(known.get("refuse_overlap")),
            **self.own,
            **(limit or {"fraction": 0.5}),
        )

    @property
    def own(self) -> dict[str, Any]:
        """What of the build's selection the page does not change, as arguments of a `Selection`."""
        known = self.corpus.settings
        chance = {"temperature": known.get("temperature") or 0.0, "seed": known.get("draw_seed") or 0}
        return {"gate": ScorerChoice.of_settings(known).columns["gate"]} | chance

    def save_recipe(self, selection: Selection) -> str:
        """Returns the recipe of a selection, and writes it where the session may.

        Raises:
            OSError: It cannot be written.
        """
        text = self.corpus.recipe(selection)
        if self.recipe is not None:
            write_text(self.recipe, text)
        return text

    def search(self, words: str, category: str) -> TextSearch:
        """Returns the search for words through the texts of a list, as far as it has got; the last few are kept."""
        key = (words.strip(), category)
        with self._searching:
            if key not in self._searches:
                while len(self._searches) > 3:
                    self._searches.pop(next(iter(self._searches)))
                self._searches[key] = self.corpus.search_texts(*key)
            return self._searches[key]

    def open_window(self, name: str, selection: Selection | None = None) -> dict[str, Any]:
        """Returns what the page shows of a window at once: its text, and why it has its score.

        Args:
            name: The window's; see `ScoredCorpus.name_of`.
            selection: The selection that it stands in; the build's own if None.

        Raises:
            ValueError: There is no such window.
        """
        row = self.corpus.row_of(name)
        selection = selection or self.start()
        try:
            window, note = self.corpus.read_window(row), ""
        except (ValueError, OSError) as error:
            window, note = {TEXT: ""}, visible(str(error))
        return {
            "name": name,
            "title": visible(f"{window.get('source') or 'Window'} · {name}"),
            "text": visible(window[TEXT]),
            "note": note,
            "tokenCount": self.corpus.table["num_tokens"][row].as_py(),
            **self._place(row, selection),
            "document": map_document(self.corpus, self.select(selection), row),
        }

    def look(self, name: str) -> dict[str, Any]:
        """Returns a window's token view, or a note why there is none; one at a time is computed."""
        try:
            # a click asks for what is not listed
            return self.view(name).to_data(listed_rows=24)
        except (ValueError, OSError) as error:
            return {"note": visible(f"Only the text can be shown: {error}")}

    def view(self, name: str) -> TokenView:
        """Returns a window's token view; those of the last two are kept.

        Raises:
            OSError: The file of its text is damaged.
            ValueError: There is no such window, no text, or no model.
        """
        with self._looking:
            return self._view(name)

    def texts(self, names: Sequence[str]) -> list[str]:
        """Returns the texts of a few windows, to be shown; in place of one, that it is not here."""
        return ["This text is not here." if text is None else visible(text) for text in self._read(names)]

    def excerpts(self, names: Sequence[str], words: str) -> list[list[str]]:
        """Returns a line of each window's text: what stands before the words, the words, and what stands behind.

        Args:
            names: The windows'; see `ScoredCorpus.name_of`.
            words: What to show of a text; its beginning where they are none or not in it.
        """
        texts = self._read(names)
        return [["", "", "not here"] if text is None else _excerpt(text, words.strip()) for text in texts]

    def _read(self, names: Sequence[str]) -> list[str | None]:
        rows = [self.corpus.row_of(one) for one in names]
        return self.corpus.texts.read_some(rows, [self.corpus.category_of(row) for row in rows])

    def _place(self, row: int, selection: Selection) -> dict[str, Any]:
        """Returns why a window is kept or not, and the windows of its category before and behind it by rank."""
        corpus, selected = self.corpus, self.select(selection)
        scores = {selection.ranked_by: selected.scores}
        for name in corpus.scores:
            if name in corpus.table.column_names:
                scores.setdefault(name, corpus.table[name].to_numpy())
            else:
                scores.setdefault(name, self.select(replace(selection, score=name)).scores)
        standing = stand(
            corpus.table,
            row,
            scores,
            kept=selected.kept,
            alpha=selection.alpha,
            convention=selection.convention,
            statistics=corpus.statistics,
        )
        order = corpus.by_rank(corpus.category_of(row), selected.scores).tolist()
        at = order.index(row) if row in order else len(order)
        before, behind = order[max(at - 1, 0) : at], order[at + 1 : at + 2]
        return {
            "why": standing.sentences() if standing else [],
            "previous": corpus.name_of(before[0]) if before else None,
            "next": corpus.name_of(behind[0]) if behind else None,
        }

    def far_tokens(self, name: str, position: int) -> list[tuple[int, float]]:
        """Returns the `(position, attention)` of the far tokens that a token of an opened window attends to most."""
        return [(far.position, far.attention) for far in self.view(name).top_far(position, 5)]

    def _explain(self, name: str) -> TokenView:
        return explain(self.corpus.read_window(self.corpus.row_of(name)), self._scorer())

    def _scorer(self) -> LongAttnScorer:
        known = self.corpus.settings
        name = self._model or known.get("model")
        if not name:
            raise ValueError("the dataset does not name its model; name one (--model).")
        place = {key: known[key] for key in ("revision", "gguf_file") if known.get(key) is not None}
        return LongAttnScorer(name, **place, **scorer_arguments(known))


def _excerpt(text: str, words: str) -> list[str]:
    match = re.search(re.escape(words), text, re.IGNORECASE)
    at, end = match.span() if match else (0, 0)
    around = (text[max(0, at - _BEFORE) : at], text[at:end], text[end : end + _BEHIND])
    # white space is one space, also where the words begin or end with some
    before, found, behind = (visible(re.sub(r"\s+", " ", part)) for part in around)
    return ["…" + before if at > _BEFORE else before, found, behind + "…" if end + _BEHIND < len(text) else behind]


def require_gradio() -> None:
    """Says what to do where the explorer's extra is missing.

    Raises:
        ValueError: It is.
    """
    if find_spec("gradio") is None:
        raise ValueError("The explorer needs Gradio: pip install 'longattn_hf[explore]'.")
