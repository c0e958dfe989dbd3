"""Servers that drip, lie, lead on or never end: a stated limit, one line, and no secret in it."""

import os
import socket
import threading
import time

import pytest
from filelock import FileLock

from dreambench.errors import UserError
from dreambench.storage import downloads

OK = b"HTTP/1.1 200 OK\r\n"


class RawServer:
    """Answers each connection with what `answer` yields, byte strings or seconds to wait."""

    def __init__(self):
        self.answer, self.n_asked = (), 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.n_asked += 1
            threading.Thread(target=self._reply, args=(connection,), daemon=True).start()

    def _reply(self, connection):
        with connection:
            connection.recv(65536)
            try:
                for part in self.answer() if callable(self.answer) else self.answer:
                    if isinstance(part, bytes):
                        connection.sendall(part)
                    else:
                        time.sleep(part)
            except OSError:
                pass


@pytest.fixture
def raw():
    running = RawServer()
    yield running
    running.socket.close()


def fetch(url, folder, max_bytes=1000):
    return downloads.download(url, folder, progress=lambda *_: None, max_bytes=max_bytes)


def refusal(url, folder, **options):
    with pytest.raises(UserError) as caught:
        fetch(url, folder, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return caught.value


def drip():
    """A byte every 20 ms, for good."""
    while True:
        yield b"x"
        yield 0.02


def test_a_body_that_drips_is_given_up(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PATIENCE_SECONDS", 0.3)
    raw.answer = lambda: (part for parts in ([OK + b"\r\n"], drip()) for part in parts)
    started = time.monotonic()
    error = refusal(raw.url, tmp_path)
    assert error.code == "download-failed" and "kB a second" in error.problem
    assert time.monotonic() - started < 20
    assert raw.n_asked == downloads.N_ATTEMPTS or "kept" in error.problem


def test_a_download_ends_at_its_limit_of_time(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_SECONDS", 0.3)
    raw.answer = lambda: (part for parts in ([OK + b"\r\n"], drip()) for part in parts)
    assert "hours" in refusal(raw.url, tmp_path).problem
    assert raw.n_asked == 1


def test_a_head_that_drips_is_given_up(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.3)
    raw.answer = lambda: (part for parts in ([OK + b"X: "], drip()) for part in parts)
    started = time.monotonic()
    assert "no answer" in refusal(raw.url, tmp_path).problem
    assert time.monotonic() - started < 10


def test_a_body_without_end_is_refused_at_the_limit_and_not_kept(raw, tmp_path):
    def endless():
        yield OK + b"\r\n"
        while True:
            yield b"x" * 100_000

    raw.answer = endless
    assert refusal(raw.url, tmp_path, max_bytes=1_000_000).code == "too-large"
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock"}


def test_redirects_with_a_body_without_end_are_not_read(raw, tmp_path):
    def endless():
        yield b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n"
        while True:
            yield b"x" * 100_000

    raw.answer = endless
    assert "10 times" in refusal(raw.url, tmp_path).problem
    assert raw.n_asked == downloads.MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "target",
    [b"file:///etc/passwd", b"http://[::1", b"ftp://x/y", b"javascript:x", b"http://\xff\xfe/"],
)
def test_a_redirect_to_no_web_address_is_one_line(raw, tmp_path, target):
    raw.answer = [b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + target + b"\r\n\r\n"]
    assert refusal(raw.url, tmp_path).code == "download-failed"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: \xb2", b"Content-Length: -5", b"Content-Length: 1e3",
        b"Content-Length: " + b"9" * 5000, b"Content-Length: 5, 5",
        b"Content-Range: bytes 0-4/" + b"9" * 5000, b"Content-Range: bytes \xb2-4/5",
        b"ETag: \x1b[31m", b"Transfer-Encoding: chunked",
    ],
)  # fmt: skip
def test_heads_that_lie_end_in_a_file_or_in_one_line(raw, tmp_path, head):
    raw.answer = [OK + head + b"\r\n\r\nhello"]
    try:
        assert fetch(raw.url, tmp_path).read_bytes() == b"hello"
    except UserError as error:
        assert error.code in ("download-failed", "too-large")
        assert "\n" not in str(error) and len(str(error)) < 400


@pytest.mark.parametrize(
    "answer", [b"", b"\0" * 100, b"HTTP/1.1 999 odd\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/9"]
)
def test_answers_that_are_no_file_are_one_line(raw, tmp_path, answer):
    raw.answer = [answer]
    assert refusal(raw.url, tmp_path).code == "download-failed"


def test_a_servers_own_words_are_not_printed(raw, tmp_path):
    raw.answer = [b"HTTP/1.1 404 \x1b[31mgone\r\nContent-Length: 0\r\n\r\n"]
    error = refusal(raw.url, tmp_path)
    assert "HTTP 404 Not Found" in error.problem and "\x1b" not in str(error)


SECRETS = [
    "http://me:hunter2@{host}/a.zip", "http://hunter2@{host}/a.zip",
    "http://{host}/a.zip?token=hunter2&v=1", "http://{host}/a.zip?key=hunter2#hunter2",
    "http://me:hun/hunter2@{host}/a.zip", "http://me:hunter2?x@{host}/a.zip",
    "http://me:hunter2@[::1", "ftp://me:hunter2@{host}/x",
]  # fmt: skip


@pytest.mark.parametrize("url", SECRETS)
def test_what_is_secret_in_an_address_is_neither_printed_nor_written(raw, tmp_path, url):
    raw.answer = [b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n"]
    url = url.format(host=raw.url.removeprefix("http://"))
    error = refusal(url, tmp_path)
    assert "hunter2" not in str(error)
    assert not [path for path in tmp_path.iterdir() if b"hunter2" in path.read_bytes()]


def test_addresses_without_secrets_are_printed_as_they_are():
    for url in ("https://host:8080/a@b/c.zip", "http://host/a.zip", "photos?#1", "~/a.zip"):
        assert downloads.hide_secrets(url) == url
    assert downloads.hide_secrets("http://h/a?b=1&c=2") == "http://h/a?b=...&c=..."


def test_old_parts_are_pruned_and_young_or_running_ones_stay(raw, tmp_path):
    old, running, young = (tmp_path / f"{digit * 16}.part" for digit in "abc")
    notes, others = tmp_path / "notes.txt", tmp_path / "others.part"
    for path in (old, running, young, notes, others):
        path.write_bytes(b"x" * 10)
    for path in (old, running, notes, others):
        os.utime(path, (1, 1))
    raw.answer = [OK + b"Content-Length: 5\r\n\r\nhello"]
    with FileLock(running.with_suffix(".lock")):
        fetch(raw.url, tmp_path)
    left = {path for path in tmp_path.iterdir() if path.suffix in (".part", ".txt")}
    assert left == {running, young, notes, others}


def test_a_note_that_was_cut_begins_the_download_anew(raw, tmp_path):
    name = downloads.digest(raw.url)
    (tmp_path / f"{name}.part").write_bytes(b"xx")
    (tmp_path / f"{name}.json").write_text('{"validator": ')
    raw.answer = [OK + b"Content-Length: 5\r\n\r\nhello"]
    assert fetch(raw.url, tmp_path).read_bytes() == b"hello"
