"""Builds a long-context dataset: documents, windows, scores, selection, card.

    accelerate launch -m longattn_hf.pipeline [--config FILE] [--any_setting VALUE]

Without arguments it builds the embedded demo. The same command after a kill goes on where it stopped, with any number
of processes; on a finished build it does nothing; with another alpha, fraction, threshold or budget it selects again
without scoring. `longattn build --engine ray [--address auto]` hands the work to a Ray cluster, to the same bytes.
"""

import logging
import re
import shlex
import sys
import time

from longattn_hf.pipeline.config import read_build
from longattn_hf.pipeline.engine import start_engine
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.refusal import Refusal
from longattn_hf.pipeline.run import build


def main(arguments: list[str] | None = None, *, program: str = "build") -> None:
    """Runs a build from the command line; `program` is what its refusals begin with."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    start, folder, first = time.monotonic(), None, True
    try:
        config, words = read_build(arguments)
        folder = config.build_folder
        engine = start_engine(config)
        first = engine.index == 0
        result = build(config, words=words, engine=engine)
    except (ValueError, OSError) as error:
        raise Refusal(program, error) from error
    except KeyboardInterrupt:
        if first:
            # below the progress bar
            print(f"\n{program}: Interrupted. {_how_to_go_on(folder, arguments)}", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        # torch has a class of its own for a full GPU, and none for a full machine
        if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", str(error)):
            raise
        sys.exit(
            f"\n{program}: Out of memory ({error}). A smaller --batch_tokens or --documents_per_shard needs less. "
            f"{_how_to_go_on(folder, arguments)}"
        )
    if first:
        if result.published:
            print(result.published)  # noqa: T201
        print(result)  # noqa: T201
        seconds = time.monotonic() - start
        print(  # noqa: T201
            f"\n{folder}: {result.scored_windows} windows scored by this process, {seconds:.0f} s in all"
        )


def _how_to_go_on(folder: BuildFolder | None, arguments: list[str] | None) -> str:
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["accelerate", "launch", "-m", "longattn_hf.pipeline", *words])
    return f"{folder.progress if folder else 'Nothing was begun'}; to go on: {command}"


if __name__ == "__main__":
    main()
