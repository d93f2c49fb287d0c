"""`longattn COMMAND ...`, also `python -m longattn_hf COMMAND ...`: every program of the package."""

import os
import sys
from importlib import import_module

import longattn_hf
from longattn_hf.pages.text import did_you_mean

#: Each command: its module, and what it does.
COMMANDS = {
    "build": ("longattn_hf.pipeline.__main__", "documents to a finished dataset: windows, scores, selection, card"),
    "score": ("longattn_hf.commands.score", "adds scores to Parquet or JSON-lines files"),
    "select": ("longattn_hf.commands.select", "keeps the best rows of a scored file"),
    "publish": ("longattn_hf.commands.publish", "puts a finished build on the Hub, in one commit"),
    "watch": ("longattn_hf.watch", "shows a running build from a second terminal"),
    "explore": ("longattn_hf.explore.__main__", "opens a build or a published dataset in the browser"),
    "explain": ("longattn_hf.commands.explain", "writes a page that shows why a window has its score"),
    "estimate": ("longattn_hf.commands.estimate", "says what a build would take, from a sample; writes nothing"),
}


def main(arguments: list[str] | None = None) -> None:
    """Runs one of the commands with the words behind its name.

    Ctrl-C ends it in one line, with status 130, and so does a reader of its output that has ended, with 141.
    """
    try:
        _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("longattn: interrupted.", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except BrokenPipeError as error:
        print(f"longattn: {error.strerror}.", file=sys.stderr)  # noqa: T201
        # nothing is left for Python to flush at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _run(arguments: list[str] | None) -> None:
    name, *words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: longattn COMMAND [options]\n")  # noqa: T201
        for command, (_, meaning) in COMMANDS.items():
            print(f"  {command.ljust(width)}  {meaning}")  # noqa: T201
        print("\n`longattn COMMAND --help` lists a command's options.")  # noqa: T201
    elif name == "--version":
        print(f"longattn_hf {longattn_hf.__version__}")  # noqa: T201
    elif name in COMMANDS:
        before, sys.argv = sys.argv, [f"longattn {name}", *words]  # what a program's help calls it
        try:
            import_module(COMMANDS[name][0]).main(words)
        finally:
            sys.argv = before
    else:
        hint = did_you_mean(name, COMMANDS, f"It has {', '.join(COMMANDS)}.")
        sys.exit(f"longattn: unknown command {name!r}. {hint}")


if __name__ == "__main__":
    main()
