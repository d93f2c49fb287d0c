"""Scoring and windowing in pipelines of Ray Data, and a build's engine on a Ray cluster.

    import ray
    from longattn_hf.ray import map_dataset

    windows = map_dataset(ray.data.read_parquet("docs/"), WindowDocuments(tokenizer=model))
    map_dataset(windows, LongAttnScorer(model), gpus=1, batch_size=32).write_parquet("scored/")

Select from the whole of what was scored, never in a batch of Ray's: a score is a place among those of its category.
"""

from typing import Any

from longattn_hf.pipeline.ray_engine import RayCluster
from longattn_hf.rows import on_arrow

# after `ray_engine`, which says what to do where Ray is missing
import ray.data  # isort: skip

__all__ = ["RayCluster", "map_dataset"]


def map_dataset(
    dataset: "ray.data.Dataset", transform: Any, *, workers: int | None = None, gpus: float = 0, batch_size: int = 256
) -> "ray.data.Dataset":
    """Scores a dataset of Ray Data, or cuts its documents into windows, in actors that each load what it needs once.

    Args:
        dataset: Rows with what `transform` reads.
        transform: A scorer, which adds its columns beside those that are there, or `WindowDocuments`, whose rows are
            windows.
        workers: The number of actors; one or more, as Ray finds room, if None.
        gpus: GPUs of each actor.
        batch_size: Rows that are handed on together.

    Returns:
        The dataset to be, lazy as all of Ray Data's.

    Raises:
        ValueError: `transform` is neither; in the actors, as it.
    """
    # refused here, and not in an actor
    on_arrow(transform, batch_size=batch_size)
    pool = ray.data.ActorPoolStrategy(size=workers) if workers else ray.data.ActorPoolStrategy(min_size=1)
    return dataset.map_batches(
        _Transform,
        fn_constructor_args=(transform, batch_size),
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=pool,
        num_gpus=gpus or None,
    )


class _Transform:
    """What an actor has."""

    def __init__(self, transform: Any, batch_size: int) -> None:
        self._of_table = on_arrow(transform, batch_size=batch_size)
        if hasattr(transform, "prepare"):
            transform.prepare()

    def __call__(self, table: Any) -> Any:
        return self._of_table(table)
