"""Which documents may calibrate a score, and which are only ever tested on."""

from collections.abc import Iterable
from hashlib import sha256

from recipes.benchmarks.planted_windows import Document

#: Of all documents, the share that nothing may be fitted on.
HELD_OUT = 0.6
_BEGINNING = 1000


def is_held_out(document: Document) -> bool:
    """Tells whether nothing may be fitted on a document.

    The document's beginning decides, and nothing else does: no seed, no option, no order. So a document stays on its
    side whatever corpus it comes in, and versions that begin alike stay together.
    """
    beginning = document.text.strip()[:_BEGINNING].encode("utf-8", "surrogatepass")
    return int.from_bytes(sha256(beginning).digest()[:8], "big") < HELD_OUT * 2**64


def calibration_documents(documents: Iterable[Document]) -> list[Document]:
    """Returns the documents that a score may be fitted on."""
    return [document for document in documents if not is_held_out(document)]


def held_out_documents(documents: Iterable[Document]) -> list[Document]:
    """Returns the documents that nothing may be fitted on."""
    return [document for document in documents if is_held_out(document)]
