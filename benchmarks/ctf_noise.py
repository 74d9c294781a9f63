"""Find how much evidence for Thon rings a search finds where there are none.

    python benchmarks/ctf_noise.py --images 40

Images of Gaussian noise, white and with three kinds of falling spectra, 1024 and 1400 pixels of
1 to 2 Å, are fitted by every method. One line per fit that a limit should refuse, and the
highest evidence by method: the limit of `micrographs.estimate_ctf` stands above all of them.
"""

import argparse

import torch
from torch import Tensor

from verglas.algorithms.ctf.fit import CtfFitConfig, fit_ctf

METHODS = ("likelihood", "correlation", "equiphase", "parametric")


def spectrum(kind: int, frequency_px: Tensor) -> Tensor:
    """Return an amplitude that varies smoothly with frequency (cycles per pixel)."""
    k = frequency_px
    return (
        torch.ones_like(k),
        (k + 0.02).rsqrt(),
        torch.exp(-((k / 0.35) ** 2)) + 0.1,
        1 / (k + 0.01) + 0.5 * torch.exp(-((k / 0.2) ** 2)),
    )[kind]


def noise(index: int, generator: torch.Generator) -> Tensor:
    """Make one image without rings."""
    side_px = 1024 if index % 2 else 1400
    white_ft = torch.fft.rfft2(torch.randn(side_px, side_px, generator=generator))
    rows, columns = torch.fft.fftfreq(side_px)[:, None], torch.fft.rfftfreq(side_px)
    amplitude = spectrum(index % 4, torch.hypot(rows, columns))
    return torch.fft.irfft2(white_ft * amplitude, s=(side_px, side_px))


def main() -> None:
    """Fit all images by all methods."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(options.seed)
    evidence: dict[str, list[float]] = {method: [] for method in METHODS}
    for index in range(options.images):
        image = noise(index, generator)
        for method in METHODS:
            fit = fit_ctf(
                image,
                pixel_size_angst=(1.0, 1.5, 2.0)[index % 3],
                voltage_kv=(300.0, 200.0)[index % 2],
                spherical_aberration_mm=2.7,
                amplitude_contrast=0.07,
                config=CtfFitConfig(method=method),
            )
            evidence[method].append(fit.evidence)
            if fit.has_rings:
                print(f"image {index}, {method}: rings in noise, {fit.evidence:.1f} nats")
    for method, values in evidence.items():
        found = torch.tensor(values)
        print(f"{method}: mean {found.mean():.1f}, highest {found.max():.1f} nats", flush=True)


if __name__ == "__main__":
    main()
