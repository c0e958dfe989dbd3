"""A second device for torch, in Python: it computes on the CPU and refuses what is not on it.

`register()` makes "second" a device as "cuda" is one. A tensor on it keeps its numbers in `inner`,
a tensor of the CPU's that nobody else has. What CUDA refuses is refused in CUDA's words: tensors of
two devices in one operation (but for a number of the CPU's that goes with each element, and for
indices), `numpy()`, and a generator of another device. Its random numbers are its own, so that
noise sampled on the device makes other images than the CPU's.

Not served: `torch.Generator("second")`, autocast (`--precision bf16` computes in fp32, and torch
warns of it), `torch.compile`, safetensors' `load_file(device="second")`, which takes the devices
that it knows, and any race between device and host: an operation is done when it returns.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _DummyDeviceGuard,
    _setup_privateuseone_for_python_backend,
)

NAME = "second"
aten = torch.ops.aten

_CROSSING = {aten.copy_.default, aten._to_copy.default}
"""Operations between devices."""
_INDEXING = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._index_put_impl_.default, aten._unsafe_index.Tensor, aten._unsafe_index_put.default,
}  # fmt: skip
"""Operations whose indices may be on the CPU."""
_FACTORIES = (
    "empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step", "eye",
    "eye.m", "tril_indices", "triu_indices",
)  # fmt: skip
"""Operations that make a tensor of none; torch makes all others of these."""


class SecondTensor(torch.Tensor):
    """A tensor on the second device."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, layout=inner.layout, device=torch.device(NAME, 0),
        )  # fmt: skip
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})

    def __repr__(self, **_):
        return f"{self.inner!r} on {self.device}"

    def numpy(self, *_, **__):
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy "
            "the tensor to host memory first."
        )

    __array__ = numpy

    def __format__(self, spec):
        return format(self.inner, spec)

    def tolist(self):
        return self.inner.tolist()

    def untyped_storage(self):
        """Where it lies, which only its address is asked for."""
        return self.inner.untyped_storage()

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        _set_data(self, value)


@dataclass(frozen=True)
class _About:
    """What an operation's schema says, read once."""

    is_composite: bool
    by_element: bool
    is_random: bool
    written: dict
    """Places and names of the arguments that it writes into, by what they are called there."""
    returned: tuple
    """For each result whether it is a view, and which written argument it is."""

    @classmethod
    @functools.cache
    def read(cls, operation):
        written, returned = {}, []
        for index, argument in enumerate(operation._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written[frozenset(argument.alias_info.before_set)] = index, argument.name
        for result in operation._schema.returns:
            alias = result.alias_info
            is_written = alias is not None and alias.is_write
            called = frozenset(alias.before_set) if is_written else None
            returned.append((alias is not None and not is_written, called))
        return cls(
            is_composite=operation._can_decompose(),
            by_element=torch.Tag.pointwise in operation.tags or operation in _INDEXING,
            is_random=torch.Tag.nondeterministic_seeded in operation.tags,
            written=written, returned=tuple(returned),
        )  # fmt: skip


def _run(operation, args, kwargs):
    """Do on the CPU what CUDA would do with these tensors."""
    about = _About.read(operation)
    flat, spec = tree_flatten((args, kwargs))
    strangers = [v for v in flat if isinstance(v, torch.Tensor) and not isinstance(v, SecondTensor)]
    devices = [value for value in flat if isinstance(value, torch.device)]
    if (strangers or devices) and about.is_composite:
        # Each of its parts knows which devices it takes.
        return operation.decompose(*args, **kwargs)
    written = {
        called: args[index] if index < len(args) else kwargs.get(name)
        for called, (index, name) in about.written.items()
    }
    if operation not in _CROSSING:
        for stranger in strangers:
            is_written = any(stranger is one for one in written.values())
            if is_written or not _is_taken(operation, args, stranger):
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two "
                    f"devices, {NAME}:0 and {stranger.device}! ({operation})"
                )
    for value in flat:
        if isinstance(value, torch.Generator):  # There are none of its own.
            raise RuntimeError(
                f"Expected a '{NAME}' device type for generator but found '{value.device.type}'"
            )
    inner_args, inner_kwargs = tree_unflatten([_to_inner(value) for value in flat], spec)
    with _own_randomness() if about.is_random else _nothing:
        found = operation(*inner_args, **inner_kwargs)
    if devices and devices[0].type != NAME:
        return found
    for one in tree_flatten(list(written.values()))[0]:
        if isinstance(one, SecondTensor) and one.shape != one.inner.shape:
            raise NotImplementedError(f"{operation} changes the shape of a tensor in its place")
    many = found if len(about.returned) > 1 else (found,)
    made = [
        written[called]
        if called is not None
        else _move(value, view_of=args[0] if is_view else None)
        for (is_view, called), value in zip(about.returned, many, strict=False)
    ]
    return tuple(made) if len(made) > 1 else made[0] if made else None


def _is_taken(operation, args, stranger):
    """Whether CUDA takes a tensor of the CPU's in this operation."""
    if operation in _INDEXING and any(stranger is index for index in args[1]):
        return isinstance(args[0], SecondTensor)
    return stranger.ndim == 0 and _About.read(operation).by_element


def _to_inner(value):
    if isinstance(value, SecondTensor):
        return value.inner
    is_own = isinstance(value, torch.device) and value.type == NAME
    return torch.device("cpu") if is_own else value


def _move(value, *, view_of):
    """Wrap a result; a view of a tensor that was made outside of inference mode was so, too."""
    if not torch.is_inference_mode_enabled() or view_of is None or view_of.is_inference():
        return tree_map_only(torch.Tensor, SecondTensor, value)
    with torch.inference_mode(False):
        return tree_map_only(torch.Tensor, SecondTensor, value)


_nothing = contextlib.nullcontext()


@contextlib.contextmanager
def _own_randomness():
    before = torch.get_rng_state()
    torch.set_rng_state(_module.get_rng_state())
    try:
        yield
    finally:
        _module.set_rng_state(torch.get_rng_state())
        torch.set_rng_state(before)


class _Module(_DummyBackendModule):
    """What `torch.cuda` is for CUDA."""

    _initialized = True

    def __init__(self):
        self.n_emptied = 0
        self.manual_seed_all(0)

    def manual_seed_all(self, seed):
        # Other numbers than those of the CPU, which has this seed at the same time.
        self._state = torch.Generator().manual_seed((seed + 0x5EC0D) % 2**32).get_state()

    def get_rng_state(self, device=0):
        return self._state

    def set_rng_state(self, state, device=0):
        self._state = state

    def device(self, index):
        return _nothing

    def get_device_name(self, device=None):
        return "Second device"

    def empty_cache(self):
        self.n_emptied += 1

    def synchronize(self, device=None):
        pass

    def get_amp_supported_dtype(self):
        return []


class _Hooks(torch._C._acc.PrivateUse1Hooks):
    """What torch's core asks of it."""

    def is_available(self):
        return True

    def has_primary_context(self, index):
        return True

    def is_built(self):
        return True


class _Guard(_DummyDeviceGuard):
    """Says which device it is, also while an exception is on its way through a backward pass.

    Torch's guard calls this then, and Python lets no function return while an exception waits: the
    process would end. So it waits here, and `_raise_lost` raises it again.
    """

    lost: ClassVar[list[BaseException]] = []

    def type_(self):
        try:
            ctypes.pythonapi.Py_IsInitialized()  # Raises what waits.
        except BaseException as error:
            self.lost.append(error)
        return super().type_()


def _raise_lost(run_backward, *args, **kwargs):
    try:
        return run_backward(*args, **kwargs)
    except SystemError:
        if _Guard.lost:
            raise _Guard.lost[0] from None
        raise
    finally:
        _Guard.lost.clear()


def _make(operation, *args, device=None, pin_memory=None, **kwargs):
    if torch.device(device).index not in (None, 0):
        raise RuntimeError(f"invalid device ordinal: there is one {NAME} device, not '{device}'")
    return SecondTensor(operation(*args, **kwargs, device="cpu"))


def _copy_from(source, target, non_blocking=False):
    """What `torch.tensor(..., device="second")` ends with."""
    target.inner.copy_(source)
    return target


def _read_number(tensor):
    """What `torch.tensor([number], device="second")` reads a number with."""
    return tensor.inner.item()


def _pin(tensor, device=None):
    pinned = tensor.clone()
    pinned.is_pinned_here = True
    return pinned


def _is_pinned(tensor, device=None):
    return hasattr(tensor, "is_pinned_here")


_set_plain_data = torch.Tensor.data.__set__


def _set_data(tensor, value):
    """What `tensor.data = value` does; it may lead to another device, as CUDA's may."""
    if isinstance(tensor, SecondTensor) is not isinstance(value, SecondTensor):
        value = value.detach()
        if isinstance(tensor, torch.nn.Parameter):
            value = torch.nn.Parameter(value, requires_grad=tensor.requires_grad)
        torch.utils.swap_tensors(tensor, value)
        return
    _set_plain_data(tensor, value)
    if isinstance(tensor, SecondTensor):
        tensor.inner = value.inner


_module = _Module()
_library = torch.library.Library("aten", "IMPL")


def register():
    """Make "second" a device of this process; torch has no way to take it out again."""
    if getattr(torch, NAME, None) is _module:
        return
    _setup_privateuseone_for_python_backend(
        NAME, backend_module=_module, hook=_Hooks(), device_guard=_Guard()
    )
    for name in _FACTORIES:
        packet, _, overload = name.partition(".")
        operation = getattr(getattr(aten, packet), overload or "default")
        _library.impl(name, partial(_make, operation), "PrivateUse1")
    torch.Tensor.data = property(torch.Tensor.data.__get__, _set_data)
    _library.impl("_copy_from", _copy_from, "PrivateUse1")
    _library.impl("_local_scalar_dense", _read_number, "PrivateUse1")
    _library.impl("_pin_memory", _pin, "CPU")
    _library.impl("is_pinned", _is_pinned, "CPU")
    torch.autograd._engine_run_backward = partial(_raise_lost, torch.autograd._engine_run_backward)
