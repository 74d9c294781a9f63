"""Sentences for the Methods paragraph: movies, where they come from and which were kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from verglas.viewers.words import count_text, quantity_text

if TYPE_CHECKING:
    from verglas.viewers.methods import MethodStep

__all__ = ["MOVIE_SENTENCES"]


def _import(step: MethodStep) -> str:
    n = step.n_out("movies")
    what = count_text(n, "movies") if n is not None else "Movies"
    text = (
        f"{what} {'was' if n == 1 else 'were'} imported"
        f"{step.text(', recorded at {}', 'voltage_kv')}"
        f"{step.text(' with a spherical aberration of {}', 'spherical_aberration_mm')}"
        f"{step.text(' and a pixel size of {}', 'pixel_size_angst')}"
    )
    if step.get("frame_dose_e_per_angst2"):
        text += step.text(", with an exposure of {} in each frame", "frame_dose_e_per_angst2")
    if step.get("eer_frames_per_fraction"):
        text += step.text("; {} raw frames were summed to a frame", "eer_frames_per_fraction")
    return f"{text}."


def _simulate(step: MethodStep) -> str:
    n, frames = step.n_out("movies"), step.get("n_frames")
    what = count_text(n, "movies") if n is not None else "Movies"
    of_frames = f" of {count_text(int(frames), 'frames')}" if frames else ""
    was = "was" if n == 1 else "were"
    return (
        f"{what}{of_frames} with known motion, radiation damage and detector {was} simulated"
        f"{step.text(' at {} in each frame', 'frame_dose_e_per_angst2')}."
    )


def _screen(step: MethodStep) -> str:
    frame, travel = (
        quantity_text(name, value) if (value := step.get(name)) is not None else "the limit"
        for name in ("max_frame_shift_angst", "max_travel_angst")
    )
    rules = {
        "frame": f"moved more than {frame} between two frames",
        "travel": f"travelled more than {travel} in all",
        "both": f"moved more than {frame} between two frames and travelled more than {travel}",
        "either": f"moved more than {frame} between two frames or travelled more than {travel}",
    }
    rule = rules[str(step.get("reject_by") or "either")]
    kept, out = step.n_out("accepted"), step.n_out("rejected")
    if out is None:
        return f"Micrographs that {rule} were rejected."
    text = f"{count_text(out, 'micrographs')} that {rule} {'was' if out == 1 else 'were'} rejected"
    return f"{text}, leaving {kept}." if kept is not None else f"{text}."


MOVIE_SENTENCES: dict[str, Callable[[MethodStep], str]] = {
    "movies.import": _import,
    "movies.simulate": _simulate,
    "movies.screen_drift": _screen,
}
"""By id of the protocol."""
