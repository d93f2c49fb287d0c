"""Patience with a Hub: what is tried again, what is refused at once, and how long one request may take."""

import time

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import _http

from longattn_hf.hub.client import bounded_timeouts, httpx, persist
from tests.support.hub_server import LONGEST_HANG


def refusal(status, headers=None):
    request = httpx.Request("POST", "http://hub.test/api?signature=secret")
    return HfHubHTTPError(f"{status} for url", response=httpx.Response(status, headers=headers, request=request))


def failing(*errors):
    """A step that raises each of the errors in turn and then succeeds; it notes its calls."""
    left = list(errors)

    def step():
        step.calls += 1
        if left:
            raise left.pop(0)
        return "done"

    step.calls = 0
    return step


def uploading(cause):
    error = RuntimeError("Error while uploading 'a.parquet'")
    error.__cause__ = cause
    return error


def persisting(step, attempts=3):
    return persist(step, what="publishing me/data", attempts=attempts, last_word="Nothing was changed")


PASSING = {f"HTTP {status}": refusal(status) for status in (408, 409, 412, 425, 429, 500, 502, 503, 504)} | {
    "reset": httpx.ReadError("reset"),
    "silence": httpx.ReadTimeout("no answer"),
    "xet": ConnectionError("no route"),
    "in an upload": uploading(refusal(503)),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_tried_again_after_longer_and_longer_waits(clock, name):
    step = failing(PASSING[name], PASSING[name])
    assert persisting(step) == "done" and step.calls == 3 and clock.slept == [2.0, 4.0]
    step = failing(*[PASSING[name]] * 3)
    with pytest.raises(ConnectionError, match="publishing me/data gave up after 3 attempts.*Nothing was changed"):
        persisting(step)
    assert step.calls == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 422, 501])
@pytest.mark.parametrize("wrapped", [False, True], ids=["an answer", "in an upload"])
def test_a_refusal_is_not_tried_again(clock, status, wrapped):
    step = failing(uploading(refusal(status)) if wrapped else refusal(status))
    with pytest.raises(ValueError, match="publishing me/data is not possible: ") as raised:
        persisting(step)
    assert step.calls == 1 and not clock.slept and "secret" not in str(raised.value)


@pytest.mark.parametrize("error", [RuntimeError("ours"), KeyError("ours"), ValueError("ours"), OSError("disk full")])
def test_an_error_that_is_not_the_hubs_is_raised_as_it_is_and_at_once(clock, error):
    step = failing(error)
    with pytest.raises(type(error)) as raised:
        persisting(step)
    assert raised.value is error and step.calls == 1 and not clock.slept


def test_a_server_that_says_how_long_to_wait_is_believed_up_to_ten_minutes(clock):
    told = [{"Retry-After": "30"}, {"RateLimit": '"api";r=0;t=40'}, {"Retry-After": "86400"}, {"Retry-After": "soon"}]
    persisting(failing(*[refusal(429, headers) for headers in told]), attempts=5)
    assert clock.slept == [31.0, 41.0, 600.0, 16.0]


@pytest.mark.parametrize("call", ["repo_info", "whoami", "create_commit"])
def test_a_request_to_a_hung_server_ends_when_its_time_is_over(hub, call):
    # the library asks for no timeout in the first, for its client's in the second, and in the third for none either
    calls = {
        "repo_info": lambda api: api.repo_info("me/data", repo_type="dataset"),
        "whoami": lambda api: api.whoami(),
        "create_commit": lambda api: api.create_commit("me/data", [], commit_message="none", repo_type="dataset"),
    }
    hub.create("me/data")
    hub.fault(".*", "", "hang", times=None)
    before = _http._GLOBAL_CLIENT_FACTORY
    start = time.monotonic()
    with bounded_timeouts(0.5), pytest.raises(httpx.ReadTimeout):
        calls[call](HfApi())
    assert 0.5 <= time.monotonic() - start < LONGEST_HANG / 2 and hub.hanging.is_set()
    assert _http._GLOBAL_CLIENT_FACTORY is before, "the user's own client is put back"


def test_a_shorter_timeout_of_the_call_stays(hub):
    hub.fault("GET", "/api/datasets/me/data", "hang", times=None)
    start = time.monotonic()
    with bounded_timeouts(LONGEST_HANG), pytest.raises(httpx.ReadTimeout):
        HfApi().dataset_info("me/data", timeout=0.5)
    assert time.monotonic() - start < LONGEST_HANG / 2
