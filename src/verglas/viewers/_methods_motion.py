"""Sentences for the Methods paragraph: gain and motion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from verglas.viewers.words import count_text

if TYPE_CHECKING:
    from verglas.viewers.methods import MethodStep

__all__ = ["MOTION_SENTENCES"]


def _align(step: MethodStep) -> str:
    n = step.n_out("micrographs")
    what = f"The frames of {count_text(n, 'movies')}" if n is not None else "Movie frames"
    local = ", of the whole frame and, where held-out parts bore it out, of its parts,"
    text = (
        f"{what} were aligned by the most probable motion"
        f"{local if step.get('use_local_motion') is not False else ''}"
        " under a Gaussian-process prior learnt from each movie"
        f"{step.text(' with detail to {}', 'max_res_angst')}"
        f"{step.text(' (median path {})', 'median_travel_angst')}"
    )
    binning = step.get("binning")
    if binning and binning > 1:
        text += f", and binned {binning:g} times in Fourier space"
    if step.get("use_dose_weights") is not False:
        text += ". They were added with weights by critical exposure"
    return f"{text}."


def _estimate_gain(step: MethodStep) -> str:
    error = step.get("expected_error")
    orientation = step.get("orientation")
    text = "The detector's gain was estimated from the movies"
    if error is not None:
        text += f" to {100 * float(error):.2g} % of a pixel's value"
    if orientation:
        text += f"; the given reference was used {orientation}"
    return f"{text}."


MOTION_SENTENCES: dict[str, Callable[[MethodStep], str]] = {
    "movies.align": _align,
    "movies.estimate_gain": _estimate_gain,
}
"""By id of the protocol."""
