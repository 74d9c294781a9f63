"""Draw the motion of a movie, and its spectrum before and after alignment."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.ImageDraw import ImageDraw

    from verglas.algorithms.motion.field import MotionField

__all__ = ["draw_motion", "draw_spectra"]

_SIDE = 600
_MARGIN = 40
_GRID = 5
_INK, _FAINT, _FIRST = (28, 70, 104), (150, 168, 180), (200, 80, 40)
_TILE = 512


def draw_motion(motion: "MotionField") -> "NDArray[np.uint8]":
    """Draw the path of the whole frame, large, and local paths at a grid of places.

    Args:
        motion: of a movie.

    Returns:
        `[h, w, 3]`; row 0 is the bottom line.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_SIDE, _SIDE), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    width, height = motion.extent_angst
    scale = (_SIDE - 2 * _MARGIN) / max(width, height)
    centres = (np.arange(_GRID) + 0.5) / _GRID
    local = motion.on_grid(centres * width, centres * height) - motion.path_angst[:, None, None]
    farthest = float(np.abs(local).max())
    cell = scale * min(width, height) / _GRID
    enlarged = min(0.45 * cell / (farthest * scale), 400.0) if farthest > 0.05 else 0.0
    for i, y in enumerate(centres * height):
        for j, x in enumerate(centres * width):
            places = np.array([x, y]) + local[:, i, j] * enlarged
            _line(pen, _MARGIN + places * scale, _FAINT, 2)
    travelled = motion.path_angst - motion.path_angst.mean(axis=0)
    reach = max(float(np.abs(travelled).max()), 0.5)
    whole = 0.5 * _SIDE + travelled * (0.36 * _SIDE / reach)
    _line(pen, whole, _INK, 3)
    text = f"path {_SIDE / (0.36 * _SIDE / reach):.3g} Å across"
    if enlarged:
        text += f"; local paths {enlarged:.3g} times too long, {farthest:.2g} Å at most"
    pen.text((10, 8), text, fill=_INK)
    return np.asarray(image, dtype=np.uint8)[::-1]


def _line(
    pen: "ImageDraw", places: "NDArray[np.float64]", colour: tuple[int, int, int], width: int
) -> None:
    """Draw a path with a dot at each frame and a ring at the first; y goes up."""
    points = [(float(x), _SIDE - float(y)) for x, y in places]
    if len(points) > 1:
        pen.line(points, fill=colour, width=width)
    for x, y in points:
        pen.ellipse((x - width, y - width, x + width, y + width), fill=colour)
    x, y = points[0]
    pen.ellipse((x - 4, y - 4, x + 4, y + 4), outline=_FIRST, width=2)


def draw_spectra(
    before: "NDArray[np.float32]", after: "NDArray[np.float32]"
) -> "NDArray[np.uint8]":
    """Draw the power spectrum of the plain sum on the left, and after alignment on the right.

    Args:
        before: `[h, w]`, sum of frames as they were.
        after: `[h, w]`, of the same field aligned; may be binned.
    """
    import numpy as np

    halves = [_spectrum(before), _spectrum(after)]
    side = min(half.shape[0] for half in halves)
    cut = []
    for half in halves:
        start = (half.shape[0] - side) // 2
        cut.append(half[start : start + side, start : start + side])
    middle = side // 2
    picture = np.concatenate([cut[0][:, :middle], cut[1][:, middle:]], axis=1)
    low, high = np.percentile(picture, (2.0, 99.5))
    grey = np.clip((picture - low) * (255.0 / max(float(high - low), 1e-6)), 0, 255)
    return np.asarray(grey, dtype=np.uint8)


def _spectrum(image: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Mean power spectrum of tiles, centred, with its slope taken out: `[n, n]`."""
    import numpy as np
    import scipy.fft

    size = min(_TILE, *(2 * (n // 2) for n in image.shape))
    total = np.zeros((size, size // 2 + 1), np.float32)
    for axis_y in _starts(image.shape[0], size):
        for axis_x in _starts(image.shape[1], size):
            tile = image[axis_y : axis_y + size, axis_x : axis_x + size]
            ft = scipy.fft.rfft2(tile - tile.mean())
            total += ft.real**2 + ft.imag**2
    ky, kx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    shell = np.rint(np.hypot(ky, kx) * size).astype(np.int64)
    count = np.maximum(np.bincount(shell.ravel()), 1)
    line = np.bincount(shell.ravel(), np.log(total + 1e-30).ravel()) / count
    smooth = np.convolve(np.pad(line, 8, "edge"), np.ones(17) / 17, "valid")
    flat = (np.log(total + 1e-30) - smooth[shell]).astype(np.float32)
    flat[shell < 4] = 0.0
    half = np.fft.fftshift(flat, axes=0)
    rest = np.roll(half[::-1], 1 - size % 2, axis=0)[:, 1 : size - size // 2][:, ::-1]
    whole = np.concatenate([rest, half], axis=1)[:size, :size]
    # average of four pixels, so that rings stand out of the noise
    even = size // 2 * 2
    blocks = whole[:even, :even].reshape(even // 2, 2, even // 2, 2)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)


def _starts(length: int, size: int) -> list[int]:
    """Begin of tiles that cover a length, at most five."""
    count = min(5, max(1, length // size))
    return [round(i * (length - size) / max(1, count - 1)) for i in range(count)]
