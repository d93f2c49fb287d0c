"""Cutting documents into windows: the paper's Algorithm 1, and its form as a `datasets.map` callable."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from longattn_hf.columns import CATEGORY, DOC_HASH, DOC_ID, ID, INPUT_IDS, SKIP_REASON, TEXT
from longattn_hf.columns.features import WINDOW_FEATURES
from longattn_hf.model.identity import KnowsItsBytes
from longattn_hf.model.location import ModelRef
from longattn_hf.model.pieces import Tokens, document_tokenizer
from longattn_hf.model.tokenizer import identify_tokenizer, load_tokenizer_once, name_tokenizer
from longattn_hf.rows import TypedList, columns_of, is_null, is_unicode, plain, table_of, types_in, utf8_parts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZER = ("tokenizer", "revision", "gguf_file", "token", "trust_remote_code")
_OWN_COLUMNS = (*WINDOW_FEATURES, SKIP_REASON)


def cut_windows(num_tokens: int, window_tokens: int) -> list[tuple[int, int]]:
    """Cuts a document into windows from both ends (arXiv:2502.16860, Algorithm 1).

    While more than three windows' worth remains, one is taken from the front and one from the back. The rest is
    covered by its front and back, and by its middle too where it is longer than two windows; these may overlap.

    Args:
        num_tokens: The document's length.
        window_tokens: The windows' length.

    Returns:
        `(start, end)` token positions in the order in which the windows are taken, each `window_tokens` long; empty
        for a document shorter than one window. A document of exactly one window yields that window: the algorithm's
        letter drops it, plainly by oversight.
    """
    windows = []
    left, right = 0, num_tokens
    while right - left > 3 * window_tokens:
        windows += [(left, left + window_tokens), (right - window_tokens, right)]
        left, right = left + window_tokens, right - window_tokens
    rest = right - left
    if rest >= window_tokens:
        windows.append((left, left + window_tokens))
    if rest > 2 * window_tokens:
        middle = left + (rest - window_tokens) // 2
        windows.append((middle, middle + window_tokens))
    if rest > window_tokens:
        windows.append((right - window_tokens, right))
    return windows


def _name(source_id: object) -> str:
    """Returns a document's own id as text; half of a surrogate pair, which no file can hold, as a question mark."""
    return str(plain(source_id)).encode("utf-8", "replace").decode()


@dataclass(frozen=True, kw_only=True)
class WindowDocuments(KnowsItsBytes):
    """Cuts documents into windows of equal token length; for `Dataset.map(..., batched=True, remove_columns=...)`.

    A window carries its token ids as they stand in the document, and its text cut where those tokens begin and end. A
    character whose tokens fall into two windows belongs, whole, to the first of them, so windows that do not overlap
    in tokens do not overlap in text, and `document[start_char:end_char] == text` always. Special tokens that
    stand in a document as text are read as text.

    The source's other columns are passed through to each of its windows. A column `id` of the source becomes `doc_id`;
    without one, `doc_id` is a hash of the text, as `doc_hash` always is.

    Attributes:
        tokenizer: A Hub id, a local directory, a GGUF file, or `package:NAME/FILE` for an installed package's file; or
            a fast tokenizer of transformers, of which a copy is kept. It must be the scoring model's own.
        revision: The tokenizer's branch, tag or commit on the Hub.
        gguf_file: The GGUF file's name inside `tokenizer`.
        window_tokens: The windows' length in tokens.
        text_column: The column that holds the documents.
        category: The category of all documents, for sources without such a column.
        keep_skipped: A document that yields no window leaves one row with `skip_reason` set and no text.
        max_document_characters: Longer documents are bad rows; None for no limit.
        on_error: What a row that is None, empty, not text or too long does: `"raise"`, or `"skip"` with a reason.
        version: Raised whenever the output changes, so that cached results are not taken for new ones.
        token: As for `huggingface_hub`.
        trust_remote_code: Whether code of the tokenizer's repository may run.
        makes_rows: True: its rows are windows; see `on_arrow`.

    Raises:
        ValueError: On a missing column or, with `on_error="raise"`, on a row that is None, empty or not text.
    """

    makes_rows: ClassVar[bool] = True

    tokenizer: "str | PreTrainedTokenizerBase"
    revision: str | None = None
    gguf_file: str | None = None
    window_tokens: int = 32768
    text_column: str = TEXT
    category: str | None = None
    keep_skipped: bool = False
    max_document_characters: int | None = None
    on_error: Literal["raise", "skip"] = "skip"
    version: int = 2
    token: str | bool | None = field(default=None, repr=False)
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokenizer", name_tokenizer(self.tokenizer))
        if self.window_tokens < 1:
            raise ValueError(f"window_tokens={self.window_tokens} must be at least 1.")
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f"on_error={self.on_error!r} must be 'raise' or 'skip'.")

    @property
    def model_ref(self) -> ModelRef:
        """The model whose tokenizer cuts."""
        # a name since __post_init__
        tokenizer: Any = self.tokenizer
        return ModelRef(tokenizer, self.revision, self.gguf_file, self.token, self.trust_remote_code)

    @property
    def settings(self) -> dict[str, Any]:
        """All that windows depend on but for the tokenizer, as plain values, for fingerprints."""
        return {name: value for name, value in asdict(self).items() if name not in _TOKENIZER}

    def _models(self) -> tuple[ModelRef, ...]:
        return (self.model_ref,)

    def _other_bytes(self) -> str | None:
        return identify_tokenizer(self.model_ref)

    def __call__(self, batch: Any) -> Any:
        """Turns a batch of documents into their windows, in document order.

        A table of Arrow, pandas or polars, as those formats of `datasets` hand on, gives an Arrow table; a mapping of
        columns gives a mapping.
        """
        if (table := table_of(batch)) is not None:
            types = {field.name: field.type for field in table.schema}
            return pa.table({name: pa.array(v) for name, v in self._cut(columns_of(table), types).items()})
        return self._cut(batch, types_in(batch))

    def _cut(self, batch: Mapping[str, Sequence[Any]], types: Mapping[str, pa.DataType]) -> dict[str, list]:
        if self.text_column not in batch:
            raise ValueError(
                f"No column {self.text_column!r} to cut into windows; the columns are {', '.join(map(str, batch))}. "
                "Name the right one with text_column=."
            )
        texts = batch[self.text_column]
        if isinstance(texts, str):
            raise ValueError("WindowDocuments makes several rows of one document: call map with batched=True.")
        reasons = self.find_reasons(batch)
        wrong = next((row for row, reason in enumerate(reasons) if reason), None)
        if wrong is not None and self.on_error == "raise":
            kind = type(texts[wrong]).__name__
            raise ValueError(
                f"Row {wrong} of column {self.text_column!r} is {reasons[wrong]} ({kind}); documents are non-empty "
                "strings. Drop such rows, or pass on_error='skip' to leave them out with a reason."
            )
        usable = [text for text, reason in zip(texts, reasons, strict=True) if reason is None]
        tokenised = document_tokenizer(load_tokenizer_once(self.model_ref))(usable) if usable else iter(())
        passed = [name for name in batch if name not in _OWN_COLUMNS and name != self.text_column]
        if self.category is not None:
            passed = [name for name in passed if name != CATEGORY]
        added = [*_OWN_COLUMNS] if self.keep_skipped else [*WINDOW_FEATURES]
        columns: dict[str, list] = {name: [] for name in [*added, *passed]}
        if self.category is not None:
            columns[CATEGORY] = []
        for row, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
            windows = (
                [] if reason else self._windows_of(text, batch[ID][row] if ID in batch else None, next(tokenised))
            )
            if not windows and self.keep_skipped:
                windows = [{SKIP_REASON: reason or "too short"}]
            for window in windows:
                for name in added:
                    columns[name].append(window.get(name))
                for name in passed:
                    columns[name].append(batch[name][row])
                if self.category is not None:
                    columns[CATEGORY].append(self.category)
        own = WINDOW_FEATURES.arrow_schema
        types = {**types, **{name: own.field(name).type for name in own.names}, SKIP_REASON: pa.string()}
        if self.category is not None:
            types[CATEGORY] = pa.string()
        return {name: TypedList(v, types[name]) if name in types else v for name, v in columns.items()}

    def find_reasons(self, batch: Mapping[str, Sequence[Any]]) -> list[str | None]:
        """Says of each document of a batch why it cannot be cut, an earlier stage's reason first; None if it can."""
        texts = batch[self.text_column]
        earlier = batch[SKIP_REASON] if SKIP_REASON in batch else [None] * len(texts)
        return [
            self._why_unusable(text) if is_null(known) else known for text, known in zip(texts, earlier, strict=True)
        ]

    def _why_unusable(self, text: object) -> str | None:
        if not isinstance(text, str):
            return "missing" if is_null(text) else "not text"
        if not text:
            return "empty"
        if self.max_document_characters is not None and len(text) > self.max_document_characters:
            return f"longer than max_document_characters ({self.max_document_characters:,})"
        return None if is_unicode(text) else "not Unicode, by a lone surrogate"

    def _windows_of(self, text: str, source_id: object, tokens: Tokens) -> list[dict[str, Any]]:
        digest = sha256()
        for part in utf8_parts(text):
            digest.update(part)
        bounds = cut_windows(len(tokens.ids), self.window_tokens)

        def char_at(token: int) -> int:
            # the end of the token before is also where a character split over two tokens ends
            if token == 0:
                return 0
            return len(text) if token == len(tokens.ids) else int(tokens.ends[token - 1])

        rows = []
        # only the window just before can hold tokens of a window's too
        for index, ((last_start, last_end), (start, end)) in enumerate(pairwise([(0, 0), *bounds])):
            start_char, end_char = char_at(start), char_at(end)
            window_hash = digest.copy()
            window_hash.update(f"\0{start_char}:{end_char}:{start}:{end}".encode())
            rows.append(
                {
                    ID: window_hash.hexdigest()[:32],
                    DOC_HASH: digest.hexdigest()[:32],
                    DOC_ID: digest.hexdigest()[:32] if is_null(source_id) else _name(source_id),
                    "window_index": index,
                    "num_windows": len(bounds),
                    "start_char": start_char,
                    "end_char": end_char,
                    "start_token": start,
                    "num_tokens": end - start,
                    "overlap_tokens": max(0, min(end, last_end) - max(start, last_start)),
                    TEXT: text[start_char:end_char],
                    INPUT_IDS: tokens.ids[start:end],
                }
            )
        return rows
