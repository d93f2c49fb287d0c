"""Builds a long-context dataset from a checkout: `accelerate launch recipes/build_longabc.py`.

The same program as `longattn build` and `accelerate launch -m longattn_hf.pipeline`; see `longattn_hf/pipeline`.
"""

from functools import partial

from longattn_hf.pipeline.__main__ import main as run_build

main = partial(run_build, program="build_longabc")

if __name__ == "__main__":
    main()
