"""The gradient of a new word."""

import torch
from torch import nn

from dreambench.machine.devices import fixed_sums
from dreambench.methods.finetuning.new_word import Vocabulary


def test_its_gradient_is_the_same_bits_each_time_and_on_any_number_of_threads():
    """Enough texts for two threads to share the sum, in which each text has both words."""
    noise = torch.Generator().manual_seed(1)
    table = nn.Embedding(102, 192)
    ids = torch.randint(0, 100, (16, 77), generator=noise)
    ids[:, 3], ids[:, 7] = 100, 101
    weights = torch.randn((16, 77, 192), generator=noise)

    def gradient():
        vocabulary = Vocabulary(table, 2)
        (vocabulary(ids) * weights).sum().backward()
        return vocabulary.vectors.grad

    with fixed_sums("cpu", 1):
        one = gradient()
    assert torch.allclose(one[0], weights[:, 3].sum(0), atol=1e-4)
    assert torch.allclose(one[1], weights[:, 7].sum(0), atol=1e-4)
    with fixed_sums("cpu", 2):
        assert all(torch.equal(gradient(), one) for _ in range(20))
