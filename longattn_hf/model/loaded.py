"""Objects that stand where a name could: a tokenizer, a loaded model, a `FirstLayer`.

Each is kept behind a name made of a hash of what it holds, and goes by that name from there on.
"""

import os
from typing import Any
from weakref import WeakValueDictionary

_PREFIX = "loaded:"


class Loaded(str):
    """The name of an object, which keeps it.

    It pickles as the name alone, so that `datasets` hashes no weights, and finds the object again in the process that
    has it and in those forked from it.
    """

    held: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> "Loaded":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (str(self),)


_known: WeakValueDictionary[str, Loaded] = WeakValueDictionary()


def name_object(kind: str, digest: str, held: Any) -> Loaded:
    """Returns the name of an object.

    Args:
        kind: What it is, for messages.
        digest: A hash of all that it is made of.
        held: The object, which nobody changes any more.
    """
    name = f"{_PREFIX}{kind}@{digest[:32]}"
    loaded = _known.setdefault(name, Loaded(name))
    # what was held under this name may have been changed by whoever gave it
    loaded.held = held
    return loaded


def _find(name: str) -> Loaded:
    if (known := _known.get(name)) is not None:
        return known
    lost = Loaded(name)
    lost.held = None
    return lost


def is_name(value: Any) -> bool:
    """Says whether a value names what is to be loaded, or what is loaded already, and is no object itself."""
    return isinstance(value, str | os.PathLike)


def is_loaded(name: str) -> bool:
    """Says whether a name stands for an object."""
    return name.startswith(_PREFIX)


def held_by(name: str) -> Any:
    """Returns the object behind a name.

    Raises:
        ValueError: It is in another process, which has handed on its name alone.
    """
    held = getattr(name, "held", None)
    if held is None:
        raise ValueError(
            f"{name} is an object of another process, and objects reach forked processes only: save it with "
            "save_pretrained and give the folder's name."
        )
    return held


def title_of(name: str) -> str:
    """Returns what an object is, for cards and messages."""
    return title_of_kind(name.removeprefix(_PREFIX).partition("@")[0])


def title_of_kind(kind: str) -> str:
    """Returns what an object of a kind is called in cards and messages."""
    return f"{kind} (an object)"
