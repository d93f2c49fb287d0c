"""A build that is killed in the middle, as a machine that is switched off leaves it."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from longattn_hf.pipeline.folder import BuildFolder

_BUILD = """
import json, os, signal, sys
from longattn_hf.pipeline import scoring
from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.run import build

recipe, settings, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
write, written = scoring.write_shard, []

def write_some(*arguments):
    if len(written) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(arguments)
    write(*arguments)

scoring.write_shard = write_some
build(load_config(recipe, settings))
"""


def build_and_kill(recipe: Path, output: Path, *, shards: int, **settings: Any) -> BuildFolder:
    """Builds in a process of its own, which is killed before it writes one more than so many shards of scores."""
    given = json.dumps({"output_dir": str(output)} | settings)
    command = [sys.executable, "-c", _BUILD, str(recipe), given, str(shards)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return BuildFolder(output)
