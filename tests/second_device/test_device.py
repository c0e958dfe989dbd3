"""The device takes and refuses what CUDA does."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from second_device.device import NAME, SecondTensor

DIFFERENT = "Expected .* to (be on|have) the same device"


def here(*shape):
    return torch.ones(shape)


def there(*shape):
    return torch.ones(shape, device=NAME)


def numbers(value):
    assert isinstance(value, SecondTensor) and value.device == torch.device(NAME, 0)
    return value.tolist()


REFUSED = {
    "a sum": lambda: there(3) + here(3),
    "a sum, the other way round": lambda: here(3) + there(3),
    "a sum in place": lambda: there(3).add_(here(3)),
    "a sum into a scalar": lambda: torch.tensor(1.0).add_(there()),
    "a layer": lambda: nn.Linear(3, 2).to(NAME)(here(3)),
    "weights": lambda: nn.Linear(3, 2)(there(3)),
    "a convolution": lambda: F.conv2d(there(1, 1, 3, 3), here(1, 1, 1, 1)),
    "an embedding": lambda: nn.Embedding(3, 2).to(NAME)(torch.tensor([1])),
    "attention": lambda: F.scaled_dot_product_attention(*[there(1, 2, 2)] * 2, here(1, 2, 2)),
    "a choice": lambda: torch.where(there(3) > 0, there(3), here(3)),
    "a condition": lambda: torch.where(here(3) > 0, there(3), there(3)),
    "a mask": lambda: there(3).masked_fill(here(3) > 0, 0),
    "a row of tensors": lambda: torch.cat([there(3), here(3)]),
    "a stack of scalars": lambda: torch.stack([there(), here()]),
    "values": lambda: there(3).index_put_((torch.tensor([0]),), here(1)),
    "an index on the device": lambda: here(3)[there(1).long()],
    "a comparison": lambda: torch.equal(there(3), here(3)),
}  # fmt: skip


@pytest.mark.parametrize("in_inference", [False, True])
@pytest.mark.parametrize("work", REFUSED.values(), ids=REFUSED)
def test_tensors_of_two_devices_are_refused(work, in_inference):
    with torch.inference_mode(in_inference), pytest.raises(RuntimeError, match=DIFFERENT):
        work()


TAKEN = {
    "a scalar": (lambda: there(2) * torch.tensor(3.0), [3, 3]),
    "a scalar first": (lambda: torch.tensor(3.0) * there(2), [3, 3]),
    "an index": (lambda: there(3)[torch.tensor([0, 2])], [1, 1]),
    "a value": (lambda: there(2).index_put_((torch.tensor([0]),), torch.tensor(5.0)), [5, 1]),
    "a copy": (lambda: there(2).copy_(2 * here(2)), [2, 2]),
    "a new tensor": (lambda: torch.tensor([1.0, 2.0], device=NAME), [1, 2]),
    "a new tensor of one": (lambda: torch.tensor([there(), 2.0], device=NAME), [1, 2]),
    "a move": (lambda: here(2).pin_memory().to(NAME, torch.float64, non_blocking=True), [1, 1]),
    "a range": (lambda: torch.arange(2, device=NAME), [0, 1]),
    "a view": (lambda: there(2).view(2, 1).squeeze(1).add_(1), [2, 2]),
    "a view of another's kind": (lambda: there(1).expand_as(here(2)), [1, 1]),
}


@pytest.mark.parametrize("in_inference", [False, True])
@pytest.mark.parametrize(("work", "wanted"), TAKEN.values(), ids=TAKEN)
def test_what_cuda_takes_is_taken(work, wanted, in_inference):
    with torch.inference_mode(in_inference):
        assert numbers(work()) == wanted


def test_numbers_leave_it_by_a_copy_alone():
    for read in (
        lambda: there(2).numpy(),
        lambda: np.asarray(there(2)),
        lambda: np.stack([there(2)]),
    ):
        with pytest.raises(TypeError, match=f"can't convert {NAME}:0 device type tensor to numpy"):
            read()
    assert there(2).cpu().numpy().tolist() == [1, 1]
    assert there(2).to("cpu").add_(here(2)).tolist() == [2, 2]
    assert there().item() == float(there()) == 1 and f"{there():.1f}" == "1.0"
    source = here(2)
    moved = source.to(NAME)
    source.add_(1)
    assert numbers(moved) == [1, 1], "the device has memory of its own"


def test_random_numbers_are_its_own_and_generators_of_the_cpu_are_refused():
    torch.manual_seed(1)
    drawn, ours = torch.randn(3, device=NAME).tolist(), torch.randn(3).tolist()
    torch.manual_seed(1)
    assert torch.randn(3).tolist() == ours, "the CPU's go on as if nothing was drawn there"
    assert torch.randn(3, device=NAME).tolist() == drawn != ours
    with pytest.raises(RuntimeError, match=f"Expected a '{NAME}' device type for generator"):
        torch.randn(3, device=NAME, generator=torch.Generator())


def test_there_is_one():
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(1, device=f"{NAME}:1")


def test_weights_are_saved_and_loaded_by_way_of_the_cpu():
    layer = nn.Linear(2, 2).to(NAME)
    found = load(save(layer.state_dict()))
    assert {value.device.type for value in found.values()} == {"cpu"}
    other = nn.Linear(2, 2).to(NAME)
    other.load_state_dict(found)
    assert numbers(other.weight) == numbers(layer.weight)


def test_training_there_is_training_here():
    torch.manual_seed(0)
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.SiLU()).state_dict()
    photos, found = torch.randn(2, 3, 8, 8), []
    for device in ("cpu", NAME):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.SiLU())
        network.load_state_dict(state)
        network.to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-2, fused=True)
        for _ in range(3):
            checkpoint(network, photos.to(device), use_reentrant=False).square().mean().backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
        found.append({name: value.tolist() for name, value in network.state_dict().items()})
    for name, value in found[0].items():
        assert np.allclose(value, found[1][name], atol=1e-5)
        assert not np.allclose(value, state[name].numpy(), atol=1e-5)


def test_what_a_backward_pass_raises_comes_out_of_it():
    weight = there(3).requires_grad_()
    product = weight * 2
    product.register_hook(lambda gradient: gradient * here(3))
    with pytest.raises(RuntimeError, match=DIFFERENT):
        product.sum().backward()
    (weight * 2).sum().backward()
    assert numbers(weight.grad) == [2, 2, 2]
