"""The explorer's page in a real browser, and what it should say."""

from longattn_hf.selection.select import add_long_distance_score, select_windows
from tests.support.scored_build import CATEGORIES

BADLY_WAITED = 30_000


def count_kept(kept):
    """What the first table should say of windows that are kept: by category windows, documents and tokens."""
    rows = kept.select_columns(["category", "doc_id", "num_tokens"]).to_pandas()
    parts = {name: rows[rows["category"] == name] for name in CATEGORIES} | {"all": rows}
    return {name: [len(p), p["doc_id"].nunique(), int(p["num_tokens"].sum())] for name, p in parts.items()}


def counts(dataset, *, alpha=0.5, convention="paper", **limit):
    """What the first table should say of a selection."""
    return count_kept(select_windows(add_long_distance_score(dataset, alpha=alpha, convention=convention), **limit))


class Explorer:
    """The page in a real browser, and what it asked for."""

    def __init__(self, browser, address, **settings):
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000}, **settings)
        self.page.set_default_timeout(10_000)
        self.asked, self.wrong, self.address = [], [], address
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.wrong.append(message.text))
        self.page.goto(address)
        self.page.locator("#windows button").first.wait_for(timeout=BADLY_WAITED)

    def counts(self, *columns):
        cells = self.page.evaluate(
            "() => [...document.querySelectorAll('#by-category tbody tr')].map((row) => "
            "[...row.cells].map((cell) => cell.textContent))"
        )
        return {name: [int(values[at].replace(",", "")) for at in columns] for name, *values in cells}

    def wait_for_counts(self, wanted, *, columns=(1, 2, 3)):
        for _ in range(100):
            if (seen := self.counts(*columns)) == wanted:
                return
            self.page.wait_for_timeout(100)
        assert seen == wanted

    def set_number(self, label, value):
        field = self.page.get_by_label(label, exact=True)
        field.fill(str(value))
        field.press("Tab")

    def listed(self):
        """The names of the list's rows, which are ids where no two windows have one."""
        return self.page.locator("#windows .la-link").evaluate_all("(links) => links.map((link) => link.dataset.name)")

    def wait_for_list(self, wanted):
        for _ in range(100):
            if (seen := self.listed()) == wanted:
                return
            self.page.wait_for_timeout(100)
        assert seen == wanted
