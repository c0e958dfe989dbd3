"""The most memory that some work takes at once."""

import sys

import pytest
import torch

from dreambench.machine.memory import measured_peak

MB = 1_000_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the count is Linux's")


def measure(n_mb):
    with measured_peak("cpu") as peak:
        torch.ones(n_mb * MB, dtype=torch.uint8)
    return peak.n_bytes


def test_what_work_takes_for_a_moment_is_found_and_not_what_earlier_work_took():
    small = measure(1)
    large = measure(400)
    assert 300 * MB < large - small < 500 * MB
    assert abs(measure(1) - small) < 100 * MB


def test_work_that_fails_leaves_the_error_as_it_was():
    with pytest.raises(ZeroDivisionError), measured_peak("cpu"):
        1 / 0  # noqa: B018
