"""Sums with one order."""

import pytest
import torch
from torch import nn

from dreambench.machine.devices import describe_compute, fixed_sums


def _gradients(n):
    """Return the distinct gradients of indexing that `n` trials give, as bytes."""
    noise = torch.Generator().manual_seed(1)
    indices = torch.randint(0, 100, (16, 77), generator=noise)
    weights = torch.randn((16, 77, 192), generator=noise)
    found = set()
    for _ in range(n):
        values = nn.Parameter(torch.ones(100, 192))
        (values[indices] * weights).sum().backward()
        found.add(values.grad.numpy().tobytes())
    return found


def test_a_gradient_is_the_same_bits_each_time_and_on_any_number_of_threads():
    with fixed_sums("cpu", 1):
        alone = _gradients(1)
    with fixed_sums("cpu", 2):
        assert _gradients(60) == alone


@pytest.mark.parametrize("mode", ["default", "warn", "error"])
def test_what_the_process_had_set_is_put_back(mode):
    threads, before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(mode)
    asked = torch.get_deterministic_debug_mode()
    try:
        with pytest.raises(KeyError), fixed_sums("cpu", threads + 1):
            assert torch.get_num_threads() == threads + 1
            assert torch.get_deterministic_debug_mode() == max(asked, 1)
            raise KeyError
        assert torch.get_deterministic_debug_mode() == asked
    finally:
        torch.set_deterministic_debug_mode(before)
    assert torch.get_num_threads() == threads
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_what_is_noted_is_what_training_computes_with():
    noted = describe_compute("cpu", n_threads=3)
    assert (noted.threads, noted.deterministic) == (3, True)
    with fixed_sums("meta", None):
        assert not torch.are_deterministic_algorithms_enabled()
