"""Pull requests on the Hub: what goes out, and one line for each way in which it can fail.

The server here speaks the calls that `huggingface_hub` makes: preupload, LFS batch and PUT, commit.
"""

import base64
import hashlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from dreambench.errors import UserError
from dreambench.leaderboard.hub import Push, check_repository, open_pull_request

TOKEN = "hf_" + "Secret" * 6
REPOSITORY = "someone/records"
FILES = {"record.json": b'{"format": 1}\n', "cells.parquet": b"PAR1" * 300, "t.webp": b"RIFF"}


class Hub:
    """A dataset repository that takes pull requests; `faults` has (status, headers) by call."""

    def __init__(self):
        self.commits, self.asked, self.stored, self.faults = [], [], {}, {}
        self.modes, self.seconds, self.answer = {}, 0.0, None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer.take(self)

            do_PUT = do_POST

            def log_message(self, *words):
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def take(self, request):
        url = urlsplit(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        call = next((c for c in ("preupload", "batch", "commit") if f"/{c}" in url.path), "put")
        self.asked.append((call, url, request.headers.get("Authorization")))
        time.sleep(self.seconds)
        status, headers = self.faults.get(call, (200, {}))
        content = getattr(self, f"answer_{call}")(url, body) if status == 200 else b"{}"
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def answer_preupload(self, url, body):
        files = [
            {
                "path": file["path"], "shouldIgnore": False,
                "uploadMode": self.modes.get(PurePosixPath(file["path"]).name, "regular"),
                "oid": self.git_ids().get(file["path"]),
            }
            for file in json.loads(body)["files"]
        ]  # fmt: skip
        return json.dumps({"files": files}).encode()

    def git_ids(self):
        """What the repository holds already, as git names it."""
        return {
            path: hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            for path, content in self.stored.items()
        }

    def answer_batch(self, url, body):
        objects = [
            {
                "oid": one["oid"], "size": one["size"],
                "actions": {"upload": {"href": f"{self.url}/put/{one['oid']}", "header": {}}},
            }
            for one in json.loads(body)["objects"]
        ]  # fmt: skip
        return json.dumps({"transfer": "basic", "objects": objects}).encode()

    def answer_put(self, url, body):
        self.stored[url.path.rsplit("/", 1)[1]] = body
        return b""

    def answer_commit(self, url, body):
        self.commits.append([json.loads(line) for line in body.splitlines()])
        if self.answer is not None:
            return self.answer
        address = f"{self.url}/datasets/{REPOSITORY}"
        return json.dumps(
            {
                "commitUrl": f"{address}/commit/{'a' * 40}", "commitOid": "a" * 40,
                "pullRequestUrl": f"{address}/discussions/7",
            }
        ).encode()  # fmt: skip

    def read_files(self):
        """The files of the one commit, by path."""
        (commit,) = self.commits
        found = {}
        for line in commit[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                found[value["path"]] = self.stored[value["oid"]]
            else:
                found[value["path"]] = base64.b64decode(value["content"])
        return found


@pytest.fixture
def hub(monkeypatch):
    running = Hub()
    point_to(monkeypatch, running.url)
    yield running
    running.server.shutdown()
    running.server.server_close()


def point_to(monkeypatch, url):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Its own protocol for large files is spoken by a binary, to servers of its own.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


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
        (400, "does not take"), (401, "token"), (403, "may not"), (404, "no dataset repository"),
        (409, "same moment"), (413, "large"), (429, "no more requests"), (500, "fault"),
        (503, "fault"),
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
