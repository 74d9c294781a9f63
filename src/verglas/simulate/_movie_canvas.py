"""The resting specimen of a movie: what its frames show before it moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from verglas.kernels.fourier import rfft_grid
from verglas.simulate.contamination import Contamination, contrast_factor
from verglas.simulate.damage import remaining_amplitude
from verglas.simulate.ice import ice_phase_power, stirring_rate_angst2
from verglas.simulate.micrograph import (
    MicrographConfig,
    MicrographRenderer,
    field_ctf,
    particle_phases,
)

__all__ = ["Canvas", "prepare_canvas"]

_SLAB_ANGST = 150.0


@dataclass
class Canvas:
    """Makes the specimen of one frame after the other; the ice remembers where it was.

    Attributes:
        first_px: row and column of the frame's first pixel on the canvas.
    """

    config: MicrographConfig
    first_px: tuple[int, int]
    particles_ft: Tensor
    frequency_per_angst: NDArray[np.float64]
    slabs: list[Tensor]
    slab_amplitude: list[Tensor]
    memory: Tensor
    transfer: Tensor
    factor: Tensor | None
    ice_weight: Tensor | None
    rng: np.random.Generator

    def nodes(
        self, exposure_e_per_angst2: float, moved_angst: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Make the specimen after an exposure, as spline coefficients on a doubled grid.

        Args:
            exposure_e_per_angst2: that the particles have seen; call in order of frames.
            moved_angst: x and y by which everything moves during the frame, which blurs it.

        Returns:
            `[2H, 2W]`, electrons over those that arrive.
        """
        shape = (self.config.height_px, self.config.width_px)
        phases_ft = self.particles_ft * self._damage(exposure_e_per_angst2)
        ice_ft = self._next_ice()
        if self.factor is None:
            if ice_ft is not None:
                phases_ft += ice_ft
            wave_ft = phases_ft.mul_(-2)
            wave_ft[0, 0] += shape[0] * shape[1]
        else:
            phases = torch.fft.irfft2(phases_ft, s=shape)
            if ice_ft is not None:
                phases += torch.fft.irfft2(ice_ft, s=shape) * self.ice_weight
            wave_ft = torch.fft.rfft2((1 - 2 * phases) * self.factor)
        return _doubled(wave_ft * self.transfer * self._blur(moved_angst), shape)

    def _blur(self, moved_angst: NDArray[np.float64]) -> Tensor:
        """What is left of a wave that moves evenly during a frame."""
        if not moved_angst.any():
            return torch.ones(1)
        pixel = self.config.optics.pixel_size_angst
        x, y = (float(length) / pixel for length in moved_angst)
        rows = torch.fft.fftfreq(self.config.height_px) * y
        columns = torch.fft.rfftfreq(self.config.width_px) * x
        return torch.sinc(rows[:, None] + columns)

    def _damage(self, exposure: float) -> Tensor:
        if exposure <= 0:
            return torch.ones(1)
        table = np.linspace(0, float(self.frequency_per_angst.max()), 2048)
        left = remaining_amplitude(table, exposure, self.config.optics.voltage_kv)
        grid = np.interp(self.frequency_per_angst.ravel(), table, left)
        return torch.from_numpy(grid.reshape(self.frequency_per_angst.shape).astype(np.float32))

    def _next_ice(self) -> Tensor | None:
        """Let the water move on for a frame; neighbours in time remember each other."""
        if not self.slabs:
            return None
        fresh = (1 - self.memory.square()).clamp(min=0).sqrt()
        total = torch.zeros_like(self.slabs[0])
        for i, amplitude in enumerate(self.slab_amplitude):
            self.slabs[i].mul_(self.memory).add_(_white(self.config, self.rng) * fresh)
            total += self.slabs[i] * amplitude
        return total


def prepare_canvas(
    renderer: MicrographRenderer,
    micrograph: pl.DataFrame,
    particles: pl.DataFrame,
    contamination: Contamination | None,
    *,
    field_px: tuple[int, int],
    frame_dose_e_per_angst2: float,
    rng: np.random.Generator,
) -> Canvas:
    """Render what the frames of a movie share.

    Args:
        renderer: with the size of the canvas, frame and margin.
        micrograph: one row with the defocus.
        particles: all that lie in the field, coordinates from the frame's first pixel.
        contamination: of the frame, or None.
        field_px: rows and columns of a frame.
        frame_dose_e_per_angst2: exposure of a frame, in which the water moves.
        rng: of the ice.
    """
    config = renderer.config
    shape, pixel = (config.height_px, config.width_px), config.optics.pixel_size_angst
    first = ((shape[0] - field_px[0]) // 2, (shape[1] - field_px[1]) // 2)
    moved = particles.with_columns(
        coord_x_angst=pl.col("coord_x_angst") + first[1] * pixel,
        coord_y_angst=pl.col("coord_y_angst") + first[0] * pixel,
    )
    phases = particle_phases(renderer, moved)
    frequency = torch.linalg.vector_norm(rfft_grid(shape, pixel), dim=-1)
    factor = weight = None
    if contamination is not None and contamination.objects.height:
        factor = _padded(
            contrast_factor(
                contamination,
                micrograph=micrograph,
                optics=config.optics,
                b_factor_angst2=config.b_factor_angst2,
            ),
            shape,
            first,
        )
        weight = _padded(contamination.ice, shape, first)
    amplitudes, memory = _ice(config, micrograph, frequency.numpy(), frame_dose_e_per_angst2)
    canvas = Canvas(
        config,
        first,
        torch.fft.rfft2(phases),
        frequency.numpy(),
        [],
        amplitudes,
        memory,
        _transfer(config, frequency),
        factor,
        weight,
        rng,
    )
    canvas.slabs = [_white(config, rng) for _ in amplitudes]
    return canvas


def _ice(
    config: MicrographConfig,
    micrograph: pl.DataFrame,
    frequency: NDArray[np.float32],
    frame_dose: float,
) -> tuple[list[Tensor], Tensor]:
    """Amplitude of each slab after the CTF, and what a frame leaves of the one before."""
    if config.ice_thickness_angst <= 0:
        return [], torch.ones(1)
    n_slabs = max(1, round(config.ice_thickness_angst / _SLAB_ANGST))
    table = np.linspace(0, float(frequency.max()), 2048)
    power = ice_phase_power(
        table,
        thickness_angst=config.ice_thickness_angst / n_slabs,
        voltage_kv=config.optics.voltage_kv,
        dose_e_per_angst2=frame_dose,
    )
    amplitude = np.sqrt(power) / config.optics.pixel_size_angst
    grid = torch.from_numpy(
        np.interp(frequency.ravel(), table, amplitude).reshape(frequency.shape).astype(np.float32)
    )
    slabs = np.arange(n_slabs)
    offsets = (slabs - slabs.mean()) * config.ice_thickness_angst / n_slabs
    amplitudes = [grid * field_ctf(config, micrograph, float(offset))[0] for offset in offsets]
    memory = np.exp(-stirring_rate_angst2(frame_dose) * np.square(frequency, dtype=np.float64))
    return amplitudes, torch.from_numpy(memory.astype(np.float32))


def _white(config: MicrographConfig, rng: np.random.Generator) -> Tensor:
    """Draw the transform of white noise of variance 1 in every pixel."""
    shape = (config.height_px, config.width_px // 2 + 1, 2)
    drawn = rng.standard_normal(shape, dtype=np.float32)
    drawn *= np.float32(np.sqrt(config.height_px * config.width_px / 2))
    drawn[:, 0] *= np.float32(np.sqrt(2))  # the inverse keeps the symmetric half of this column
    return torch.view_as_complex(torch.from_numpy(drawn))


def _transfer(config: MicrographConfig, frequency: Tensor) -> Tensor:
    """Detector's blur, over the response of the splines that will be sampled."""
    shape = (config.height_px, config.width_px)
    relative = frequency * (2 * config.optics.pixel_size_angst)
    transfer = (1 - (1 - config.mtf_at_nyquist) * relative).clamp(min=0)
    rows = torch.fft.fftfreq(shape[0]) / 2
    columns = torch.fft.rfftfreq(shape[1]) / 2
    spline = torch.sinc(rows)[:, None] ** 4 * torch.sinc(columns) ** 4
    return transfer / spline


def _doubled(image_ft: Tensor, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Sample an image twice as finely."""
    height, width = shape
    wide = torch.zeros((2 * height, width + 1), dtype=image_ft.dtype)
    half = height // 2
    columns = width // 2 + 1
    wide[: height - half, :columns] = image_ft[: height - half]
    wide[2 * height - half :, :columns] = image_ft[height - half :]
    if width % 2 == 0:
        wide[:, width // 2] *= 0.5  # it now stands for both signs
    fine: Tensor = torch.fft.irfft2(wide, s=(2 * height, 2 * width)) * 4
    return np.asarray(fine.numpy())


def _padded(image: NDArray[np.float32], shape: tuple[int, int], first: tuple[int, int]) -> Tensor:
    """Continue an image beyond its borders with what lies at them."""
    after = [side - n - low for side, n, low in zip(shape, image.shape, first, strict=True)]
    widths = list(zip(first, after, strict=True))
    return torch.from_numpy(np.pad(image, widths, mode="edge"))
