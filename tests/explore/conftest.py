import threading
import time

import pytest

from longattn_hf.explore.session import Session
from tests.support.explorer_page import Explorer
from tests.support.scored_build import write_build


@pytest.fixture(scope="session")
def explored(tmp_path_factory, tiny_llama):
    """A small build with a model that can be run: its folder and its windows."""
    folder = tmp_path_factory.mktemp("explored") / "small"
    return folder, write_build(folder, str(tiny_llama))


# of a module: a page that stays open keeps asking
@pytest.fixture(scope="module")
def explorer(explored, browser, tmp_path_factory):
    """The explorer of it, in a browser."""
    pytest.importorskip("gradio", reason="no Gradio: pip install 'longattn_hf[explore]'")
    import uvicorn

    from longattn_hf.explore.server import make_server

    session = Session(explored[0], recipe=tmp_path_factory.mktemp("recipe") / "recipe.yaml")
    server = uvicorn.Server(uvicorn.Config(make_server(session), host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    explorer = Explorer(browser, f"http://127.0.0.1:{port}/")
    explorer.session = session
    yield explorer
    explorer.page.close()
    server.should_exit = True
    thread.join(10)
