"""Builds a long-context dataset: documents, windows, scores, selection, card.

Without arguments it builds the embedded demo. The same command after a kill goes on where it stopped, with any number
of processes; on a finished build it does nothing; with another alpha, fraction, threshold or budget it selects again
without scoring. The engine `ray` hands the work to a Ray cluster, to the same bytes.

    longattn build
    longattn build --config my.yaml --fraction 0.25
    accelerate launch -m longattn_hf.pipeline --config my.yaml
    longattn build --config longabc_32k --output_dir s3://bucket/folder
    longattn build --config my.yaml --engine ray --address auto
    longattn build --config my.yaml --push_to_hub me/NAME --dry_run
"""

import re
import shlex
import sys
import time

from longattn_hf.pipeline.command_line import read_build
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.refusal import Refusal
from longattn_hf.pipeline.terminal import Output
from longattn_hf.selection.cut import LIMITS


def main(arguments: list[str] | None = None, *, program: str = "build") -> None:
    """Runs a build from the command line; `program` is what its refusals begin with."""
    start, folder, first = time.monotonic(), None, True
    output = Output.read(arguments)
    try:
        config, words = read_build(arguments, description=__doc__)
        folder = config.build_folder
        # all that follows takes seconds to load, which help and refusals do without
        from longattn_hf.pipeline.engine import start_engine
        from longattn_hf.pipeline.run import build

        with output.speaking():
            engine = start_engine(config)
        first = engine.index == 0
        with output.speaking(first=first):
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
        seconds = time.monotonic() - start
        shown = f"{result}\n\n{folder}: {result.scored_windows} windows scored, {seconds:.0f} s in all"
        if not result.is_new:
            shown += "\nNothing was to be done: the folder holds this very build."
        output.show(
            f"{result.published}\n{shown}" if result.published else shown,
            result.facts | {"folder": str(folder), "seconds": round(seconds, 1)},
        )
        if not output.quiet:
            print(_what_next(folder, config), file=sys.stderr)  # noqa: T201


def _what_next(folder: BuildFolder, config: BuildConfig) -> str:
    limit = next(name for name in LIMITS if getattr(config, name) is not None)
    quoted, local = shlex.quote(str(folder)), shlex.quote(str(folder.path))
    hints = {
        "report": folder.page if folder.page.exists() else folder.report,
        "card": folder.card,
        "look": f"longattn explore {quoted}",
        "another cut": f"the same command with another --{limit}; nothing is scored again",
        "publish": f"longattn publish {local} OWNER/NAME --dry_run",
    }
    return "\n".join(f"  {name:<11}  {what}" for name, what in hints.items())


def _how_to_go_on(folder: BuildFolder | None, arguments: list[str] | None) -> str:
    words = sys.argv[1:] if arguments is None else arguments
    is_longattn = sys.argv[0] == "longattn build"
    launcher = ["longattn", "build"] if is_longattn else ["accelerate", "launch", "-m", "longattn_hf.pipeline"]
    kept = folder.progress if folder else "Nothing was begun"
    return f"{kept}; to go on: {shlex.join([*launcher, *words])}"


if __name__ == "__main__":
    main()
