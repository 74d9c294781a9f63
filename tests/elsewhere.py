"""A device that is not there: for finding, without a GPU, what a GPU would refuse.

Inside `elsewhere()` tensors may be moved to `cuda:0` and made there. They are held in this
machine's memory, but say that they are elsewhere, and refuse to meet tensors that are not, to
become numpy arrays, or to be given to loops that run on the processor.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing

from verglas.kernels import fused

_FREE = 2 * 10**9  # bytes
DEVICE = torch.device("cuda", 0)
_CROSSES = (torch.ops.aten.copy_.default,)  # the one operator that may see two devices
_LAZY = (torch.ops.aten._conj.default, torch.ops.aten._neg_view.default)  # flags, lost below


class Elsewhere(torch.Tensor):
    """A tensor that says it is on another device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Elsewhere":
        out = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",
            dispatch_device=True,
        )
        out.inner = inner
        return out

    def __init__(self, inner: torch.Tensor) -> None:
        pass

    @property
    def device(self) -> torch.device:
        return DEVICE

    def __repr__(self) -> str:
        return f"Elsewhere({self.inner})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        strict = func not in _CROSSES
        inner = [_inner(value, func, strict) for value in args]
        out = func(*inner, **{name: _inner(v, func, strict) for name, v in kwargs.items()})
        if func in _LAZY:
            return cls(out.resolve_conj().resolve_neg())
        return return_and_correct_aliasing(func, args, kwargs, _outer(out))


def _inner(value: Any, func: Any, strict: bool) -> Any:
    """Return what is held elsewhere; refuse what is here."""
    if isinstance(value, Elsewhere):
        return value.inner
    if isinstance(value, list | tuple):
        return type(value)(_inner(item, func, strict) for item in value)
    if strict and isinstance(value, torch.Tensor) and value.dim():
        raise RuntimeError(f"{func}: tensors on two devices, one {tuple(value.shape)}")
    return value


def _outer(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_outer(item) for item in value)
    plain = isinstance(value, torch.Tensor) and not isinstance(value, Elsewhere)
    return Elsewhere(value) if plain else value


def _moved(tensor: torch.Tensor, device: Any) -> torch.Tensor:
    if torch.device(device).type == "cpu":
        return tensor.inner.clone() if isinstance(tensor, Elsewhere) else tensor
    return tensor if isinstance(tensor, Elsewhere) else Elsewhere(tensor.clone())


class _Mode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cpu:
            return _moved(args[0], "cpu")
        if func is torch.Tensor.numpy and isinstance(args[0], Elsewhere):
            raise TypeError("a tensor on another device cannot become a numpy array")
        if func is torch.Tensor.new_tensor:  # made by the binding, past all dispatch
            made = torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype))
            return _moved(made, args[0].device)
        if func is torch.Tensor.tolist:
            return func(_inner(args[0], func, False))
        if func is torch.Tensor.to:
            return _to(*args, **kwargs)
        device = kwargs.get("device")
        if device is None or torch.device(device).type == "cpu":
            return func(*args, **kwargs)
        if any(isinstance(value, Elsewhere) for value in args):
            return func(*args, **{**kwargs, "device": None})
        return Elsewhere(func(*args, **{**kwargs, "device": "cpu"}))


def _to(tensor: torch.Tensor, *rest: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
    if rest and isinstance(rest[0], str | torch.device):
        device, *rest = rest
    elif rest and isinstance(rest[0], torch.Tensor):
        other, *rest = rest
        device, rest = other.device, [other.dtype, *rest]
    out = tensor if device is None else _moved(tensor, device)
    return torch.Tensor.to(out, *rest, **kwargs) if rest or kwargs else out


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Let tensors be on the device that is not there; yields it."""
    with (
        _Mode(),
        patch.object(torch.cuda, "mem_get_info", lambda device: (_FREE, _FREE)),
        patch.object(fused, "triton_is_installed", lambda: False),
    ):
        yield DEVICE
