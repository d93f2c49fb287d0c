"""How a program ends that cannot do what it is told."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Refusal(SystemExit):
    """Ends a program in one line that says why, with status 2, or 1 where a file or a network fails."""

    def __init__(self, program: str, reason: object) -> None:
        super().__init__(f"{program}: {' '.join(str(reason).split())}")
        self.code = 1 if isinstance(reason, OSError) else 2
        print(self, file=sys.stderr)  # noqa: T201


@contextmanager
def refusing(program: str, *others: type[Exception]) -> Iterator[None]:
    """Ends a program with a `Refusal` where the block raises ValueError or OSError, or one of `others`."""
    kinds: tuple[type[Exception], ...] = (ValueError, OSError, *others)
    try:
        yield
    except kinds as error:
        raise Refusal(program, error) from error
