"""What does the work of a build: the processes that were launched together, or an engine with workers of its own."""

from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.processes import Process, join_processes


def start_engine(config: BuildConfig) -> Process:
    """Returns the engine that a build names, or this process, of those that were launched together.

    Raises:
        ValueError: The engine is not installed or has no such setting, or this is one of several processes.
    """
    process = join_processes()
    if config.engine is None:
        if given := [name for name in ("address", "workers") if getattr(config, name) is not None]:
            raise ValueError(f"{' and '.join(given)}: settings of an engine, and none is named; give --engine ray.")
        return process
    if process.count > 1:
        raise ValueError(
            f"The engine {config.engine} starts workers of its own, and this is one of {process.count} processes: "
            "run `longattn build`, and not `accelerate launch`."
        )
    try:
        from longattn_hf.pipeline.ray_engine import RayCluster
    except ImportError as error:
        raise ValueError(str(error)) from error
    return RayCluster(address=config.address, workers=config.workers)
