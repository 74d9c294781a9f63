"""Place a volume in another frame, box and pixel size, in real space or as Fourier samples.

Both directions oversample by zero padding in the other domain and use cubic B-splines, so the
interpolation error is an image of the object far outside its band or box.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.kernels.fourier import fourier_resize3, irfft3, resize_ft, rfft3, rfft_grid
from verglas.kernels.interp import (
    bspline_response,
    sample_cubic,
    sample_cubic_gradient,
    sample_cubic_lattice,
)

__all__ = ["FourierSampler", "MapPose", "fourier_sampler", "resample_volume"]

# Points per call of the sampler: 64 complex neighbours each are about 100 MB.
_POINTS_PER_CHUNK = 1 << 18


@dataclass(frozen=True)
class MapPose:
    """Where a map lies in a reference frame: `r_ref = factor R M r_map + shift`.

    Convention: points are x, y, z in Å from the box centres (index n // 2). `M` is the
    identity, or `diag(1, 1, -1)` for a mirrored map.

    Attributes:
        rotation_map_to_ref: `[3, 3]` float64.
        shift_angst: `[3]` float64, in the reference frame.
        mirrored: the map is flipped along its z axis first.
        pixel_size_factor: the map's pixel size is multiplied by this first.
    """

    rotation_map_to_ref: Tensor
    shift_angst: Tensor
    mirrored: bool = False
    pixel_size_factor: float = 1.0

    @staticmethod
    def identity() -> "MapPose":
        """Return the pose of a map that lies where the reference does."""
        return MapPose(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))

    def mirror(self) -> Tensor:
        """Return `M` as a `[3, 3]` matrix."""
        signs = [1.0, 1.0, -1.0 if self.mirrored else 1.0]
        return torch.diag(torch.tensor(signs, dtype=torch.float64))

    def inverse(self) -> "MapPose":
        """Return the pose of the reference in the map's frame."""
        mirror = self.mirror()
        back = mirror @ self.rotation_map_to_ref.T
        return MapPose(
            rotation_map_to_ref=back @ mirror,
            shift_angst=-(back @ self.shift_angst) / self.pixel_size_factor,
            mirrored=self.mirrored,
            pixel_size_factor=1 / self.pixel_size_factor,
        )

    def to_map(self, points_angst: Tensor) -> Tensor:
        """Move points `[..., 3]` of the reference frame into the map's frame."""
        back = (self.mirror() @ self.rotation_map_to_ref.T) / self.pixel_size_factor
        shift = self.shift_angst.to(points_angst)
        return (points_angst - shift) @ back.T.to(points_angst)


@dataclass(frozen=True)
class FourierSampler:
    """Transform of a volume, ready to be read at any frequency below `limit_per_angst`.

    Attributes:
        coefficients: `[1, n, n, n]` complex B-spline coefficients, unshifted and full.
        length_angst: length of the padded box, so that index = frequency * length.
        limit_per_angst: largest frequency that is held.
    """

    coefficients: Tensor
    length_angst: float
    limit_per_angst: float

    def read(self, frequencies_per_angst: Tensor) -> Tensor:
        """Return the transform at `[n, 3]` frequencies (x, y, z)."""
        points = frequencies_per_angst * self.length_angst
        parts = [
            sample_cubic(self.coefficients, chunk[None])[0]
            for chunk in torch.split(points, _POINTS_PER_CHUNK)
        ]
        return torch.cat(parts)

    def read_gradient(self, frequencies_per_angst: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transform `[n]` and its gradient by the frequency `[n, 3]`."""
        points = frequencies_per_angst * self.length_angst
        values, gradients = [], []
        for chunk in torch.split(points, _POINTS_PER_CHUNK):
            value, gradient = sample_cubic_gradient(self.coefficients, chunk[None])
            values.append(value[0])
            gradients.append(gradient[0] * self.length_angst)
        return torch.cat(values), torch.cat(gradients)


def _cube(volume: Tensor) -> int:
    if volume.ndim != 3 or len(set(volume.shape)) != 1:
        raise ValueError(f"volume must be cubic [n, n, n]: got shape {tuple(volume.shape)}")
    return int(volume.shape[0])


def band_box(box: int, pixel_size_angst: float, resolution_angst: float, *, margin: int = 2) -> int:
    """Return the even box that holds the band to `resolution_angst`, at most `box`."""
    wanted = 2 * (int(box * pixel_size_angst / resolution_angst) + 1 + margin)
    return min(wanted, box)


def fourier_sampler(
    volume: Tensor, *, pixel_size_angst: float, resolution_angst: float, order: int = 3
) -> FourierSampler:
    """Prepare a volume for reading its transform at rotated frequencies.

    Args:
        volume: `[n, n, n]`; what lies outside the object should be near zero, as the
            error at radius r is `(r / (4 L - r))^4` with L half the box (1.2 % at the edge
            of the box, 0.04 % halfway).
        resolution_angst: the band kept; finer than two pixels means all of it.
        order: of the B-spline the coefficients are for (3, or 1 for linear sampling).
    """
    box = _cube(volume)
    small = band_box(box, pixel_size_angst, resolution_angst)
    resized = fourier_resize3(volume[None], shape=(small,) * 3)[0] if small < box else volume
    padded = 2 * small
    start = padded // 2 - small // 2
    axis = (torch.arange(small, device=volume.device) - small // 2) / padded
    gain = 1 / bspline_response(axis, order=order)
    weighted = resized * gain[:, None, None] * gain[:, None] * gain
    data = torch.zeros((padded,) * 3, dtype=volume.dtype, device=volume.device)
    data[(slice(start, start + small),) * 3] = weighted
    length = 2 * box * pixel_size_angst
    return FourierSampler(
        coefficients=torch.fft.fftn(torch.fft.ifftshift(data))[None],
        length_angst=length,
        limit_per_angst=(small // 2) / (box * pixel_size_angst),
    )


def _spline_coefficients(
    volume: Tensor, *, oversampling: float, pixel_size_angst: float, limit_per_angst: float
) -> Tensor:
    """Return cubic coefficients of the Fourier-padded volume, `[1, m, m, m]`."""
    box = _cube(volume)
    large = max(box, 2 * round(box * oversampling / 2))
    volume_ft = rfft3(volume[None])
    grid = rfft_grid(volume.shape, pixel_size_angst, device=volume.device)
    gain = torch.ones_like(grid[..., 0])
    for axis in range(3):
        gain = gain / bspline_response(grid[..., axis] * pixel_size_angst * (box / large))
    if limit_per_angst < 0.5 / pixel_size_angst:
        gain = gain * (grid.square().sum(-1) <= limit_per_angst**2)
    padded_ft = resize_ft(volume_ft * gain, shape=volume.shape, new_shape=(large,) * 3)
    return irfft3(padded_ft, shape=(large,) * 3)


def resample_volume(
    volume: Tensor,
    pose: MapPose,
    *,
    pixel_size_angst: float,
    box: int | None = None,
    output_pixel_size_angst: float | None = None,
    oversampling: float | None = None,
) -> Tensor:
    """Move a volume into the reference frame of its pose.

    The volume is oversampled by Fourier padding and read by cubic B-splines. Relative error
    of a component at fraction f of Nyquist: `(f / (2 s - f))^4` for oversampling s, thus
    1.2 % at Nyquist and 0.04 % at half of it for s = 2. Outside the volume's box the result
    is zero. When the output is coarser, the volume is low-passed to its Nyquist first.

    Args:
        volume: `[n, n, n]`.
        pose: of the volume in the output frame.
        pixel_size_angst: of the volume, before `pose.pixel_size_factor`.
        box: of the result; default that of the volume.
        output_pixel_size_angst: default that of the volume.
        oversampling: default 2, or 1.5 for boxes above 256.

    Returns:
        `[box, box, box]`.

    References:
        Unser 1999, IEEE Signal Process. Mag. 16:22.
    """
    size = _cube(volume)
    box = box or size
    out_pixel = output_pixel_size_angst or pixel_size_angst
    coefficients = _spline_coefficients(
        volume,
        oversampling=oversampling or (2.0 if size <= 256 else 1.5),
        pixel_size_angst=pixel_size_angst,
        limit_per_angst=0.5 / out_pixel * pose.pixel_size_factor,
    )
    factor = coefficients.shape[-1] / size
    per_angst = factor / pixel_size_angst
    corner = torch.full((1, 3), -(box // 2) * out_pixel, dtype=torch.float64)
    axes = torch.eye(3, dtype=torch.float64) * out_pixel
    start = pose.to_map(corner)
    steps = pose.to_map(axes) - pose.to_map(torch.zeros(1, 3, dtype=torch.float64))
    centre = coefficients.shape[-1] // 2
    edge = torch.ones(3, dtype=torch.float64) * factor
    return sample_cubic_lattice(
        coefficients,
        origin_px=start * per_angst + centre,
        steps_px=steps[None] * per_angst,
        # a hair beyond the outermost voxels, so that rounding does not cut them
        low_px=centre - (size // 2 + 1e-6) * edge,
        high_px=centre + ((size - 1) // 2 + 1e-6) * edge,
        shape=(box,) * 3,
    )[0]
