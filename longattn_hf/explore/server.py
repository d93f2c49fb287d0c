"""The explorer's server: it answers its own page, gives the list to take along, and takes nothing."""

import os
import socket
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlencode, urlsplit

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from longattn_hf.explore.app import mount_app
from longattn_hf.explore.listing import FORMS, export_windows
from longattn_hf.explore.session import Session
from longattn_hf.explore.state import State
from longattn_hf.pages.page import visible

# the browser refuses whatever a page or a document might ask of another machine
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'self'"
)
_NOT_OURS = ("page", "deep_link")
# how long a download may search texts that the page has not searched yet
_SEARCH_SECONDS = 10.0


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
        if request.url.path == "/":
            # the page's framework fails at values of its own that it does not know
            query = [(name, value) for name, value in request.query_params.multi_items() if name not in _NOT_OURS]
            request.scope["query_string"] = urlencode(query).encode()
        response = await answer(request)
        response.headers["Content-Security-Policy"] = _POLICY
        return response

    @server.get("/export/windows.{form}")
    def export(form: str, request: Request) -> Response:
        if form not in FORMS:
            return PlainTextResponse(f"The list is there as {' and as '.join(FORMS)}.", status_code=404)
        state, refused = State.start(session).follow(dict(request.query_params), session)
        try:
            if refused:
                raise ValueError(" ".join(refused))
            selected, other = map(session.select, state.selections(session))
            if state.text.strip() and not (search := session.search(state.text, state.category)).searched:
                search.go_on(_SEARCH_SECONDS)
            listed = state.find(session, selected, other)
        except ValueError as error:
            return PlainTextResponse(visible(str(error)), status_code=400)
        content = export_windows(session.corpus, selected, other, listed, form)
        name = {"Content-Disposition": f'attachment; filename="windows.{form}"'}
        return Response(content, media_type=FORMS[form], headers=name)

    return mount_app(server, session)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def serve(session: Session, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serves the explorer until it is interrupted."""
    uvicorn.run(make_server(session), host=host, port=port, log_level="warning")
