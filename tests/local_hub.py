"""A local server that speaks the calls of huggingface_hub: preupload, LFS batch and PUT, commit."""

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from huggingface_hub import constants

TOKEN = "hf_" + "Secret" * 6
REPOSITORY = "someone/records"


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


def point_to(monkeypatch, url):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Its own protocol for large files is spoken by a binary, to servers of its own.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
