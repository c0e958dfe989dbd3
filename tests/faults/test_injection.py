"""Faults at calls that read or change files: every 50th or so here, every one in the campaign."""

from __future__ import annotations

import errno

import pytest

from faults.injection import WORKLOADS, Loop
from faults.server import Done
from faults.verdicts import find_in_output

N_CASES = 4
WORKLOADS_BY_NAME = [pytest.param(one, id=one.name) for one in WORKLOADS]


def check(verdicts):
    """Fail with a line for each fault that did harm."""
    failed = [f"{one.group}, {one.name}: {one.faults}" for one in verdicts if one.faults]
    assert not failed, "\n".join(failed)


@pytest.mark.long
@pytest.mark.parametrize("workload", WORKLOADS_BY_NAME)
def test_a_fault_loses_nothing_and_changes_nothing(injector, tmp_path, workload):
    loop = Loop(injector, workload, tmp_path / "loop", keep=tmp_path / "kept")
    step = max(loop.n_calls // N_CASES, 1)
    verdicts = list(loop.run(first=1 + WORKLOADS.index(workload), step=step))
    assert len(verdicts) >= N_CASES - 1
    check(verdicts)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("shift", range(5))
@pytest.mark.parametrize("workload", WORKLOADS_BY_NAME)
def test_a_fault_at_every_call(injector, tmp_path, workload, shift):
    loop = Loop(injector, workload, tmp_path / "loop", keep=tmp_path / "kept")
    verdicts = list(loop.run(shift=shift))
    assert len(verdicts) > 100
    check(verdicts)


LIST = ("data", "list", "--dataset", "set")


@pytest.fixture
def dataset(tmp_path):
    """An empty dataset, which `data list` reads."""
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "subjects.csv").write_text("subject,class_name,kind,n_images\n")
    (folder / "images.csv").write_text("subject,file,sha256\n")
    return folder


def test_the_shim_counts_kills_and_fails(injector, dataset, tmp_path):
    def call(**fault):
        injector.faults.arm(dataset, **fault)
        return injector.call(LIST, cwd=tmp_path), injector.faults.disarm()

    done, fired = call(at=0, action="count")
    assert done.status == 0 and fired.n_spoiled == 0
    n_calls = fired.n_calls
    assert n_calls >= 2

    done, fired = call(at=1, action="kill-before")
    assert done.status == -9
    assert (fired.n_spoiled, fired.operation) == (1, "read")
    assert fired.path == str(dataset / "subjects.csv")

    done, fired = call(at=1, action="fail", error=errno.EIO)
    assert done.status != 0 and fired.n_spoiled == 1
    assert "Input/output error" in done.stderr

    done, fired = call(at=n_calls + 1, action="kill-before")
    assert done.status == 0 and fired.n_spoiled == 0


@pytest.mark.parametrize(
    ("status", "stderr", "kind"),
    [
        (1, "Traceback (most recent call last):\nOSError: x", "traceback"),
        (1, "dreambench: dog: something", "exit"),
        (2, "nothing that says why", "exit"),
        (2, "dreambench: one\ndreambench: two", "exit"),
        (0, "dreambench: a\x1b[2Jb", "escape"),
        (-11, "", "traceback"),
    ],
)
def test_what_is_wrong_with_an_end_is_found(status, stderr, kind):
    found = find_in_output(Done(status, 1.0, False, "", stderr))
    assert kind in {one for one, _ in found}


@pytest.mark.parametrize(
    ("status", "stderr"),
    [(0, ""), (2, "dreambench: x is not y; fix it"), (1, "dreambench: a, dog: fit failed: x [y]")],
)
def test_right_ends_are_right(status, stderr):
    assert not find_in_output(Done(status, 1.0, False, "", stderr))
