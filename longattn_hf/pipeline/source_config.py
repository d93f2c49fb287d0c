"""The settings of a source of documents."""

from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

from longattn_hf.files import as_pattern
from longattn_hf.pipeline.settings import Texts, settings


@settings
class SourceConfig:
    """Where documents of one category come from; the names are those of `datasets.load_dataset`.

    Attributes:
        category: The category of its documents.
        path: A Hub id, a local folder, a format (`parquet`, `json`, `text`) with `data_files`, or `demo`.
        name: The dataset's configuration.
        split: The split to read.
        data_files: Files or patterns.
        data_dir: A folder of the dataset.
        revision: The dataset's branch, tag or commit; a branch is pinned to its commit when the build starts.
        text_column: The column that holds the documents.
        join: What to put between the texts of a column that holds lists of them, such as pages.
        columns: The columns to keep beside it; all if None.
        json_lines: Read `data_files` (of the Hub id `path`, or anywhere if it is `json`) line by line and take only
            the text and `columns` of each, for files whose other fields differ in type.
        source: What the column `source` says where documents have none; the path if None.
        license: What the column `license` says where documents have none.
        max_documents: Read no more than this from each stream shard.
    """

    category: str
    path: str
    name: str | None = None
    split: str = "train"
    data_files: str | Texts | None = None
    data_dir: str | None = None
    revision: str | None = None
    text_column: str = "text"
    join: str | None = None
    columns: Texts | None = None
    json_lines: bool = False
    source: str | None = None
    license: str | None = None
    max_documents: int | None = None

    def __post_init__(self) -> None:
        if self.max_documents is not None and self.max_documents < 0:
            raise ValueError(f"max_documents={self.max_documents} must be at least 0.")
        if not self.path:
            raise ValueError("path is empty: it is a Hub id, a local folder, a format with data_files, or demo.")
        if self.data_files is not None and not self.data_files:
            raise ValueError(f"The source {self.path!r} has data_files without a file: name some, or leave it out.")
        if self.json_lines and not self.data_files:
            raise ValueError(f"The source {self.path!r} has json_lines and no data_files: name its files.")

    @property
    def patterns(self) -> list[str] | None:
        """`data_files` as `datasets` takes them, which reads every name as a pattern; None where it is to look itself.

        Raises:
            ValueError: A folder's name is a pattern too, and nothing says which of its files to read.
        """
        files = [self.data_files] if isinstance(self.data_files, str) else self.data_files
        for folder in (self.path, self.data_dir):
            root = _folder_called_like_a_pattern(folder) if folder else None
            if root:
                if files is None or folder == self.data_dir:
                    raise ValueError(
                        f"The name of the folder {str(root)!r} reads as a pattern, in which datasets finds no files: "
                        "name them with data_files, or call it otherwise."
                    )
                files = [str(root / file) for file in files]
        return None if files is None else [as_pattern(file) for file in files]


def _folder_called_like_a_pattern(path: str) -> Path | None:
    whole = Path(path).resolve()
    if escape(str(whole)) == str(whole) or not whole.is_dir():
        return None
    # in a working directory that is called so, a folder may have the name of a format, which `datasets` takes first
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    return None if path in _PACKAGED_DATASETS_MODULES else whole


def hide_paths(value: Any) -> Any:
    """Reduces each path in a setting that leads out of the working directory to its last name, as cards show it."""
    if isinstance(value, Mapping):
        return {name: hide_paths(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [hide_paths(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~", "../")):
        return Path(value).name
    return value
