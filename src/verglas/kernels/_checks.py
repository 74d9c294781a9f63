"""Shape checks that only half transforms need; the general ones are in `core.checks`."""

from collections.abc import Sequence

from torch import Tensor


def rfft_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the half transform of a real array."""
    return (*shape[:-1], shape[-1] // 2 + 1)


def check_tail(name: str, tensor: Tensor, tail: Sequence[int]) -> None:
    """Raise unless the last axes of a tensor have the given lengths."""
    wanted = tuple(tail)
    if tensor.ndim < len(wanted) or tuple(tensor.shape[tensor.ndim - len(wanted) :]) != wanted:
        raise ValueError(f"{name} must end in shape {wanted}: got shape {tuple(tensor.shape)}")


def check_image_or_volume(name: str, tensor: Tensor) -> None:
    """Raise unless a tensor is a batch of images or of volumes."""
    if tensor.ndim not in (3, 4):
        shape = tuple(tensor.shape)
        raise ValueError(f"{name} must be [b, h, w] or [b, d, h, w]: got shape {shape}")


def box_of_half_transform(name: str, tensor: Tensor) -> int:
    """Return the box n of half transforms `[b, n, n//2+1]` or `[b, n, n, n//2+1]`."""
    check_image_or_volume(name, tensor)
    n = tensor.shape[-2]
    if set(tensor.shape[1:-1]) != {n} or tensor.shape[-1] != n // 2 + 1:
        raise ValueError(
            f"{name} must be half transforms of squares or cubes: got shape {tuple(tensor.shape)}"
        )
    return n
