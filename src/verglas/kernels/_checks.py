"""Shape checks at the border of public kernels; inside, shapes are trusted."""

from collections.abc import Sequence

from torch import Tensor


def require_ndim(name: str, tensor: Tensor, ndim: int) -> None:
    """Raise unless the tensor has the given number of axes."""
    if tensor.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes: got shape {tuple(tensor.shape)}")


def require_tail(name: str, tensor: Tensor, tail: Sequence[int]) -> None:
    """Raise unless the last axes have the given lengths."""
    wanted = tuple(tail)
    if tuple(tensor.shape[tensor.ndim - len(wanted) :]) != wanted or tensor.ndim < len(wanted):
        raise ValueError(f"{name} must end in shape {wanted}: got shape {tuple(tensor.shape)}")


def require_cube(name: str, tensor: Tensor) -> None:
    """Raise unless the tensor is a batch of cubes `[b, n, n, n]`."""
    require_ndim(name, tensor, 4)
    if len(set(tensor.shape[1:])) != 1:
        raise ValueError(f"{name} must be cubic: got shape {tuple(tensor.shape)}")


def require_positive(name: str, value: float) -> None:
    """Raise unless a number is finite and above zero."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite: got {value!r}")


def rfft_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of the half transform of a real array of the given shape."""
    return (*shape[:-1], shape[-1] // 2 + 1)
