"""A publish ends on time whatever a server does, and its limits are its own."""

import threading
import time

import pytest
from datasets import Dataset
from huggingface_hub import HfApi
from huggingface_hub.utils import _http

from longattn_hf.hub.deadlines import bounded_timeouts, run_within, time_left
from longattn_hf.hub.publishing import publish
from longattn_hf.hub.refusals import httpx
from tests.support.hub_client import CLIENT_HEEDS_RETRY_AFTER
from tests.support.hub_server import LONGEST_HANG

REPO = "me/data"
ROWS = Dataset.from_dict({"n": [1, 2, 3]})


@pytest.mark.parametrize("drips", ["drip", "drip_body"], ids=["headers", "body"])
def test_an_answer_that_comes_a_byte_at_a_time_ends_with_the_request(hub, drips):
    hub.create(REPO)
    # a byte comes ten times as often as a client's own timeout would need
    hub.fault("GET", "/api/datasets", drips, keep=20, times=None)
    start = time.monotonic()
    with bounded_timeouts(0.5), pytest.raises(httpx.ReadTimeout):
        HfApi().repo_info(REPO, repo_type="dataset")
    assert time.monotonic() - start < LONGEST_HANG / 4


def lasting():
    day = {"Retry-After": "86400"}
    return {
        "come back tomorrow": ("POST", "/preupload/", dict(status=429, headers=day)),
        "come back tomorrow, as a rate limit": (
            "POST",
            "/batch",
            dict(status=429, headers={"RateLimit": '"a";r=0;t=86400'}),
        ),
        "come back tomorrow, for the commit": ("POST", "/commit/", dict(status=503, headers=day)),
        "uploads are never answered": ("PUT", "/lfs/", dict(action="hang")),
        "uploads are answered a byte at a time": ("PUT", "/lfs/", dict(action="drip", keep=20)),
        "the card comes a byte at a time": ("GET", "/resolve/.*README", dict(action="drip_body", keep=2)),
    }


@pytest.mark.parametrize("name", lasting())
def test_a_publish_ends_at_its_deadline_and_nothing_is_committed_afterwards(hub, name):
    # another card each time, since clients keep one that they have read
    hub.create(REPO, {"README.md": f"# {name}\n".encode() * 40})
    method, path, settings = lasting()[name]
    fault = hub.fault(method, path, times=None, **settings)
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"(did not end in the time|gave up).*the same call goes on"):
        publish(ROWS, REPO, timeout=LONGEST_HANG, deadline=1.5)
    # a wait that the client has begun is waited for, and one that ends after the deadline is not begun
    assert time.monotonic() - start < LONGEST_HANG / 2 and fault.done
    hub.faults.clear()
    time.sleep(0.5)
    assert not [entry for entry in hub.requests("POST", "/commit/") if entry.status == 200]
    assert publish(ROWS, REPO).commit


def test_two_publishes_at_once_each_keep_their_own_limits_and_the_users_client_comes_back(hub):
    before = _http._GLOBAL_CLIENT_FACTORY
    hub.create("me/hung")
    hub.create("me/fine")
    hub.fault("POST", "/me/hung/preupload", "hang", times=None)
    ended = {}

    def hung():
        start = time.monotonic()
        with pytest.raises(ConnectionError):
            publish(ROWS, "me/hung", timeout=1, attempts=1, deadline=2.5)
        ended["hung"] = time.monotonic() - start

    thread = threading.Thread(target=hung)
    thread.start()
    assert hub.hanging.wait(20)
    # begins after the other one and is through before it
    publish(ROWS, "me/fine", timeout=60)
    thread.join()
    assert 1 <= ended["hung"] < LONGEST_HANG / 2
    assert _http._GLOBAL_CLIENT_FACTORY is before


@pytest.mark.parametrize("asked", ["²", "-1", "1e9", "9" * 5000, "Wed, 21 Oct 2035 07:28:00 GMT", ""])
def test_an_odd_wait_that_a_server_asks_for_is_no_wait_and_no_error(hub, clock, asked):
    hub.create(REPO)
    hub.fault("POST", "/preupload/", status=429, headers={"Retry-After": asked.encode().decode("latin-1")})
    publish(ROWS, REPO)
    assert clock.slept == [601.0 if asked.startswith("99") and CLIENT_HEEDS_RETRY_AFTER else 1.0]


def test_a_step_outside_of_python_ends_with_its_request_and_sends_nothing_afterwards(hub):
    hub.create(REPO)
    go_on, done = threading.Event(), threading.Event()

    def step():
        go_on.wait(10)
        try:
            HfApi().repo_info(REPO, repo_type="dataset")
        except ConnectionError:
            done.set()

    with bounded_timeouts(0.3, whole=60):
        with pytest.raises(httpx.ReadTimeout):
            run_within(1000, step)
        assert 50 < time_left() <= 60
        go_on.set()
        assert done.wait(10)
    assert not hub.log and time_left() == float("inf")


@pytest.mark.parametrize("limits", [dict(timeout=0), dict(timeout=float("nan")), dict(deadline=-1), dict(timeout=-5)])
def test_limits_that_are_no_time_are_refused(hub, limits):
    with pytest.raises(ValueError, match="must be seconds above 0"):
        publish(ROWS, REPO, **limits)
    assert not hub.log


def test_limits_without_end_are_taken_as_they_are(hub):
    assert publish(ROWS, REPO, timeout=float("inf"), deadline=float("inf")).commit


def test_a_commit_whose_answer_comes_a_byte_at_a_time_is_found_again(hub, clock):
    hub.create(REPO)
    hub.fault("POST", "/commit/", "drip_body", keep=2)
    done = publish(ROWS, REPO, timeout=1)
    assert len([entry for entry in hub.requests("POST", "/commit/") if entry.status == 200]) == 1
    assert hub.repos["dataset", REPO].refs["refs/heads/main"] == done.commit
