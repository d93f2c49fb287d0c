"""`python -m longattn_hf.explore OUT_or_repo_id`: opens the explorer in a browser."""

import socket
import threading
import webbrowser
from contextlib import nullcontext
from pathlib import Path

from longattn_hf.files import is_address
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, read_command_line, settings


@settings
class ExploreSettings:
    """Opens the explorer of a build or a published dataset in a browser.

        longattn explore out/longabc-demo-8k
        longattn explore scored.parquet
        longattn explore OWNER/NAME --port 7861 --no_browser

    Attributes:
        folder: A build's output folder or one of Parquet files with scores, here or in a store, such a file, or a
            dataset's id on the Hub.
        revision: The dataset's branch, tag or commit.
        statistics: The statistics.json on whose scale the build put its scores.
        convention: How LongAttn's scores of files that no build wrote are read: paper, reference_code or
            reference_code_causal; as they were scored if not given, where they say.
        model: The model of the token view; the build's own by default.
        recipe: The file that 'Save as recipe' writes; NAME-selected.yaml by default.
        host: 0.0.0.0 lets other machines look too.
        port: Where to serve.
        no_browser: Only serve.
    """

    folder: str
    revision: str | None = None
    statistics: str | None = None
    convention: str | None = None
    model: str | None = None
    recipe: LocalPath | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    no_browser: bool = False


def check_address(host: str, port: int) -> None:
    """Checks that a port can be served on, before a corpus is read; raises ValueError."""
    try:
        with socket.create_server((host, port)):
            pass
    except (OSError, OverflowError) as error:
        raise ValueError(f"Nothing can be served on host={host} port={port}: {error}. Give another --port.") from error


def main(arguments: list[str] | None = None) -> None:
    """Runs the explorer from the command line."""
    with refusing("explore"):
        given = read_command_line(ExploreSettings, arguments, positional=("folder",))
        from longattn_hf.explore.session import Session, require_gradio
        from longattn_hf.explore.state import State
        from longattn_hf.pipeline.store import naming

        require_gradio()
        check_address(given.host, given.port)
        with naming(given.folder) if is_address(given.folder) else nullcontext():
            session = Session(
                given.folder,
                revision=given.revision,
                statistics=given.statistics,
                convention=given.convention,
                model=given.model,
                recipe=given.recipe or Path(f"{given.folder.rstrip('/').split('/')[-1]}-selected.yaml"),
            )
            # what the page starts with, so that what it refuses is said here
            State.start(session)
    from longattn_hf.explore.server import serve

    address = f"http://{given.host}:{given.port}/"
    print(f"{len(session.corpus):,} windows of {session.corpus.name}: {address}", flush=True)  # noqa: T201
    if not given.no_browser:
        threading.Timer(2, webbrowser.open, [address]).start()
    serve(session, host=given.host, port=given.port)


if __name__ == "__main__":
    main()
