"""A server that speaks S3, conditional puts included, in a process of its own: moto's, which is in the dev extra."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def serve_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen]:
    """Serves S3 on a free port of the loopback, and lets the environment name it to all clients."""
    for name in ("moto", "flask", "flask_cors"):
        pytest.importorskip(name, reason="no S3 server: pip install 'moto[s3]' flask flask-cors")
    s3fs = pytest.importorskip("s3fs", reason="no S3 client: pip install s3fs")
    import boto3

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(words, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    given = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    given |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    with monkeypatch.context() as patched:
        for name, value in given.items():
            patched.setenv(name, value)
        # they hold on to the server that they were made with
        s3fs.S3FileSystem.clear_instance_cache()
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the server has ended"
                time.sleep(0.1)
        boto3.client("s3").create_bucket(Bucket="bucket")
        try:
            yield server
        finally:
            server.kill()
            server.wait()
            s3fs.S3FileSystem.clear_instance_cache()
