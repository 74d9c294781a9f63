"""Sentences for the Methods paragraph: classes in three dimensions, and local refinement."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from verglas.viewers.words import count_text

if TYPE_CHECKING:
    from verglas.viewers.methods import MethodStep

__all__ = ["CLASSES3D_SENTENCES"]


def _classify(step: MethodStep) -> str:
    n, k = step.n_in("particles"), step.get("n_classes")
    classes = f"{k} three-dimensional classes" if k else "three-dimensional classes"
    aligned = "with alignment" if step.get("align") in (None, True) else "at fixed poses"
    text = (
        f"{count_text(n, 'particles') if n else 'The particles'} were sorted into {classes} by"
        f" maximum likelihood, {aligned}{step.text(', with {} symmetry', 'symmetry')}"
    )
    agreement, seeds = step.get("agreement"), step.get("n_seeds")
    if agreement is not None and seeds:
        text += (
            f"; of {seeds} random starts the one that explained particles best from which its"
            f" maps were not made was kept, and another put {100 * float(agreement):.0f} % of"
            " the particles into the same class"
        )
    return f"{text}."


def _refine_local(step: MethodStep) -> str:
    n, iterations = step.n_in("particles"), step.get("n_iterations")
    text = (
        f"The poses of {count_text(n, 'particles') if n else 'the particles'} were refined locally"
        " over three angles and two shifts by Gauss-Newton steps on the likelihood"
        f"{step.text(', to a median standard deviation of {}', 'angle_sd_deg')}"
    )
    if iterations:
        text += (
            ", and further in two half sets"
            f"{step.text(', to {} by their Fourier shell correlation', 'resolution_angst')}"
        )
    return f"{text}."


CLASSES3D_SENTENCES: dict[str, Callable[[MethodStep], str]] = {
    "particles.classify_3d": _classify,
    "particles.refine_local": _refine_local,
}
