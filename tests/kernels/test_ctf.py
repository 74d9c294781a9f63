"""Contrast transfer function against closed forms and torch-ctf."""

import math

import numpy as np
import pytest
import torch
from scipy import constants
from torch_ctf import calculate_ctf_2d

from tests.tolerance import CTF32
from verglas.kernels.ctf import (
    ctf_phase,
    electron_wavelength_angst,
    equivalent_frequencies,
    evaluate_ctf,
    point_spread_angst,
)
from verglas.kernels.fourier import rfft_grid


def params(n=2, **changes):
    values = {
        "defocus_u_angst": [12000.0, 30000.0],
        "defocus_v_angst": [11000.0, 28000.0],
        "defocus_angle_deg": [25.0, -70.0],
        "phase_shift_deg": [0.0, 90.0],
    }
    made = {name: torch.tensor(v[:n], dtype=torch.float64) for name, v in values.items()}
    microscope = {
        "voltage_kv": 300.0,
        "spherical_aberration_mm": 2.7,
        "amplitude_contrast": 0.1,
    }
    return made | microscope | changes


def reference(grid, p):
    """The formula of the conventions page, in float64 and polar coordinates."""
    kx, ky = np.moveaxis(grid.double().numpy(), -1, 0)
    k, azimuth = np.hypot(kx, ky), np.arctan2(ky, kx)
    mass, charge, light = constants.m_e, constants.e, constants.c
    energy = charge * 3e5
    momentum = math.sqrt(2 * mass * energy * (1 + energy / (2 * mass * light**2)))
    wavelength = constants.h / momentum * 1e10
    out = []
    for u, v, angle, shift in zip(
        *(p[name].tolist() for name in list(p)[:4]),
        strict=True,
    ):
        dz = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (azimuth - np.radians(angle)))
        chi = np.pi * wavelength * dz * k**2 - np.pi / 2 * 2.7e7 * wavelength**3 * k**4
        out.append(np.sin(chi + np.radians(shift) + np.arcsin(0.1)))
    return np.stack(out)


@pytest.mark.parametrize(("voltage_kv", "expected"), [(200, 0.0250793), (300, 0.0196875)])
def test_wavelength_equals_codata(voltage_kv, expected):
    assert electron_wavelength_angst(voltage_kv) == pytest.approx(expected, abs=5e-8)


@pytest.mark.parametrize("shape", [(64, 64), (63, 65)])
@pytest.mark.parametrize("n", [1, 2])
def test_ctf_equals_the_formula_in_float64(shape, n):
    grid = rfft_grid(shape, 1.0, dtype=torch.float64)
    ctf = evaluate_ctf(grid, **params(n))
    assert ctf.shape == (n, shape[0], shape[1] // 2 + 1)
    assert ctf.dtype == torch.float64
    # scipy may hold a later CODATA: 1e-9 of the mass, at phases of up to 464 radians
    np.testing.assert_allclose(ctf, reference(grid, params(n)), rtol=0, atol=1e-6)


def test_float32_ctf_is_within_its_tolerance_of_float64():
    grid = rfft_grid((256, 256), 1.0, dtype=torch.float64)
    ctf = evaluate_ctf(grid.float(), **params())
    assert ctf.dtype == torch.float32
    expected = evaluate_ctf(grid, **params())
    torch.testing.assert_close(ctf.double(), expected, **CTF32)


@pytest.mark.parametrize("angle_deg", [0.0, 30.0, 100.0])
def test_ctf_equals_torch_ctf(angle_deg):
    # torch-ctf takes micrometres, the mean defocus and half the difference
    expected = calculate_ctf_2d(
        defocus=torch.tensor(1.5),
        astigmatism=torch.tensor(0.05),
        astigmatism_angle=torch.tensor(angle_deg),
        voltage=300.0,
        spherical_aberration=2.7,
        amplitude_contrast=0.1,
        phase_shift=20.0,
        pixel_size=1.5,
        image_shape=(64, 64),
        rfft=True,
        fftshift=False,
    )
    ours = evaluate_ctf(
        rfft_grid((64, 64), 1.5),
        **params(
            defocus_u_angst=torch.tensor([15500.0]),
            defocus_v_angst=torch.tensor([14500.0]),
            defocus_angle_deg=torch.tensor([angle_deg]),
            phase_shift_deg=torch.tensor([20.0]),
        ),
    )
    torch.testing.assert_close(ours[0], expected.float(), **CTF32)


def test_origin_is_amplitude_contrast_and_underfocus_starts_positive():
    grid = rfft_grid((64, 64), 2.0, dtype=torch.float64)
    ctf = evaluate_ctf(grid, **params(1))
    assert ctf[0, 0, 0].item() == pytest.approx(0.1, abs=1e-12)
    first_zero = 1 / math.sqrt(0.0197 * 12000)
    k = grid.square().sum(-1).sqrt()
    assert (ctf[0][k < 0.9 * first_zero] > 0).all()


def test_u_axis_has_the_larger_defocus():
    # along u the phase is that of a plain CTF of defocus u, across it of defocus v
    direction = torch.tensor([[math.cos(math.radians(25)), math.sin(math.radians(25))]])
    across = torch.tensor([[-direction[0, 1], direction[0, 0]]])
    points = torch.cat([direction, across]).double() * 0.1
    phase = ctf_phase(points, **params(1))
    for i, defocus in enumerate((12000.0, 11000.0)):
        same = torch.tensor([defocus])
        plain = params(1, defocus_u_angst=same, defocus_v_angst=same)
        assert ctf_phase(points, **plain)[0, i].item() == pytest.approx(
            phase[0, i].item(), abs=1e-6
        )


def test_voltage_and_lens_may_differ_within_the_batch():
    grid = rfft_grid((16, 16), 1.5)
    mixed = params(
        2,
        voltage_kv=torch.tensor([200.0, 300.0]),
        spherical_aberration_mm=torch.tensor([1.4, 2.7]),
        amplitude_contrast=torch.tensor([0.07, 0.1]),
    )
    both = evaluate_ctf(grid, **mixed)
    for i in range(2):
        one = {name: value[i : i + 1] for name, value in mixed.items()}
        torch.testing.assert_close(both[i : i + 1], evaluate_ctf(grid, **one))


def test_any_leading_shape_of_frequencies_is_kept():
    points = rfft_grid((8, 8), 1.5).reshape(-1, 2)
    flat = evaluate_ctf(points, **params())
    assert flat.shape == (2, len(points))
    torch.testing.assert_close(
        flat.reshape(2, 8, 5), evaluate_ctf(rfft_grid((8, 8), 1.5), **params())
    )


def test_envelope_multiplies_by_the_b_factor():
    grid = rfft_grid((8, 8), 2.0, dtype=torch.float64)
    b = torch.tensor([0.0, 80.0])
    damped = evaluate_ctf(grid, **params(), b_factor_angst2=b)
    plain = evaluate_ctf(grid, **params())
    torch.testing.assert_close(damped[0], plain[0])
    k2 = grid.square().sum(-1)
    torch.testing.assert_close(damped[1], plain[1] * torch.exp(-20 * k2))


def test_gradients_are_right_and_finite_without_astigmatism():
    grid = rfft_grid((4, 4), 3.0, dtype=torch.float64)
    leaves = [
        torch.tensor([value], dtype=torch.float64, requires_grad=True)
        for value in (9000.0, 9000.0, 30.0, 10.0)
    ]

    def ctf(u, v, angle, shift):
        names = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg")
        return evaluate_ctf(
            grid, **params(1, **dict(zip(names, (u, v, angle, shift), strict=True)))
        )

    assert torch.autograd.gradcheck(ctf, leaves)
    zero = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    evaluate_ctf(zero, **params()).sum().backward()
    assert torch.isfinite(zero.grad).all()


def test_point_spread_is_the_slope_of_the_phase():
    k = torch.linspace(0.01, 0.4, 30, dtype=torch.float64, requires_grad=True)
    along = torch.stack([k, torch.zeros_like(k)], dim=-1)
    same = torch.tensor([15000.0])
    phase = ctf_phase(along, **params(1, defocus_u_angst=same, defocus_v_angst=same))
    phase.sum().backward()
    spread = point_spread_angst(
        k.detach(), defocus_angst=15000.0, voltage_kv=300.0, spherical_aberration_mm=2.7
    )
    torch.testing.assert_close(spread, k.grad.abs() / (2 * math.pi), rtol=1e-9, atol=0)


def test_one_micrometre_moves_two_angstrom_detail_by_98_angst():
    spread = point_spread_angst(
        torch.tensor(0.5), defocus_angst=1e4, voltage_kv=300.0, spherical_aberration_mm=0.0
    )
    assert spread.item() == pytest.approx(98.4, abs=0.1)


@pytest.mark.parametrize("voltage_kv", [300.0, 120.0])
def test_equivalent_frequencies_have_the_phase_of_the_mean_defocus(voltage_kv):
    grid = rfft_grid((32, 32), 1.5, dtype=torch.float64)
    p = params(1, voltage_kv=voltage_kv, phase_shift_deg=torch.zeros(1))
    optics = {
        name: value
        for name, value in p.items()
        if name not in ("phase_shift_deg", "amplitude_contrast")
    }
    modulus = equivalent_frequencies(grid, **optics)[0]
    usable = torch.isfinite(modulus)
    assert usable.float().mean() > 0.6
    mean = torch.tensor([11500.0])
    points = torch.stack([modulus, torch.zeros_like(modulus)], dim=-1)[usable]
    plain = ctf_phase(points, **(p | {"defocus_u_angst": mean, "defocus_v_angst": mean}))
    torch.testing.assert_close(plain[0], ctf_phase(grid, **p)[0][usable], rtol=1e-9, atol=1e-9)


def test_equivalent_frequencies_without_astigmatism_are_the_moduli():
    grid = rfft_grid((16, 16), 2.0, dtype=torch.float64)
    same = torch.tensor([-9000.0])
    modulus = equivalent_frequencies(
        grid,
        defocus_u_angst=same,
        defocus_v_angst=same,
        defocus_angle_deg=torch.zeros(1),
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
    )
    torch.testing.assert_close(modulus[0], grid.square().sum(-1).sqrt(), rtol=1e-9, atol=1e-12)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="end in shape"):
        evaluate_ctf(torch.zeros(4, 3), **params())
    with pytest.raises(ValueError, match="voltage_kv"):
        electron_wavelength_angst(0.0)


def test_an_even_phase_adds_to_the_argument():
    grid = rfft_grid((8, 8), 2.0, dtype=torch.float64)
    offset = grid.square().sum(-1) * 30
    p = params()
    both = ctf_phase(grid, **p, phase_offset_rad=offset[None])
    torch.testing.assert_close(both, ctf_phase(grid, **p) + offset)
    torch.testing.assert_close(evaluate_ctf(grid, **p, phase_offset_rad=offset[None]), both.sin())
