"""Damages files of a finished build one at a time, and says what the same command makes of each.

    python -m tests.support.damage [score flips] [window flips] [damaged files] [seed]

A build must end in the right bytes, or name the damaged file and go on once its message is followed.
"""

import logging
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import torch
from datasets import Dataset

from longattn_hf.files import write_record
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.processes import ALONE
from longattn_hf.pipeline.run import build
from longattn_hf.pipeline.shards import read_facts, read_shard
from longattn_hf.pipeline.source_config import SourceConfig
from tests.support.tiny import save_tiny_llama

KINDS = ("cut", "emptied", "garbage", "swapped")
_CATEGORIES = ("arxiv", "book")
_WORDS = "the far tokens of a long document matter more than you think 日本語 😀".split()


class DamagedBuilds:
    """A finished build, copies of which are damaged and built again.

    Args:
        root: An empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.whole = root, BuildFolder(root / "whole")
        self.model = save_tiny_llama(root / "model")
        pick = random.Random(0)
        for category in _CATEGORIES:
            rows = [{"text": " ".join(pick.choices(_WORDS, k=20 + 8 * number))} for number in range(8)]
            Dataset.from_list(rows).to_parquet(root / f"{category}.parquet")
        self.whole.work.mkdir(parents=True)
        self.whole.card.write_text("---\nlicense: mit\n---\nMy own words.\n")
        # as a build with a source on the Hub leaves it
        write_record(self.whole.sources, {"some/corpus@main": "0" * 40})
        write_record(self.whole.settings, self._config(self.whole).work)
        self._build(self.whole)
        other = self._copy(self.whole)
        self._build(other, fraction=0.5)
        self.results = {0.25: _results(self.whole), 0.5: _results(other)}

    def _config(self, folder: BuildFolder, **settings: object) -> BuildConfig:
        sources = [
            SourceConfig(category=name, path="parquet", data_files=str(self.root / f"{name}.parquet"), license="CC0")
            for name in _CATEGORIES
        ]
        fixed = {"name": "tiny", "model": str(self.model), "window_tokens": 32, "documents_per_shard": 2}
        return BuildConfig(**fixed | {"fraction": 0.25} | settings, sources=sources, output_dir=str(folder.path))

    def _build(self, folder: BuildFolder, **settings: object) -> None:
        build(self._config(folder, **settings), engine=ALONE)

    def _copy(self, folder: BuildFolder) -> BuildFolder:
        shutil.rmtree(self.root / "copy", ignore_errors=True)
        return BuildFolder(shutil.copytree(folder.path, self.root / "copy"))

    def flip(self, stage: str, seed: str) -> str:
        """Flips one bit of one shard of a stage; returns what came of it."""
        pick, folder = random.Random(seed), self._copy(self.whole)
        path = pick.choice(sorted(getattr(folder, stage).rglob("*.parquet")))
        content = bytearray(path.read_bytes())
        content[pick.randrange(len(content))] ^= 1 << pick.randrange(8)
        path.write_bytes(content)
        if stage == "windows" and pick.random() < 0.5:
            # so that the damaged windows would be scored
            (folder.scores / path.relative_to(folder.windows)).unlink()
        return self._try(folder, {path}, pick.choice([*self.results]))

    def damage(self, seed: str) -> str:
        """Damages one file of the folder, whichever; returns what came of it."""
        pick, folder = random.Random(seed), self._copy(self.whole)
        files = [path for path in sorted(folder.path.rglob("*")) if path.is_file() and path != folder.lock]
        # shards are many, and flips have their own
        records = [path for path in files if path.suffix != ".parquet"]
        path = other = pick.choice(records if pick.random() < 0.7 else files)
        kind, content = pick.choice(KINDS), path.read_bytes()
        if kind == "cut":
            path.write_bytes(content[: pick.randrange(len(content))])
        elif kind == "swapped":
            other = pick.choice([one for one in files if one != path and one.suffix == path.suffix] or files)
            path.write_bytes(other.read_bytes())
            other.write_bytes(content)
        else:
            path.write_bytes(b"" if kind == "emptied" else pick.randbytes(len(content)))
        return self._try(folder, {path, other}, pick.choice([*self.results]))

    def _try(self, folder: BuildFolder, damaged: set[Path], fraction: float) -> str:
        """Runs the build as its messages say.

        Returns:
            `made again` or `named, then made again`; else `SILENT: ` or `STUCK: ` and why.
        """
        name = ", ".join(sorted(path.relative_to(folder.path).as_posix() for path in damaged))
        messages, settings, expected = [], {"fraction": fraction}, self.results[fraction]
        while len(messages) < 4:
            try:
                self._build(folder, **settings)
                break
            except (ValueError, OSError) as error:
                messages.append(str(error))
                named = [path for path in damaged if str(path) in str(error)]
                if not named:
                    return f"STUCK: {name} is not named: {error}"
                if "--overwrite true" in str(error):
                    settings["overwrite"] = True
                elif "delete it" in str(error):
                    named[0].unlink()
                    # what only this file held is lost
                    expected = None
            except Exception:
                return f"STUCK: {name}: {traceback.format_exc(limit=-1)}"
        else:
            return f"STUCK: {name}: {messages[-1]}"
        if expected and _results(folder) != expected:
            return f"SILENT: {name}: {[n for n in expected if _results(folder).get(n) != expected[n]]}"
        for stage in ("windows", "scores"):
            root = getattr(self.whole, stage)
            for shard in root.rglob("*.parquet"):
                again = getattr(folder, stage) / shard.relative_to(root)
                if read_facts(again) is None or not read_shard(again).equals(read_shard(shard)):
                    return f"SILENT: {name}: {again} is not whole"
        return "named, then made again" if messages else "made again"


def _results(folder: BuildFolder) -> dict[str, bytes]:
    files = [path for path in folder.path.rglob("*") if path.is_file() and folder.work not in path.parents]
    return {path.relative_to(folder.path).as_posix(): path.read_bytes() for path in files}


def main(score_flips: int = 600, window_flips: int = 150, files: int = 90, seed: int = 0) -> None:
    """Runs all trials, and prints how many ended how."""
    torch.set_num_threads(1)
    logging.disable()
    with tempfile.TemporaryDirectory() as root:
        builds, outcomes = DamagedBuilds(Path(root)), Counter()
        trials = [("scores", number) for number in range(score_flips)]
        trials += [("windows", number) for number in range(window_flips)] + [("files", n) for n in range(files)]
        for stage, number in trials:
            key = f"{seed} {stage} {number}"
            outcome = builds.damage(key) if stage == "files" else builds.flip(stage, key)
            outcomes[stage, outcome.split(":")[0]] += 1
            if ":" in outcome:
                print(key, outcome, flush=True)
            if number % 50 == 49:
                print(dict(outcomes), flush=True)
        for (stage, outcome), count in outcomes.items():
            print(f"{stage}: {count} {outcome}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
