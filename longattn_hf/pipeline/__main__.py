"""Builds a long-context dataset: documents, windows, scores, selection, card.

    accelerate launch -m longattn_hf.pipeline [--config FILE] [--any_setting VALUE]

Without arguments it builds the embedded demo. The same command after a kill goes on where it stopped, with any number
of processes; on a finished build it does nothing; with another alpha, fraction, threshold or budget it selects again
without scoring.
"""

import logging
import sys
import time

from longattn_hf.pipeline.config import read_build
from longattn_hf.pipeline.run import build, join_processes


def main(arguments: list[str] | None = None, *, program: str = "build") -> None:
    """Runs a build from the command line; `program` is what its refusals begin with."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    start = time.monotonic()
    try:
        config, words = read_build(arguments)
        process = join_processes()
        result = build(config, words=words, process=process)
    except (ValueError, OSError) as error:
        sys.exit(f"{program}: {error}")
    if process.index == 0:
        if result.published:
            print(result.published)  # noqa: T201
        print(result)  # noqa: T201
        seconds = time.monotonic() - start
        print(  # noqa: T201
            f"\n{result.folder}: {result.scored_windows} windows scored by this process, {seconds:.0f} s in all"
        )


if __name__ == "__main__":
    main()
