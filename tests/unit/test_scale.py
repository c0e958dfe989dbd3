"""The simulation of the benchmark of many workers, on loads whose time is known."""

import sys

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
scale = pytest.importorskip("scale")


def simulate(n_devices, *, classes="abcdefgh", seconds=10.0, of_class=0.0, driver=0.0):
    load = scale.Load(list(classes), [seconds] * len(classes), of_class, driver)
    return scale.simulate(load, n_devices)


@pytest.mark.parametrize(("n_devices", "waves"), [(1, 8), (2, 4), (3, 3), (8, 1), (100, 1)])
def test_equal_units_go_in_waves(n_devices, waves):
    assert simulate(n_devices) == 10 * waves


def test_class_images_are_made_once_and_waited_for():
    assert simulate(1, classes="aaaa", of_class=5) == 45
    assert simulate(4, classes="aaaa", of_class=5) == 15
    assert simulate(4, classes="abcd", of_class=5) == 15
    assert simulate(1, classes="abcd", of_class=5) == 60


def test_the_driver_hands_out_one_after_another():
    assert simulate(8, driver=1) == 18
    assert simulate(1, driver=1) == 88
