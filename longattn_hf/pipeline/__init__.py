"""Documents to a finished folder, resumable, on any number of processes."""

from typing import TYPE_CHECKING

_HOME_OF = {
    "BuildConfig": "config",
    "BuildResult": "result",
    "SourceConfig": "config",
    "build": "run",
    "load_config": "config",
}

if TYPE_CHECKING:
    from longattn_hf.pipeline.config import BuildConfig as BuildConfig
    from longattn_hf.pipeline.config import SourceConfig as SourceConfig
    from longattn_hf.pipeline.config import load_config as load_config
    from longattn_hf.pipeline.result import BuildResult as BuildResult
    from longattn_hf.pipeline.run import build as build
else:
    from longattn_hf.lazy_names import lazy_names

    __getattr__, __dir__ = lazy_names(__name__, _HOME_OF)

__all__ = [*_HOME_OF]
