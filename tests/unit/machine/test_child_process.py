"""Child processes: what they are asked is answered or refused, whoever closes them, whenever."""

import importlib
import os
import sys
import threading
import time
import warnings

import pytest

from dreambench.machine.child_process import ChildEndedError, ChildProcess, prepare_children
from dreambench.machine.devices import count_cores
from dreambench.progress import no_progress

HANDLER = """
import contextlib, io, os, time, warnings

def make_handler():
    def handle(request, progress):
        kind, content = request
        if kind == "exit":
            os._exit(content)
        if kind == "sleep":
            progress("sleeping", 0, 1)
            time.sleep(content)
        if kind == "warn":
            with contextlib.redirect_stderr(io.StringIO()) as heard:
                warnings.warn(content, FutureWarning)
            return heard.getvalue()
        return content

    return handle
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a child process that answers, ends or sleeps, as it is asked."""
    (tmp_path / "handler_of_this_test.py").write_text(HANDLER)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("handler_of_this_test")
    children = []

    def start():
        child = ChildProcess(
            module.make_handler, device="cpu", environment=dict(os.environ),
            search_path=list(sys.path),
        )  # fmt: skip
        children.append(child)
        return child

    yield start
    for child in children:
        child.close()
    del sys.modules["handler_of_this_test"]


def run_at_once(*functions):
    """Run functions in threads that start together; return what they raised."""
    together, raised = threading.Barrier(len(functions)), []

    def run(function):
        together.wait(10)
        try:
            function()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return raised


def test_it_warns_of_what_this_process_warns_of(start):
    with warnings.catch_warnings():
        warnings.filterwarnings("default", category=FutureWarning)
        warnings.filterwarnings("ignore", message="a library .* of")
        child = start()
    assert child.ask(("warn", "a library warns of its next version"), no_progress) == ""
    assert "this is for the user" in child.ask(("warn", "this is for the user"), no_progress)


def test_it_may_be_closed_by_several_threads_at_once(start):
    for _ in range(3):
        child = start()
        assert child.ask(("say", "hello"), no_progress) == "hello"
        assert run_at_once(*[child.close] * 4) == []
        assert not child.is_there


def test_closing_it_ends_what_it_is_asked(start):
    child, is_asleep = start(), threading.Event()

    def ask():
        child.ask(("sleep", 600), lambda *_: is_asleep.set())

    def close():
        assert is_asleep.wait(10)
        child.close()

    started = time.monotonic()
    (error,) = run_at_once(ask, close)
    assert isinstance(error, ChildEndedError)
    assert error.exit_code == -9
    assert time.monotonic() - started < 10
    with pytest.raises(ChildEndedError):
        child.ask(("say", "hello"), no_progress)


def test_the_exit_code_of_one_that_ends_is_told(start):
    child = start()
    with pytest.raises(ChildEndedError) as caught:
        child.ask(("exit", 7), no_progress)
    assert caught.value.exit_code == 7
    assert not child.is_there


def test_an_answer_that_nobody_waited_for_is_no_answer_to_the_next_request(start):
    child = start()

    def stop(*_):
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        child.ask(("sleep", 600), stop)
    assert not child.is_there


def test_threads_of_more_processes_than_cores_sleep_while_they_wait(monkeypatch):
    # Nothing is started for a GPU, whose processes are not forked.
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    prepare_children([], device="cuda", n_at_once=1)
    assert "OMP_WAIT_POLICY" not in os.environ
    many = max(2, count_cores())
    prepare_children([], device="cuda", n_at_once=many)
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    prepare_children([], device="cuda", n_at_once=many)
    assert os.environ["OMP_WAIT_POLICY"] == "active"
