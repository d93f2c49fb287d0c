import os
import socket
import tempfile
from pathlib import Path

import pytest

# huggingface_hub and datasets read these when they are imported, so they are set before any test module is
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="longattn-test-hf-")
os.environ.update(
    HF_ENDPOINT="http://127.0.0.1:9",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_UPDATE_DOWNLOAD_COUNTS="0",
    NO_PROXY="127.0.0.1,localhost",
    ACCELERATE_USE_CPU="1",
    TOKENIZERS_PARALLELISM="false",
)
for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "LONGATTN_MODEL"):
    os.environ.pop(name, None)

_getaddrinfo = socket.getaddrinfo


def _loopback_only(host, *args, **kwargs):
    if host not in (None, "localhost", "127.0.0.1", "::1", b"localhost", b"127.0.0.1", socket.gethostname()):
        raise AssertionError(f"a test tried to reach {host!r}; tests talk to the loopback only")
    return _getaddrinfo(host, *args, **kwargs)


socket.getaddrinfo = _loopback_only


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A local directory with a tiny random Llama and a byte-level tokenizer that adds BOS."""
    from tests.tiny import save_tiny_llama

    return save_tiny_llama(tmp_path_factory.mktemp("model") / "tiny-llama")
