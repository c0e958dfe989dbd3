"""A pool of workers: what is lost is done again, and what is wrong is heard of."""

import threading
from types import SimpleNamespace

import pytest

from dreambench.artifacts.failures import Failure, write_failures
from dreambench.errors import UserError
from dreambench.progress import no_progress
from dreambench.runs.executors.pool import N_TRIES, Job, PlaceLostError, Pool
from dreambench.runs.units import UnitResult


class FakePlace:
    """Answers with what `act` returns for a unit."""

    def __init__(self, act):
        self.act, self.done, self.n_opened, self.is_closed = act, [], 0, False

    def open(self):
        self.n_opened += 1

    def do(self, unit, progress):
        self.done.append(unit.subject)
        return self.act(unit)

    def close(self):
        self.is_closed = True


@pytest.fixture
def unit(tmp_path):
    """A unit of a run without a plan."""
    run = SimpleNamespace(
        folder=tmp_path, name="mine", missing_of=lambda _: [1, 2],
        train_dir=lambda subject: tmp_path / "train" / subject,
    )  # fmt: skip
    return SimpleNamespace(run=run, subject="dog")


def use(places, *units):
    pool = Pool(places)
    try:
        return [future.result(10) for future in [pool.submit(one, no_progress) for one in units]]
    finally:
        pool.close()


def lose(unit):
    raise PlaceLostError("it is gone")


def test_units_go_to_whoever_is_free(unit):
    both = threading.Barrier(2, timeout=10)

    def meet(one):
        both.wait()
        return UnitResult(n_made=3)

    places = [FakePlace(meet), FakePlace(meet)]
    found = use(places, *[unit] * 4)
    assert [result.n_made for result in found] == [3] * 4
    assert [len(place.done) for place in places] == [2, 2]
    assert all(place.is_closed for place in places)


def test_a_unit_that_loses_its_worker_is_done_again(unit, caplog):
    left = [1, 1]
    place = FakePlace(lambda one: lose(one) if left and left.pop() else UnitResult(n_made=2))
    assert use([place], unit)[0].n_made == 2
    assert place.done == ["dog"] * 3
    assert caplog.text.count("mine, dog: lost its worker: it is gone") == 2


def test_a_unit_that_loses_every_worker_has_failed(unit):
    place = FakePlace(lose)
    (result,) = use([place], unit)
    assert len(place.done) == N_TRIES
    (failure,) = result.failures
    assert (failure.stage, failure.subject, failure.n_images) == ("fit", "dog", 2)
    assert "it is gone" in failure.message


def test_a_worker_that_said_why_it_ends_is_not_asked_again(unit, tmp_path):
    said = Failure(
        stage="fit", subject="dog", error="TimeLimitError", message="too long", n_images=2,
        traceback="",
    )  # fmt: skip

    def end(one):
        write_failures(tmp_path, [said])
        lose(one)

    place = FakePlace(end)
    assert use([place], unit)[0].failures == [said]
    assert place.done == ["dog"]


def test_what_is_wrong_with_a_run_is_raised_and_ends_no_worker(unit):
    def refuse(one):
        if len(place.done) == 1:
            raise UserError("a full disk", code="disk")
        return UnitResult()

    place = FakePlace(refuse)
    pool = Pool([place])
    with pytest.raises(UserError, match="a full disk"):
        pool.submit(unit, no_progress).result(10)
    assert pool.submit(unit, no_progress).result(10) == UnitResult()
    pool.close()


def test_a_place_that_cannot_be_opened_is_heard_of(unit):
    class Broken(FakePlace):
        def open(self):
            raise UserError("no node", code="broken-node")

    with pytest.raises(UserError, match="no node"):
        use([Broken(lose)], unit)


class Part(Job):
    """Answers with what `act` returns, and with why it is given up."""

    def __init__(self, act):
        super().__init__("a part", no_progress)
        self.act = act

    def do(self, place):
        return self.act()

    def give_up(self, why):
        self.future.set_exception(why)


def test_other_work_is_done_by_the_same_places_and_tried_as_often(unit, caplog):
    place, left = FakePlace(lambda one: UnitResult(n_made=1)), [1]
    pool = Pool([place])
    done, lost = (
        pool.put(Part(act))
        for act in (lambda: lose(unit) if left and left.pop() else 7, lambda: lose(unit))
    )
    made = pool.submit(unit, no_progress)
    assert done.result(10) == 7 and made.result(10).n_made == 1
    assert f"lost {N_TRIES} workers" in str(lost.exception(10))
    assert caplog.text.count("a part: lost its worker") == 1 + N_TRIES - 1
    pool.close()


def test_nobody_waits_for_a_pool_that_is_closed(unit):
    started, ends = threading.Event(), threading.Event()

    def wait_and_lose():
        started.set()
        ends.wait(10)
        lose(unit)

    class Ended(FakePlace):
        def close(self):
            ends.set()

    pool = Pool([Ended(lose)])
    jobs = [pool.put(Part(wait_and_lose)), pool.put(Part(lambda: 7))]
    started.wait(10)
    pool.close()
    for job in jobs:
        assert isinstance(job.exception(10), PlaceLostError)
