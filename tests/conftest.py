import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.hub_server import Hub, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from longattn_hf import LongAttnScorer

# one local Hub for the whole run; each test that asks for `hub` finds it empty
_SERVER = serve()
_HUB = _SERVER.__enter__()
atexit.register(_SERVER.__exit__, None, None, None)

# huggingface_hub and datasets read these when they are imported, so they are set before any test module is
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="longattn-test-hf-")
os.environ.update(
    HF_ENDPOINT=_HUB.endpoint,
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_UPDATE_DOWNLOAD_COUNTS="0",
    HF_HUB_ETAG_TIMEOUT="5",
    HF_HUB_DOWNLOAD_TIMEOUT="5",
    NO_PROXY="127.0.0.1,localhost",
    ACCELERATE_USE_CPU="1",
    TOKENIZERS_PARALLELISM="false",
)
if "PYTEST_XDIST_WORKER" in os.environ:
    # as many workers as cores: threads of their own would mostly wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "LONGATTN_MODEL"):
    os.environ.pop(name, None)

_getaddrinfo = socket.getaddrinfo


def _loopback_only(host, *args, **kwargs):
    if host not in (None, "localhost", "127.0.0.1", "::1", b"localhost", b"127.0.0.1", socket.gethostname()):
        raise AssertionError(f"a test tried to reach {host!r}; tests talk to the loopback only")
    return _getaddrinfo(host, *args, **kwargs)


socket.getaddrinfo = _loopback_only


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess]:
    """Runs a program's text in a fresh interpreter.

    `run_python(program, exits=0, NAME="value")` adds to the environment, fails where the status is another than
    `exits`, and returns the completed process, with its output as text.
    """

    def run(program: str, *, exits: int = 0, **environment: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | environment,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
        )
        assert done.returncode == exits, done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for a module's tests: for arrays so small two mostly wait for each other, and sums are the same."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A local directory with a tiny random Llama and a byte-level tokenizer that adds BOS."""
    from tests.support.tiny import save_tiny_llama

    return save_tiny_llama(tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture(scope="session")
def smollm2() -> "LongAttnScorer":
    """A scorer with the real model that a package carries; its tokenizer and layer are read once in a process."""
    from longattn_hf import LongAttnScorer
    from tests.support.models import SMOLLM2

    return LongAttnScorer(SMOLLM2, device="cpu")


class _Clock:
    """Stands in for the clients' `time` module: a wait is written down, not waited."""

    def __init__(self):
        self.slept = []

    def sleep(self, seconds):
        self.slept.append(seconds)

    def __getattr__(self, name):
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch) -> _Clock:
    """Records the waits of huggingface_hub's retries and of our own instead of waiting."""
    clock = _Clock()
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download", "longattn_hf.hub.client"):
        monkeypatch.setattr(f"{module}.time", clock)
    return clock


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    """The local Hub, empty, with the clients logged in as its writer `me`."""
    import datasets
    import huggingface_hub

    # else load_dataset asks the dataset viewer, for which there is no environment variable
    monkeypatch.setattr(datasets.config, "USE_PARQUET_EXPORT", False)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    huggingface_hub.HfFileSystem.clear_instance_cache()
    _HUB.__init__(_HUB.endpoint)
    yield _HUB
    _HUB.stopped.set()
    huggingface_hub.close_session()


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """A real browser without a window, of the system's packages."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        # a container's root has no sandbox to drop into
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
