"""Several files written as one step, by real code that is really killed at each of its steps."""

import itertools
import multiprocessing
import os
import shutil
import signal
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreambench.storage import files

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
"""Audit events that the interpreter raises just before it changes or opens something on disk."""


def run_and_kill(step, function, *arguments):
    """Run a function in a child that is killed just before its n-th step on disk, from 0.

    Returns whether it was killed; False means that it got to its end in fewer steps.
    """
    child = os.fork()
    if child == 0:
        left = itertools.count(step, -1)

        def kill(event, _):
            if event in STEPS and next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(kill)
            function(*arguments)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


@pytest.fixture(scope="module")
def killed_at():
    """The same from a process that has imported little: to fork one with torch takes long."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield lambda *arguments: pool.apply(run_and_kill, arguments)


def write(staging, new, name="group"):
    files.write_together(staging, name, new)


def finish(staging):
    files.finish_together(staging)


def read_targets(paths):
    return {path: path.read_bytes() if path.exists() else None for path in paths}


def make_case(folder):
    """Return (staging folder, new content by path, old content by path); one file is replaced."""
    new = {folder / "out" / str(i) / f"{i}.txt": bytes([i]) * 9 for i in range(3)}
    old = dict.fromkeys(new)
    replaced = next(iter(new))
    old[replaced] = b"old"
    replaced.parent.mkdir(parents=True)
    replaced.write_bytes(b"old")
    return folder / "staging", new, old


def test_a_kill_at_any_step_leaves_all_or_none_once_it_is_finished(killed_at, tmp_path):
    outcomes = []
    for step in itertools.count():
        staging, new, old = make_case(tmp_path / str(step))
        killed = killed_at(step, write, staging, new)
        if not killed:
            assert read_targets(new) == new
        finish(staging)
        found = read_targets(new)
        assert found in (old, new)
        assert not staging.exists() or list(staging.iterdir()) == []
        outcomes.append(found == new)
        if not killed:
            break
    # From one step on the group is there; before it, it is not.
    assert outcomes == sorted(outcomes)
    assert outcomes.count(False) > 4
    assert outcomes.count(True) > 4


def test_a_kill_of_the_recovery_itself_loses_nothing(killed_at, tmp_path):
    n_recoveries = 0
    for first in itertools.count():
        folder, left = tmp_path / str(first), tmp_path / f"{first}-left"
        staging, new, _ = make_case(folder)
        if not killed_at(first, write, staging, new):
            break
        if not list(staging.glob("*.ready")):
            continue
        folder.rename(left)
        for step in itertools.count(step=3):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(left, folder)
            killed = killed_at(step, finish, staging)
            n_recoveries += killed
            finish(staging)
            assert read_targets(new) == new
            assert list(staging.iterdir()) == []
            if not killed:
                break
    assert n_recoveries > 20


def test_what_was_not_ready_is_removed_and_other_groups_are_finished(killed_at, tmp_path):
    staging, new, _ = make_case(tmp_path)
    ready = {path: content for path, content in new.items() if path.exists()}
    first = 0
    while not list(staging.glob("*.ready")):
        assert killed_at(first, write, staging, ready)
        first += 1
    others = {path: content for path, content in new.items() if path not in ready}
    assert killed_at(6, write, staging, others, "other")
    assert list(staging.glob("other.part/*"))
    finish(staging)
    assert read_targets(new) == ready | dict.fromkeys(others)
    assert list(staging.iterdir()) == []


def test_an_interrupted_group_can_be_written_again_without_recovery(killed_at, tmp_path):
    staging, new, _ = make_case(tmp_path)
    assert killed_at(6, write, staging, new)
    assert list(staging.glob("group.part/*"))
    write(staging, new)
    assert read_targets(new) == new


segments = st.text("abc._- é", min_size=1, max_size=6).filter(lambda s: s.strip(".") != "")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.dictionaries(segments, st.binary(max_size=20), max_size=4))
def test_any_names_and_contents_arrive(tmp_path, contents):
    new = {tmp_path / "out" / name: content for name, content in contents.items()}
    files.write_together(tmp_path / "staging", "group", new)
    assert read_targets(new) == new
    assert list((tmp_path / "staging").iterdir()) == []


def test_nothing_to_finish(tmp_path):
    finish(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
