import os

import pytest


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_that_says_how_to_go_on_and_no_abort(tmp_path, run_python):
    # rows that do not fit any buffer on the way: the device itself has to refuse them
    program = (
        "import os, builtins, numpy as np, pyarrow as pa; from longattn_hf.pipeline.folder import BuildFolder\n"
        "from longattn_hf.pipeline.output import plan_files, write_selection\n"
        "from longattn_hf.pipeline.shards import ScoredShards\n"
        "ids = [os.urandom(500).hex() for _ in range(5000)]\n"
        "columns = {'id': ids, 'category': ['book'] * 5000, 'kept': [False] * 5000}\n"
        "table = pa.table(columns | {'start_char': [0] * 5000, 'end_char': [9] * 5000})\n"
        "files = [file for file in plan_files(table, []) if file.config == 'scores']\n"
        "real = open\n"
        "full = lambda path, *rest: real('/dev/full' if 'train-' in str(path) else path, *rest)\n"
        "builtins.open = full\n"
        f"shards = ScoredShards(BuildFolder({str(tmp_path / 'out')!r}), ('a',), np.array([5000]), ('f',), {{}})\n"
        "try: write_selection(files, table, shards, [])\n"
        "except OSError as error: print(error.errno, error)\n"
    )
    done = run_python(program)
    assert (
        f"Cannot write {tmp_path}/out/work/staging/scores/train-00000-of-00001.parquet: No space left" in done.stdout
    )
    assert "No space left" in done.stdout and "Make room" in done.stdout and "the same command goes on" in done.stdout
