"""Pull requests on the Hub: what goes out, and one line for each way in which it can fail."""

import os
import socket
import subprocess
import sys
import time
from pathlib import PurePosixPath
from urllib.parse import parse_qs

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from local_hub import REPOSITORY, TOKEN, Hub, point_to

from dreambench.errors import UserError
from dreambench.leaderboard.hub import Push, check_repository, open_pull_request

FILES = {"record.json": b'{"format": 1}\n', "cells.parquet": b"PAR1" * 300, "t.webp": b"RIFF"}


@pytest.fixture
def hub(monkeypatch):
    running = Hub()
    point_to(monkeypatch, running.url)
    yield running
    running.server.shutdown()
    running.server.server_close()


PUSH = Push(REPOSITORY, PurePosixPath("mini/dreambooth/0123456789abcdef"), FILES)


def refusal(tmp_path, **options):
    with pytest.raises(UserError) as caught:
        open_pull_request(PUSH, tmp_path / "kept", **options)
    assert caught.value.code == "upload-failed"
    line = str(caught.value)
    assert "\n" not in line and TOKEN not in line and REPOSITORY in line
    # Where the record is, and how to do it by hand.
    assert str(tmp_path / "kept") in line and "git clone" in line and "--create-pr" in line
    return line


@pytest.mark.parametrize("mode", ["regular", "lfs"])
def test_pull_request_has_the_files_of_the_record_and_no_others(hub, tmp_path, mode):
    hub.modes["cells.parquet"] = mode
    assert open_pull_request(PUSH, tmp_path).endswith("/discussions/7")
    assert hub.read_files() == {
        f"records/mini/dreambooth/0123456789abcdef/{name}": content
        for name, content in FILES.items()
    }
    commits = [url for call, url, _ in hub.asked if call == "commit"]
    assert [url.path for url in commits] == [f"/api/datasets/{REPOSITORY}/commit/main"]
    assert parse_qs(commits[0].query) == {"create_pr": ["1"]}
    assert {given for call, _, given in hub.asked if call != "put"} == {f"Bearer {TOKEN}"}
    assert ("batch" in {call for call, *_ in hub.asked}) == (mode == "lfs")


@pytest.mark.parametrize(
    ("status", "fact"),
    [
        (400, "does not accept"), (401, "token"), (403, "may not"), (404, "no dataset repository"),
        (409, "same moment"), (413, "large"), (429, "no more requests"), (500, "reports an error"),
        (503, "reports an error"),
    ],
)  # fmt: skip
def test_refusal_is_one_line(hub, tmp_path, status, fact):
    hub.faults["commit"] = (status, {"X-Error-Message": f"no, {TOKEN}"})
    line = refusal(tmp_path)
    assert fact in line and str(status) in line
    assert not hub.commits


@pytest.mark.parametrize(
    ("status", "headers"), [(401, {}), (404, {"X-Error-Code": "RepoNotFound"}), (403, {})]
)
def test_wrong_repository_is_said_before_anything_is_sent(hub, tmp_path, status, headers):
    hub.faults["preupload"] = (status, headers)
    assert str(status) in refusal(tmp_path)
    assert [call for call, *_ in hub.asked] == ["preupload"]


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b"{}", b'{"commitUrl": 5}'])
def test_odd_answer_is_one_line(hub, tmp_path, answer):
    hub.answer = answer
    assert "answer cannot be read" in refusal(tmp_path)


def test_silent_server_is_left_after_a_time(hub, tmp_path):
    hub.seconds = 3
    started = time.monotonic()
    assert "pull requests" in refusal(tmp_path, seconds=0.5)
    assert time.monotonic() - started < 2.5


def test_server_that_keeps_failing_is_left_after_a_time(hub, tmp_path):
    hub.faults["preupload"] = (503, {})
    assert "no answer" in refusal(tmp_path, seconds=2.5)
    assert len(hub.asked) > 1


def test_no_server_is_one_line(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    point_to(monkeypatch, url)
    # The library tries for a while; one refusal is as good as six.
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    assert "cannot be reached" in refusal(tmp_path)


def test_no_token_and_no_network_are_one_line(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "no"))
    assert "hf auth login" in refusal(tmp_path)
    assert not hub.asked


def test_record_that_is_there_already_opens_nothing(hub, tmp_path, monkeypatch):
    hub.stored = {(PUSH.target / name).as_posix(): content for name, content in FILES.items()}
    info = type("Info", (), {"sha": "b" * 40})
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *_, **__: info)
    assert open_pull_request(PUSH, tmp_path) is None
    assert not hub.commits


@pytest.mark.parametrize(
    "name", ["records", "a/b/c", "", "../x", "a/..", "https://huggingface.co/a/b", "a b/c", "-/x"]
)
def test_what_is_no_repository_is_refused_by_name(name):
    with pytest.raises(UserError) as caught:
        check_repository(name)
    assert caught.value.code == "invalid-value" and "OWNER/NAME" in str(caught.value)


@pytest.mark.parametrize("name", ["https://github.com/a/b", "github.com/a/b.git"])
def test_repository_on_github_is_explained_by_hand(name):
    with pytest.raises(UserError) as caught:
        check_repository(name)
    assert "fork a/b" in str(caught.value)


SCRIPT = """
import sys
from pathlib import Path, PurePosixPath
from dreambench.leaderboard.hub import Push, open_pull_request
push = Push(sys.argv[1], PurePosixPath("mini/a/0"), {"record.json": b"{}"})
print(open_pull_request(push, Path("here")))
"""


def test_endpoint_and_token_of_the_environment_are_used(tmp_path):
    hub = Hub()
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HOME": tmp_path}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, REPOSITORY], env={**os.environ, **own}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == f"{hub.url}/datasets/{REPOSITORY}/discussions/7"
    assert hub.read_files() == {"records/mini/a/0/record.json": b"{}"}
    assert TOKEN not in done.stdout + done.stderr
