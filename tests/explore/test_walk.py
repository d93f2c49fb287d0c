import math
import os
import random
import re
from functools import cache

from longattn_hf.explore.scored_corpus import ALL
from longattn_hf.selection.select import add_long_distance_score, select_windows
from tests.support.explorer_page import BADLY_WAITED, Explorer, count_kept
from tests.support.scored_build import CATEGORIES

# what may stand in the filter, and what it asks of a row; None is not understood
FILTERS = {
    "": lambda row: True,
    "kept = yes": lambda row: row["kept"],
    "rank <= 7 and source contains B>": lambda row: row["rank"] <= 7,
    "score > 0": lambda row: row["score"] > 0,
    "tokens > 96": lambda row: False,
    "score >": None,
    "tokns = 1": None,
}
COMPARED = {
    "only in this selection": (True, False),
    "only in the other": (False, True),
    "in both selections": (True, True),
    "in neither selection": (False, False),
}
BIN = re.compile(r"score >= (\S+) and score (<=?) (\S+)")


class Walk:
    """What the page should show, by a model of its own of what the controls mean."""

    def __init__(self, whole):
        whole = whole.remove_columns(["text", "input_ids", "long_distance_score", "kept"])
        self.scored = cache(lambda alpha: add_long_distance_score(whole, alpha=alpha))
        self.select = cache(self.select)
        self.by, self.values = "fraction", {"alpha": 0.5, "fraction": 0.5, "budget": 2000}
        self.overlap, self.cuts, self.before, self.other_alpha = False, None, {"fraction": 0.5}, 1.0
        self.category, self.order, self.filter, self.turned = CATEGORIES[0], "highest", "", (None, 1)

    def select(self, alpha, name, limit, overlap):
        limit = dict(limit) if isinstance(limit, tuple) else limit
        return select_windows(self.scored(alpha), refuse_overlap=overlap, **{name: limit})

    @property
    def is_valid(self):
        needed = {"fraction": ["fraction"], "cut": []}.get(self.by, ["budget"])
        values = [self.values[name] for name in (*needed, "alpha")]
        return all(value != "" for value in values) and (self.by != "fraction" or 0 <= self.values["fraction"] <= 1)

    @property
    def list(self):
        return self.category, self.order, self.filter

    def page(self, pages):
        """The page that is shown: the one turned to, where the list is the same and as long."""
        return min(self.turned[1], len(pages)) if self.turned[0] == self.list else 1

    def kept(self, alpha, limit):
        ((name, value),) = limit.items()
        return self.select(alpha, name, tuple(value.items()) if isinstance(value, dict) else value, self.overlap)

    def scores(self, dataset):
        found = {name: [] for name in CATEGORIES}
        for name, score in zip(dataset["category"], dataset["long_distance_score"], strict=True):
            found[name].append(score)
        return found

    def step(self):
        """Takes what the page takes over when its controls are valid; returns what both selections keep."""
        alpha = self.values["alpha"]
        if self.by == "cut":
            every = self.scores(self.scored(alpha))
            if self.cuts is None:
                kept = self.scores(self.kept(alpha, self.before))
                self.cuts = {
                    name: math.nextafter(min(kept[name]), -math.inf) if kept[name] else max(every[name])
                    for name in CATEGORIES
                }
            here = self.kept(alpha, {"threshold": self.cuts})
            kept = self.scores(here)
            # as many windows of each category
            shares = {name: max(len(kept[name]) - 0.5, 0) / len(every[name]) for name in CATEGORIES}
            return here, self.kept(self.other_alpha, {"fraction": shares})
        self.cuts = None
        limits = {"token budget": "token_budget", "total budget": "total_token_budget", "fraction": "fraction"}
        self.before = {limits[self.by]: self.values["fraction" if self.by == "fraction" else "budget"]}
        return self.kept(alpha, self.before), self.kept(self.other_alpha, self.before)

    def listed(self, here, there):
        """The pages of the list, or None where its filter is not understood."""
        here, there, rows = set(here["id"]), set(there["id"]), []
        scored = self.scored(self.values["alpha"]).select_columns(["id", "category", "long_distance_score"])
        for row in scored.to_list():
            if self.category in (row["category"], ALL):
                score = row["long_distance_score"]
                rows.append({"id": row["id"], "of": row["category"], "score": score, "kept": row["id"] in here})
        rows.sort(key=lambda row: (-row["score"], row["id"]))
        for row in rows:
            row["rank"] = 1 + sum(other["score"] > row["score"] for other in rows if other["of"] == row["of"])
        if match := BIN.fullmatch(self.filter):
            low, high = float(match[1]), float(match[3])
            meets = lambda row: low <= row["score"] < high or (match[2] == "<=" and row["score"] == high)  # noqa: E731
        else:
            meets = FILTERS[self.filter]
        if meets is None:
            return None
        found = [row["id"] for row in rows if meets(row)]
        if self.order in COMPARED:
            found = [one for one in found if (one in here, one in there) == COMPARED[self.order]]
        found = found[::-1] if self.order == "lowest" else found
        return [found[at : at + 20] for at in range(0, max(len(found), 1), 20)]


def test_what_the_page_says_is_what_select_windows_keeps_in_every_state(explorer, explored):
    # a longer walk: LONGATTN_WALK=200
    steps = int(os.environ.get("LONGATTN_WALK", "40"))
    fresh, chance = Explorer(explorer.page.context.browser, explorer.address), random.Random(steps)
    page, walk, pages = fresh.page, Walk(explored[1]), None
    labels = {"fraction": "Fraction of each category", "budget": "Tokens to keep", "alpha": "Alpha"}
    choices = {"alpha": [0, 0.5, 9, ""], "fraction": [0, 0.3, 0.7, 1, 1.5, ""], "budget": [0, 600, 3000, ""]}

    def choose(label, value):
        page.get_by_role("combobox", name=label).click()
        page.get_by_role("option", name=value, exact=True).click()

    def act(what):
        if what == "by":
            walk.by = chance.choice(["fraction", "token budget", "total budget", "cut"])
            page.get_by_label(walk.by, exact=True).check()
        elif what == "overlap":
            walk.overlap = not walk.overlap
            page.get_by_label("Refuse overlapping windows").set_checked(walk.overlap)
        elif what == "other":
            walk.other_alpha = chance.choice([0, 0.5, 7])
            fresh.set_number("Other selection: alpha", walk.other_alpha)
        elif what in choices:
            walk.values[what] = chance.choice(choices[what])
            fresh.set_number(labels[what], walk.values[what])
        elif what == "page":
            # a list of forty has two pages, that of all categories four
            if pages and len(pages) > 1:
                shown = walk.page(pages)
                number = chance.choice([one for one in (shown - 1, shown + 1) if 1 <= one <= len(pages)])
                page.get_by_role("button", name="Next page" if number > shown else "Previous page").click()
                walk.turned = (walk.list, number)
        elif what == "bin":
            if walk.is_valid:
                walk.category = chance.choice(CATEGORIES)
                bars = page.locator(f"section[aria-label={walk.category}] .la-bin")
                bars.nth(chance.randrange(bars.count())).click()
                box, old = page.get_by_role("textbox", name="Filter"), walk.filter
                for _ in range(20):
                    # a bar that was clicked before leaves the filter as it is
                    walk.filter = box.input_value()
                    if walk.filter != old and BIN.fullmatch(walk.filter):
                        break
                    page.wait_for_timeout(50)
        elif what == "filter":
            walk.filter = chance.choice(list(FILTERS))
            page.get_by_role("textbox", name="Filter").fill(walk.filter)
        elif what == "category":
            walk.category = chance.choice([*CATEGORIES, ALL])
            choose("Category", walk.category)
        else:
            walk.order = chance.choice(["highest", "lowest", *COMPARED])
            choose("Windows to list", walk.order)

    actions = [
        "alpha",
        "by",
        "by",
        "fraction",
        "budget",
        "overlap",
        "other",
        "filter",
        "category",
        "order",
        "page",
        "bin",
    ]
    invalid = refused = 0
    for _ in range(steps):
        act(chance.choice(actions))
        if not walk.is_valid:
            page.get_by_text("This selects nothing").wait_for()
            fresh.wait_for_counts({})
            fresh.wait_for_list([])
            invalid, pages = invalid + 1, None
            continue
        page.get_by_text("This selects nothing").wait_for(state="hidden")
        here, there = walk.step()
        fresh.wait_for_counts(count_kept(here))
        fresh.wait_for_counts(count_kept(there), columns=(4, 5, 6))
        pages = walk.listed(here, there)
        if pages is None:
            fresh.wait_for_list([])
            page.get_by_text("The filter").first.wait_for(timeout=BADLY_WAITED)
            refused += 1
            continue
        fresh.wait_for_list(pages[walk.page(pages) - 1])
        page.get_by_text(f"{sum(map(len, pages)):,} windows of {walk.category}.").wait_for()
    assert fresh.wrong == [] and invalid and refused
    page.close()
