"""Measure estimators of the CTF on micrographs whose CTF is known.

Processor time is that of the estimate alone, on one thread, after the first micrograph has warmed
everything up; reading, pictures and tables of a job are not in it, the picture of the spectrum is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from verglas.core.errors import UserError
from verglas.io.images import open_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from verglas.algorithms.ctf.config import Method
    from verglas.algorithms.ctf.summary import CtfFit

__all__ = ["METHODS", "CtfBenchmark", "measure_ctf"]

METHODS: tuple["Method", ...] = ("likelihood", "correlation", "equiphase", "parametric")
_TRUTH = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg")
_OPTICS = (
    "pixel_size_angst",
    "voltage_kv",
    "spherical_aberration_mm",
    "amplitude_contrast",
)
_LEAST_ASTIGMATISM_ANGST = 50.0


@dataclass(frozen=True)
class CtfBenchmark:
    """Means over micrographs.

    Attributes:
        method: of `micrographs.estimate_ctf`.
        n_micrographs: that were fitted.
        cpu_s: processor time of one.
        defocus_error_angst, worst_defocus_error_angst: of the mean defocus.
        astigmatism_error_angst: of the difference of the two defoci.
        angle_error_deg: of the direction, where the truth has at least 50 Å of astigmatism.
        phase_shift_error_deg: of the phase shift.
        fit_res_angst: median.
        stated_error_angst: median standard error of the mean defocus.
    """

    method: "Method"
    n_micrographs: int
    cpu_s: float
    defocus_error_angst: float
    worst_defocus_error_angst: float
    astigmatism_error_angst: float
    angle_error_deg: float
    phase_shift_error_deg: float
    fit_res_angst: float
    stated_error_angst: float


def measure_ctf(
    micrographs: pl.DataFrame,
    root: Path,
    *,
    methods: Sequence["Method"] = METHODS,
    max_phase_shift_deg: float = 0.0,
) -> list[CtfBenchmark]:
    """Fit micrographs with known CTF by several methods and compare.

    Args:
        micrographs: `image_path`, `image_slice`, the optics, and the true `defocus_u_angst`,
            `defocus_v_angst`, `defocus_angle_deg` and perhaps `phase_shift_deg`.
        root: that paths start from.
        methods: of `micrographs.estimate_ctf`.
        max_phase_shift_deg: searched up to this; 0 takes it as 0.
    """
    wanted = ("image_path", "image_slice", *_OPTICS, *_TRUTH)
    missing = [name for name in wanted if name not in micrographs.columns]
    if missing or not micrographs.height:
        raise UserError(
            f"micrographs with truth lack {', '.join(missing) or 'rows'}",
            f"expected the columns {', '.join(wanted)}",
        )
    return [_measure(micrographs, root, method, max_phase_shift_deg) for method in methods]


def _measure(
    micrographs: pl.DataFrame, root: Path, method: "Method", max_phase_shift_deg: float
) -> CtfBenchmark:
    from verglas.algorithms.ctf.config import CtfFitConfig
    from verglas.algorithms.ctf.timing import time_fit

    config = CtfFitConfig(method=method, max_phase_shift_deg=max_phase_shift_deg)
    errors, seconds = [], []
    for number, row in enumerate(micrographs.iter_rows(named=True)):
        image = open_images(root / row["image_path"]).read([row["image_slice"]])[0]
        for _ in range(2 if number == 0 else 1):
            fit, used = time_fit(
                image,
                pixel_size_angst=row["pixel_size_angst"],
                voltage_kv=row["voltage_kv"],
                spherical_aberration_mm=row["spherical_aberration_mm"],
                amplitude_contrast=row["amplitude_contrast"],
                config=config,
            )
        seconds.append(used)
        errors.append(_errors(row, fit))
    return _summary(method, np.array(errors), np.array(seconds))


def _errors(row: dict[str, Any], fit: "CtfFit") -> tuple[float, ...]:
    """Deviations of one fit, and what it says of itself."""
    u, v, angle = (float(row[name]) for name in _TRUTH)
    shift = float(row.get("phase_shift_deg") or 0.0)
    turned = abs((fit.defocus_angle_deg - angle + 90.0) % 180.0 - 90.0)
    return (
        abs(fit.defocus_u_angst + fit.defocus_v_angst - u - v) / 2,
        abs(fit.defocus_u_angst - fit.defocus_v_angst - u + v),
        turned if u - v >= _LEAST_ASTIGMATISM_ANGST else np.nan,
        abs((fit.phase_shift_deg - shift + 90.0) % 180.0 - 90.0),
        fit.fit_res_angst,
        fit.defocus_error_angst,
    )


def _summary(
    method: "Method", errors: "NDArray[np.float64]", seconds: "NDArray[np.float64]"
) -> CtfBenchmark:
    defocus, difference, turned, shift, reach, stated = errors.T
    has_angle = np.isfinite(turned)
    return CtfBenchmark(
        method=method,
        n_micrographs=len(errors),
        cpu_s=float(seconds.mean()),
        defocus_error_angst=float(defocus.mean()),
        worst_defocus_error_angst=float(defocus.max()),
        astigmatism_error_angst=float(difference.mean()),
        angle_error_deg=float(turned[has_angle].mean()) if has_angle.any() else float("nan"),
        phase_shift_error_deg=float(shift.mean()),
        fit_res_angst=float(np.median(reach)),
        stated_error_angst=float(np.median(stated)),
    )
