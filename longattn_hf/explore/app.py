"""The explorer's page and its server: nothing on it is fetched from anywhere else."""

import os
import socket
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

# read when Gradio is imported; this app tells nobody that it runs
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from longattn_hf.explore import views
from longattn_hf.explore.session import Session
from longattn_hf.method import CONVENTIONS
from longattn_hf.pages.page import read_asset, visible
from longattn_hf.pages.text import prose
from longattn_hf.selection.cut import Selection

_FRACTION, _BUDGET, _CUT = "fraction", "token budget", "cut"
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif"]
_MONO = ["ui-monospace", "DejaVu Sans Mono", "monospace"]
# the browser refuses whatever a page or a document might ask of another machine
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'self'"
)
_CSS = ".la.la-explorer.la-explorer { min-width: 0; --la-paper: var(--body-background-fill); }"


def build_app(session: Session) -> gr.Blocks:
    """Lays the page out and connects it with a session's corpus."""
    start = session.start()
    how = _CUT if start.threshold is not None else _BUDGET if start.token_budget is not None else _FRACTION
    categories = session.corpus.categories
    with gr.Blocks(title=f"{session.corpus.name}: LongAttn explorer", analytics_enabled=False) as app:
        headline = gr.Markdown(_headline(session), elem_id="headline")
        thresholds = gr.State(_by_category(start.threshold, categories))
        # where a cut starts from: the share or budget that was shown before it
        before = gr.State(start.limit if start.threshold is None else {"fraction": 0.5})
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                several, rank_by = len(session.corpus.scores) > 1, session.corpus.scores
                score = gr.Dropdown(rank_by, value=start.score, label="Rank by", visible=several)
                alpha = gr.Number(start.alpha, step=0.05, label="Alpha", info="weight of the uniformity")
                keep_by = gr.Radio([_FRACTION, _BUDGET, _CUT], value=how, label="Keep by")
                share = 0.5 if start.fraction is None else start.fraction
                fraction = gr.Number(share, step=0.01, label="Fraction of each category", info="from 0 to 1")
                tokens = _half(session) if start.token_budget is None else start.token_budget
                budget = gr.Number(tokens, label="Tokens of each category", precision=0)
                overlap = gr.Checkbox(start.refuse_overlap, label="Refuse overlapping windows")
                with gr.Group():
                    other_score = gr.Dropdown(
                        rank_by, value=rank_by[-1], label="Other selection: rank by", visible=several
                    )
                    other_alpha = gr.Number(1.0, step=0.05, label="Other selection: alpha")
                    other_reading = gr.Radio(
                        list(CONVENTIONS), value=start.convention, label="Other selection: convention"
                    )
                save = gr.Button("Save as recipe", variant="primary")
                recipe = _component("recipe", "recipe")
                reload = gr.Button("Read the build again", visible=session.corpus.running)
            with gr.Column(scale=3, min_width=320):
                by_category = _component("by-category", "table")
                histograms = _component("histograms", "histograms", events=("cut",))
                with gr.Accordion("By source", open=False):
                    by_source = _component("by-source", "table")
        with gr.Row():
            category = gr.Dropdown(categories, value=categories[0], label="Category", min_width=200)
            order = gr.Dropdown(list(views.ORDERS), value=views.ORDERS[0], label="Windows to list", min_width=200)
            words = gr.Textbox(label="Search id, document or source", min_width=200)
        windows = _component("windows", "table", events=("open",))
        window = _component("window", "window", events=("open",), server=_answer_far(session))

        controls = [
            *(score, alpha, keep_by, fraction, budget, overlap, thresholds, before),
            *(other_score, other_alpha, other_reading),
        ]
        listing = [category, order, words]
        shown = [headline, histograms, by_category, by_source, windows, thresholds, before]

        def choices(*values: Any) -> tuple[Selection, Selection]:
            return _choices(session, *values)

        def refresh(*values: Any) -> tuple:
            corpus, (where, sort, find) = session.corpus, values[len(controls) :]
            try:
                pair = choices(*values[: len(controls)])
                selected, other = map(session.select, pair)
            except ValueError as error:
                # nothing is shown beside an input that selects nothing
                blank = [views.blank(label) for label in ("Kept by category", "Kept by source", "Windows")]
                note = f"{_headline(session)}\n\n**This selects nothing:** {prose(str(error))}"
                return (note, {"categories": [], "names": {}}, *blank, gr.skip(), gr.skip())
            cut = isinstance(pair[0].threshold, dict)
            return (
                _headline(session),
                views.describe_histograms(corpus, selected, pair[0]),
                views.describe_categories(corpus, selected, other),
                views.describe_sources(corpus, selected, other),
                views.list_windows(corpus, selected, other, category=where, order=sort, words=find),
                pair[0].threshold if cut else None,
                gr.skip() if cut else pair[0].limit,
            )

        def relist(*values: Any) -> dict[str, Any]:
            where, sort, find = values[len(controls) :]
            try:
                selected, other = map(session.select, choices(*values[: len(controls)]))
            except ValueError:
                return views.blank("Windows")
            return views.list_windows(session.corpus, selected, other, category=where, order=sort, words=find)

        def move_cut(event: gr.EventData, *values: Any) -> tuple[str, dict[str, float]]:
            selected, _ = choices(*values)
            cuts = selected.threshold or views.cuts(session.corpus, session.select(selected))
            return _CUT, {**cuts, event._data["category"]: float(event._data["value"])}

        def read_again() -> dict[str, Any]:
            session.reload()
            return gr.update(visible=session.corpus.running)

        def write_recipe(*values: Any) -> dict[str, str]:
            try:
                text = session.save_recipe(choices(*values)[0])
            except (ValueError, OSError) as error:
                return {"text": "", "note": f"Nothing is written: {error}"}
            return {"text": text, "note": f"Written to {session.recipe}." if session.recipe else ""}

        quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
        for control in controls:
            if isinstance(control, gr.State):
                continue
            control.input(refresh, [*controls, *listing], shown, **quiet)
        for listed in listing:
            # a text box tells of its input before it has taken it
            listed.change(relist, [*controls, *listing], windows, **quiet)
        histograms.cut(move_cut, controls, [keep_by, thresholds], show_progress="hidden").then(
            refresh, [*controls, *listing], shown, show_progress="hidden"
        )

        def open_window(event: gr.EventData, *values: Any) -> dict[str, Any]:
            try:
                selected = choices(*values)[0]
            except ValueError:
                selected = None
            try:
                return session.open_window(event._data["id"], selected)
            except ValueError as error:
                return {"id": "", "title": "Not here", "text": "", "note": visible(str(error))}

        windows.open(open_window, controls, window)
        window.open(open_window, controls, window)
        save.click(write_recipe, controls, recipe)
        reload.click(read_again, None, reload).then(refresh, [*controls, *listing], shown)
        app.load(refresh, [*controls, *listing], shown, show_progress="hidden")
    return app


def make_server(session: Session) -> FastAPI:
    """Returns the web application, which answers its own page's requests and asks nobody anything.

    It answers to addresses, to this machine's name and to that of its Space, so that no other page can reach it by a
    name of its own (DNS rebinding); it does nothing that another page asks for, and takes no files.
    """
    server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    space = {name.lower() for name in [os.environ.get("SPACE_HOST")] if name}
    names = {"localhost", socket.gethostname().lower(), *space}

    @server.middleware("http")
    async def forbid_other_machines(request: Request, answer: Any) -> Response:
        host, origin = request.url.hostname or "", request.headers.get("origin")
        if host not in names and not _is_address(host):
            return PlainTextResponse(f"This explorer does not answer to the name {host!r}.", status_code=403)
        if origin and urlsplit(origin).netloc not in {request.url.netloc, *space}:
            return PlainTextResponse("This explorer answers its own page only.", status_code=403)
        if "/upload" in request.url.path:
            return PlainTextResponse("This explorer takes no files.", status_code=403)
        response = await answer(request)
        response.headers["Content-Security-Policy"] = _POLICY
        return response

    scripts = read_asset("plots.js", "token_view.js", "explorer.js")
    return gr.mount_gradio_app(
        server,
        build_app(session),
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        theme=gr.themes.Base(font=_FONTS, font_mono=_MONO),
        css=read_asset("page.css") + _CSS,
        head=f"<script>{scripts}</script>",
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def serve(session: Session, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serves the explorer until it is interrupted."""
    uvicorn.run(make_server(session), host=host, port=port, log_level="warning")


def _component(name: str, draw: str, *, events: tuple[str, ...] = (), server: Any = None) -> gr.HTML:
    """A part of the page that one of the package's scripts draws; its value is data, never markup."""
    ask = ["(query) => server.far_tokens(query)"] if server else []
    asks = ", ".join([*ask, "(event, data) => trigger(event, data)"])
    code = f"""// events: {" ".join(f"'{event}'" for event in events)}
        const draw = () => {{
          if (props.value) LongAttn.explorer.{draw}(element.querySelector(".la"), props.value, {asks});
        }};
        watch("value", draw);
        draw();"""
    return gr.HTML(
        value=None,
        html_template=f'<div class="la la-explorer" id="{name}"></div>',
        js_on_load=code,
        apply_default_css=False,
        server_functions=[server] if server else None,
    )


def _answer_far(session: Session) -> Any:
    def far_tokens(query: list) -> list[tuple[int, float]]:
        window_id, position = query
        return session.far_tokens(window_id, int(position))

    return far_tokens


def _choices(
    session: Session,
    score: str,
    alpha: float | None,
    keep_by: str,
    fraction: float | None,
    budget: float | None,
    overlap: bool,
    thresholds: dict[str, float] | None,
    before: dict[str, Any],
    other_score: str,
    other_alpha: float | None,
    other_reading: str,
) -> tuple[Selection, Selection]:
    """Turns the controls into the selection looked at and the one beside it.

    Beside a cut stands what the other keeps of as many windows of each category: its scores are on another scale.

    Raises:
        ValueError: A field is empty, or its value selects nothing.
    """
    fields = {"Alpha": alpha, "The other alpha": other_alpha}
    fields |= {"Tokens of each category": budget} if keep_by == _BUDGET else {}
    fields |= {"Fraction of each category": fraction} if keep_by == _FRACTION else {}
    if empty := [name for name, value in fields.items() if value is None]:
        raise ValueError(f"{empty[0]} must be a number.")
    own: dict[str, Any] = session.own | {"refuse_overlap": overlap}
    here = own | {"score": score, "alpha": alpha, "convention": session.corpus.convention}
    there = own | {"score": other_score, "alpha": other_alpha, "convention": other_reading}
    if keep_by != _CUT:
        limit = {"fraction": fraction} if keep_by == _FRACTION else {"token_budget": budget}
        return Selection(**here, **limit), Selection(**there, **limit)
    if thresholds is None:
        shown = Selection(**here, **before)
        thresholds = views.cuts(session.corpus, session.select(shown))
    # a cut leaves nothing to chance
    selected = Selection(**here | {"temperature": 0.0}, threshold=thresholds)
    shares = views.shares(session.corpus, session.select(selected))
    return selected, Selection(**there | {"temperature": 0.0}, fraction=shares)


def _headline(session: Session) -> str:
    corpus = session.corpus
    state = "so far, the build goes on" if corpus.running else "scored"
    return f"# {prose(corpus.name)}\n{len(corpus):,} windows {state}."


def _half(session: Session) -> int:
    return int(session.corpus.table["num_tokens"].to_numpy().sum()) // (2 * len(session.corpus.categories))


def _by_category(threshold: Any, categories: list[str]) -> dict[str, float] | None:
    if threshold is None or isinstance(threshold, dict):
        return threshold
    return dict.fromkeys(categories, float(threshold))
