"""`python -m longattn_hf.explore OUT_or_repo_id`: opens the explorer in a browser."""

import argparse
import sys
import threading
import webbrowser
from pathlib import Path

from longattn_hf.explore.session import Session, require_gradio


def main(arguments: list[str] | None = None) -> None:
    """Runs the explorer from the command line."""
    parser = argparse.ArgumentParser(prog="python -m longattn_hf.explore", description=__doc__)
    parser.add_argument("place", help="a build's output directory, or a data set's id on the Hub")
    parser.add_argument("--revision", help="the data set's branch, tag or commit")
    parser.add_argument("--statistics", help="the statistics.json on whose scale the build put its scores")
    parser.add_argument("--model", help="the model of the token view; the build's own by default")
    parser.add_argument(
        "--recipe", type=Path, help="the file that 'Save as recipe' writes; NAME-selected.yaml by default"
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines look too")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--no-browser", action="store_true", help="only serve")
    given = parser.parse_args(arguments)
    try:
        require_gradio()
        recipe = given.recipe or Path(f"{given.place.rstrip('/').split('/')[-1]}-selected.yaml")
        session = Session(
            given.place, revision=given.revision, statistics=given.statistics, model=given.model, recipe=recipe
        )
    except (ValueError, OSError) as error:
        sys.exit(f"explore: {error}")
    from longattn_hf.explore.app import serve

    address = f"http://{given.host}:{given.port}/"
    print(f"{len(session.corpus):,} windows of {session.corpus.name}: {address}", flush=True)  # noqa: T201
    if not given.no_browser:
        threading.Timer(2, webbrowser.open, [address]).start()
    serve(session, host=given.host, port=given.port)


if __name__ == "__main__":
    main()
