"""The explorer's page: its controls, its parts, and what changes which; nothing is fetched from anywhere else."""

import os
from collections.abc import Callable, Sequence
from typing import Any

# read when Gradio is imported; this app tells nobody that it runs
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI

from longattn_hf.explore import views
from longattn_hf.explore.compare import compare
from longattn_hf.explore.listing import ORDERS, show_page
from longattn_hf.explore.scored_corpus import ALL
from longattn_hf.explore.session import Session
from longattn_hf.explore.state import CUT, State, ways_to_keep
from longattn_hf.method import CONVENTIONS
from longattn_hf.pages.page import read_asset, visible
from longattn_hf.pages.text import prose

_FONTS = ["system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif"]
_MONO = ["ui-monospace", "DejaVu Sans Mono", "monospace"]
# the theme's own are too pale to read
_COLORS = {
    "block_info_text_color": "*neutral_600",
    "block_label_text_color": "*neutral_700",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
}
_CSS = ".la.la-explorer.la-explorer { min-width: 0; --la-paper: var(--body-background-fill); }"
_QUIET: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
# how long a search through the texts goes on before the page shows what it has found
_SEARCH_SECONDS = 1.0


def build_app(session: Session) -> gr.Blocks:
    """Lays the page out and connects it with a session's corpus."""
    start = State.start(session)
    rank_by = session.corpus.scores
    several = len(rank_by) > 1
    with gr.Blocks(title=f"{session.corpus.name}: LongAttn explorer", analytics_enabled=False) as app:
        headline = gr.Markdown(_headline(session), elem_id="headline")
        refusals = gr.Markdown(visible=False, elem_id="refusals")
        thresholds, before = gr.State(start.thresholds), gr.State(start.before)
        paged, opened, text = gr.State(), gr.State(), gr.State("")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                score = gr.Dropdown(rank_by, value=start.score, label="Rank by", visible=several)
                alpha = gr.Number(start.alpha, step=0.05, label="Alpha", info="weight of the uniformity")
                keep_by = gr.Radio(list(ways_to_keep(session)), value=start.keep_by, label="Keep by")
                fraction = gr.Number(start.fraction, step=0.01, label="Fraction of each category", info="from 0 to 1")
                budget = gr.Number(
                    start.budget, label="Tokens to keep", info="of each category, or of all together", precision=0
                )
                overlap = gr.Checkbox(start.refuse_overlap, label="Refuse overlapping windows")
                with gr.Group():
                    other_score = gr.Dropdown(
                        rank_by, value=start.other_score, label="Other selection: rank by", visible=several
                    )
                    other_alpha = gr.Number(start.other_alpha, step=0.05, label="Other selection: alpha")
                    other_reading = gr.Radio(
                        list(CONVENTIONS), value=start.other_convention, label="Other selection: convention"
                    )
                save = gr.Button("Save as recipe", variant="primary")
                recipe = _component("recipe", "recipe")
                link = _component("link", "link")
                reload = gr.Button("Read the build again", visible=session.corpus.running)
            with gr.Column(scale=3, min_width=320):
                by_category = _component("by-category", "table")
                histograms = _component("histograms", "histograms", events=("cut", "bin"))
                comparison = _component(
                    "comparison", "compare", events=("order", "open"), server=_serve(read_pair=session.texts)
                )
                with gr.Accordion("By source", open=False):
                    by_source = _component("by-source", "table")
        with gr.Row():
            category = gr.Dropdown(session.corpus.lists, value=start.category, label="Category", min_width=200)
            order = gr.Dropdown(list(ORDERS), value=start.order, label="Windows to list", min_width=200)
            words = gr.Textbox(label="Search id, document or source", min_width=200)
        with gr.Row():
            asked = gr.Textbox(label="Search the texts", info="any case; press Enter", min_width=200)
            conditions = gr.Textbox(
                label="Filter", info="as in: tokens >= 1000 and kept = no and source contains wiki", min_width=200
            )
        windows = _component(
            "windows",
            "windows",
            events=("open", "turn", "unfilter", "more", "everywhere"),
            server=_serve(excerpts=session.excerpts),
        )
        window = _component(
            "window",
            "window",
            events=("open",),
            server=_serve(look=session.look, far_tokens=session.far_tokens),
        )

        controls = [
            *(score, alpha, keep_by, fraction, budget, overlap, thresholds, before),
            *(other_score, other_alpha, other_reading),
        ]
        # in the order of the fields of `State`
        state = [*controls, category, order, words, conditions, text, paged, opened]
        lists = [windows, comparison, link]
        shown = [headline, histograms, by_category, by_source, windows, comparison, thresholds, before]

        def refresh(*values: Any) -> tuple:
            corpus, now = session.corpus, State(*values)
            try:
                pair = now.selections(session)
                selected, other = map(session.select, pair)
            except ValueError as error:
                # nothing is shown beside an input that selects nothing
                blank = [views.blank(label) for label in ("Kept by category", "Kept by source", "Windows")]
                note = f"{_headline(session)}\n\n**This selects nothing:** {prose(str(error))}"
                return (note, {"categories": [], "names": {}}, *blank, {}, gr.skip(), gr.skip())
            cut = now.keep_by == CUT
            return (
                _headline(session, selected.cautions),
                views.describe_histograms(corpus, selected, pair[0]),
                views.describe_categories(corpus, selected, other),
                views.describe_sources(corpus, selected, other),
                # the list follows
                *[gr.skip()] * 2,
                pair[0].threshold if cut else None,
                gr.skip() if cut else pair[0].limit,
            )

        def relist(*values: Any) -> tuple[dict[str, Any], ...]:
            now = State(*values)
            query, beside = now.to_query(start), {}
            try:
                selected, other = map(session.select, now.selections(session))
                beside = compare(session.corpus, selected, other, now.category)
                page = show_page(session.corpus, selected, other, now.find(session, selected, other), now.page)
            except ValueError as error:
                page = views.blank("Windows") | {"note": visible(str(error)), "filtered": bool(now.conditions)}
            return page | {"query": query, "opened": now.window}, beside, {"query": query}

        def follow_link(request: gr.Request) -> list[Any]:
            now, refused = start.follow(dict(request.query_params), session)
            note = "**Not all of the link is followed.** " + prose(" ".join(refused))
            return [*now.to_values(), now.text, gr.update(value=note, visible=bool(refused))]

        def move_cut(event: gr.EventData, *values: Any) -> tuple[str, dict[str, float]]:
            selected, _ = State(*values).selections(session)
            cuts = selected.threshold or views.cuts(session.corpus, session.select(selected))
            return CUT, {**cuts, event._data["category"]: float(event._data["value"])}

        def search_more(words: str, category: str) -> None:
            if words:
                session.search(words, category).go_on(_SEARCH_SECONDS)

        def open_window(event: gr.EventData, *values: Any) -> tuple:
            return show_window(*values[:-1], event._data["name"])

        def show_window(*values: Any) -> tuple:
            now = State(*values)
            if not now.window:
                return None, None, gr.skip()
            try:
                selected = now.selections(session)[0]
            except ValueError:
                selected = None
            try:
                found = session.open_window(now.window, selected)
            except ValueError as error:
                return {"name": "", "title": "Not here", "text": "", "note": visible(str(error))}, None, gr.skip()
            return found, now.window, {"query": now.to_query(start)}

        def read_again() -> list[dict[str, Any]]:
            session.reload()
            corpus = session.corpus
            scores = gr.update(choices=corpus.scores, visible=len(corpus.scores) > 1)
            return [gr.update(visible=corpus.running), gr.update(choices=corpus.lists), scores, scores]

        def write_recipe(*values: Any) -> dict[str, str]:
            try:
                text = session.save_recipe(State(*values).selections(session)[0])
            except (ValueError, OSError) as error:
                return {"text": "", "note": f"Nothing is written: {error}"}
            return {"text": text, "note": f"Written to {session.recipe}." if session.recipe else ""}

        def show(event: Any) -> Any:
            # the list is made of what the controls say when its turn comes, so that a slow answer is no old one
            return event(refresh, state, shown, **_QUIET).then(relist, state, lists, **_QUIET)

        for control in controls:
            if not isinstance(control, gr.State):
                show(control.input)
        for listing in (category, order, words, conditions):
            # a text box tells of its input before it has taken it
            listing.change(relist, state, lists, **_QUIET)
        asked.submit(str.strip, asked, text, show_progress="hidden").then(relist, state, lists, **_QUIET)
        show(histograms.cut(move_cut, state, [keep_by, thresholds], show_progress="hidden").then)
        # a filter's change lists the windows
        histograms.bin(_take("category", "filter"), None, [category, conditions], show_progress="hidden")
        windows.unfilter(lambda: "", None, conditions, show_progress="hidden")
        windows.everywhere(lambda: ALL, None, category, show_progress="hidden")
        comparison.order(_take("order"), None, order, show_progress="hidden")
        windows.turn(_turn_page, state, paged, **_QUIET).then(relist, state, lists, **_QUIET)
        windows.more(search_more, [text, category], show_progress="hidden").then(relist, state, lists, **_QUIET)
        for part in (windows, window, comparison):
            part.open(open_window, state, [window, opened, link], **_QUIET)
        save.click(write_recipe, state, recipe)
        show(reload.click(read_again, None, [reload, category, score, other_score]).then)
        show(app.load(follow_link, None, [*state, asked, refusals], show_progress="hidden").then).then(
            show_window, state, [window, opened, link], show_progress="hidden"
        )
    return app


def mount_app(server: FastAPI, session: Session) -> FastAPI:
    """Puts the page into a web application."""
    scripts = read_asset("plots.js", "token_view.js", "explorer.js", "windows.js", "compare.js")
    return gr.mount_gradio_app(
        server,
        build_app(session),
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        theme=gr.themes.Base(font=_FONTS, font_mono=_MONO).set(**_COLORS),
        css=read_asset("page.css") + _CSS,
        head=f"<script>{scripts}</script>",
    )


def _component(name: str, draw: str, *, events: Sequence[str] = (), server: Sequence[Callable] = ()) -> gr.HTML:
    """A part of the page that one of the package's scripts draws; its value is data, never markup."""
    ask = ", server" if server else ""
    code = f"""// events: {" ".join(f"'{event}'" for event in events)}
        const draw = () => {{
          const send = (event, data) => trigger(event, data);
          if (props.value) LongAttn.explorer.{draw}(element.querySelector(".la"), props.value, send{ask});
        }};
        watch("value", draw);
        draw();"""
    return gr.HTML(
        value=None,
        html_template=f'<div class="la la-explorer" id="{name}"></div>',
        js_on_load=code,
        apply_default_css=False,
        server_functions=list(server) or None,
    )


def _take(*names: str) -> Callable:
    """An event's own values, for a control each."""

    def take(event: gr.EventData) -> Any:
        values = [event._data[name] for name in names]
        return values if len(values) > 1 else values[0]

    return take


def _turn_page(event: gr.EventData, *values: Any) -> dict[str, Any]:
    return State(*values).turn_to(int(event._data["page"]))


def _serve(**methods: Callable) -> list[Callable]:
    """Methods as `server.NAME([argument, ...])` of the page: Gradio hands one value on, and marks what it serves."""
    return [_served(name, method) for name, method in methods.items()]


def _served(name: str, method: Callable) -> Callable:
    # a method itself cannot be marked
    def answer(arguments: list) -> Any:
        return method(*arguments)

    answer.__name__ = name
    return answer


def _headline(session: Session, cautions: Sequence[str] = ()) -> str:
    said = "".join(f"\n\n**Mind:** {prose(sentence)}" for sentence in cautions)
    return f"# {prose(session.corpus.name)}\n{prose(views.say_progress(session.corpus))}{said}"
