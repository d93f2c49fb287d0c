"""Why a Hub refuses is said as it is, with what to do, and what cannot pass is not tried again."""

import json

import pytest
from datasets import Dataset

from longattn_hf.hub.publishing import publish

REPO = "me/data"
ROWS = Dataset.from_dict({"n": [1, 2, 3]})
EXPIRED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
XML = {"Content-Type": "application/xml"}


def says(text):
    return json.dumps({"error": text}).encode()


def refusals():
    commit, put, read = ("POST", "/commit/"), ("PUT", "/lfs/"), ("GET", "/tree/")
    full = says("Private repository storage limit reached, please upgrade your plan")
    circle = {"Location": "/api/datasets/me/data/tree/circle"}
    return {
        "quota at the commit": (commit, dict(status=403, body=full), "the storage quota .*is reached: free space"),
        "quota at the upload": (("POST", "/batch"), dict(status=403, body=full), "the storage quota .*: free space"),
        "payment": (commit, dict(status=402), "plan's limit is reached"),
        "no write permission": (commit, dict(status=403), "needs write permission on this repository"),
        "no read permission": (read, dict(status=403), "needs read permission"),
        "an upload's address": (
            put,
            dict(status=403, body=b"<Error/>", headers=XML),
            "the storage refuses the upload",
        ),
        "gated": (read, dict(status=403, headers={"X-Error-Code": "GatedRepo"}), "gated: ask for access"),
        "disabled": (
            read,
            dict(status=403, headers={"X-Error-Message": "Access to this resource is disabled."}),
            "the Hub has disabled access",
        ),
        "a bad token": (commit, dict(status=401), "does not accept the token"),
        "no such address": (commit, dict(status=404), "the server has no such address: .*HF_ENDPOINT"),
        "gone": (commit, dict(status=410), "not there any more"),
        "too large": (commit, dict(status=413), "too much for one request: publish fewer or smaller files"),
        "not accepted": (
            commit,
            dict(status=422, body=says("bad licence")),
            "correct it as the Hub's words say.*bad lic",
        ),
        "a circle": (read, dict(status=302, body=b"", headers=circle), "redirects have no end"),
        "another protocol": (
            ("GET", "/api/datasets/me/data$"),
            dict(status=302, body=b"", headers={"Location": "ftp://x.test/a"}),
            "not one of the web",
        ),
        "an answer of something else": (("POST", "/preupload/"), dict(status=200, body=b"{}"), "client refuses"),
        "an answer without its parts": (commit, dict(status=200, body=b"{}"), "does not answer as a Hub does"),
        "a list in place of an object": (("POST", "/preupload/"), dict(status=200, body=b"[]"), "not answer as a Hub"),
        "a part of an upload's answer": (("POST", "/batch"), dict(status=200, body=b"{}"), "Malformed response"),
        "a file without its headers": (("HEAD", "README"), dict(status=200, body=b"x"), "not answer as a Hub does"),
        "a file that may not be read": (("HEAD", "README"), dict(status=403), "needs read permission"),
    }


@pytest.mark.parametrize("name", refusals())
def test_a_refusal_says_its_reason_and_what_to_do_at_once(hub, clock, name):
    hub.create(REPO, {"README.md": f"# {name}\n".encode()})
    (method, path), settings, message = refusals()[name]
    hub.fault(method, path, times=None, **settings)
    with pytest.raises(ValueError, match=message) as raised:
        publish(ROWS, REPO)
    assert not clock.slept, "trying again would not help"
    assert "publishing me/data is not possible" in str(raised.value)
    assert "Readers of main see what was there before" in str(raised.value) and "hf_writer" not in str(raised.value)


def lasting():
    return {
        408: "waited too long",
        409: "somebody else changes the repository",
        412: "somebody else pushed in between",
        429: "wait for the rate limit",
        500: "the Hub has a fault: try again later",
        503: "the Hub has a fault: try again later",
    }


@pytest.mark.parametrize("status", lasting())
def test_what_could_pass_and_does_not_says_what_it_was(hub, clock, status):
    hub.create(REPO)
    hub.fault("POST", "/commit/", status=status, times=None)
    with pytest.raises(ConnectionError, match=f"gave up after 2 attempts.*{lasting()[status]}.*{status}"):
        publish(ROWS, REPO, attempts=2)
    assert clock.slept == [2.0]


def test_an_upload_address_that_has_expired_is_asked_for_anew(hub, clock):
    hub.create(REPO)
    hub.fault("PUT", "/lfs/", status=403, body=EXPIRED, headers=XML)
    publish(ROWS, REPO)
    assert len(hub.requests("POST", "/batch")) == 2 and clock.slept == [2.0]


@pytest.mark.parametrize("status", [401, 403, 404, 413])
def test_a_refusal_while_reading_back_says_that_the_release_landed(hub, clock, status):
    hub.create(REPO)
    hub.fault("GET", "/tree/", status=status, skip=1, times=None)
    with pytest.raises(ValueError, match="reading back me/data is not possible") as raised:
        publish(ROWS, REPO)
    landed = hub.repos["dataset", REPO].refs["refs/heads/main"]
    assert f"The release is on the Hub as commit {landed}" in str(raised.value) and not clock.slept


def test_a_refusal_of_xet_is_told_from_a_network_that_fails(hub, run_python, tmp_path):
    reasons = {401: "does not accept the token", 403: "write permission", 404: "no such address", 429: "rate limit"}
    statuses = (*reasons, 413, 503)
    hub.xet_dir = tmp_path
    for status in statuses:
        hub.create(f"me/refuses-{status}")
        hub.fault("GET", f"/me/refuses-{status}/xet-write-token/", status=status, times=None)
    done = run_python(
        "import os; del os.environ['HF_HUB_DISABLE_XET']\n"
        "from datasets import Dataset\nfrom longattn_hf.hub import client\nfrom longattn_hf import publish\n"
        "client.time.sleep = lambda seconds: print('waited')\n"
        f"for status in {statuses}:\n"
        "    try: publish(Dataset.from_dict({'n': [1]}), f'me/refuses-{status}', attempts=2)\n"
        "    except (ValueError, ConnectionError) as error: print(type(error).__name__, error)\n"
        "    print('---')\n",
        HF_XET_CLIENT_RETRY_BASE_DELAY="10ms",
        HF_XET_CLIENT_RETRY_MAX_ATTEMPTS="1",
    )
    *by_status, _ = done.stdout.split("---\n")
    for status, printed in zip(statuses, by_status, strict=True):
        passing = status in (429, 503)
        assert ("ConnectionError" if passing else "ValueError") in printed.splitlines()[-1][:16], printed
        assert ("waited" in printed) == passing and str(status) in printed, printed
        assert reasons.get(status, "") in printed


@pytest.mark.parametrize("server", ["silent", "refusing"])
def test_an_upload_to_a_storage_of_xet_ends(hub, run_python, tmp_path, server):
    hub.create(REPO)
    hub.xet_dir = tmp_path
    # the storage is this server too, at an address that always hangs or refuses
    hub.xet_cas = f"{hub.endpoint}/cas"
    hub.fault(".*", "/cas/", **(dict(action="hang") if server == "silent" else dict(status=403)), times=None)
    done = run_python(
        "import os; del os.environ['HF_HUB_DISABLE_XET']\nimport time\n"
        "from datasets import Dataset\nfrom longattn_hf import publish\n"
        "start = time.monotonic()\n"
        f"try:\n    publish(Dataset.from_dict({{'n': list(range(5000))}}), {REPO!r}, attempts=1, timeout=2)\n"
        "except (ValueError, ConnectionError) as error:\n    print(error)\n"
        "print('ended' if time.monotonic() - start < 9 else 'late')\n",
    )
    assert "ended" in done.stdout and hub.hanging.is_set() == (server == "silent")
    assert ("did not answer in time" if server == "silent" else "the storage refuses the upload") in done.stdout
