"""Sentences for the Methods paragraph: positions of particles and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from verglas.viewers.words import count_text

if TYPE_CHECKING:
    from verglas.viewers.methods import MethodStep

__all__ = ["PICKING_SENTENCES"]


def _from_particles(step: MethodStep) -> str:
    n = step.n_out("coordinates")
    found = f"{count_text(n, 'coordinates')} were" if n is not None else "Coordinates were"
    return (
        f"{found} recentred by the shifts of the aligned particles"
        f"{step.text(' (median move {})', 'median_move_angst')}."
    )


def _pick_template(step: MethodStep) -> str:
    n = step.n_out("coordinates")
    found = f"{count_text(n, 'particles')} were" if n is not None else "Particles were"
    source = "projections of a map" if step.n_in("volumes") else "class averages"
    if not step.items_in:
        source = "templates"
    return (
        f"{found} picked by matched filtering of the whitened micrographs with {source}"
        f"{step.text(' (diameter {}', 'diameter_angst')}"
        f"{step.text(', detail to {})', 'max_resolution_angst')}."
    )


def _consensus(step: MethodStep) -> str:
    kept, left = step.n_out("coordinates"), step.n_out("rejected")
    of_all = f" of {kept + left}" if kept is not None and left is not None else ""
    count = f"{kept}{of_all} places" if kept is not None else "Places"
    mode = step.get("mode") or "model"
    rule = {
        "and": "all pickers found",
        "or": "any picker found",
        "vote": f"at least {step.get('min_votes') or 2} pickers found",
        "model": "a latent-class model of the pickers' agreement, scores and of the images"
        f" took for particles{step.text(' (probability at least {})', 'min_probability')}",
    }.get(str(mode), "were chosen")
    return f"Picks of several pickers were brought together; {count} that {rule} were kept."


def _clean(step: MethodStep) -> str:
    kept, left = step.n_out("coordinates"), step.n_out("rejected")
    of_all = f" of {kept + left}" if kept is not None and left is not None else ""
    count = f"{kept}{of_all} picks" if kept is not None else "Picks"
    return (
        "Carbon, crystals, aggregates and tears were segmented in the micrographs; "
        f"{count} that lie in clean ice were kept."
    )


def _pick_manual(step: MethodStep) -> str:
    n = step.n_out("coordinates")
    n_hand = step.numbers.get("n_by_hand")
    by_hand = f"{count_text(int(n_hand), 'particles')} were" if n_hand else "Particles were"
    found = f", {n} in all" if n is not None else ""
    return (
        f"{by_hand} picked by hand in some micrographs; a classifier trained on them suggested"
        f" those of the others{found}."
    )


def _screen(step: MethodStep) -> str:
    kept, before = step.n_out("particles"), step.n_in("particles")
    of_all = f" of {before}" if before is not None else ""
    rules = [
        step.text(form, name)
        for name, form in (
            ("max_z_score", "no more than {} deviations from the others"),
            ("min_ssnr_db", "signal over noise of at least {} dB"),
            ("max_ssnr_db", "signal over noise of at most {} dB"),
            ("max_variance_ratio", "a variance of at most {} times that of the background"),
        )
    ]
    limits = ", ".join(rule for rule in rules if rule)
    count = f"{kept}{of_all} particle images" if kept is not None else "Particle images"
    return f"{count}{f' with {limits}' if limits else ''} were kept."


PICKING_SENTENCES: dict[str, Callable[[MethodStep], str]] = {
    "coordinates.from_particles": _from_particles,
    "coordinates.clean": _clean,
    "coordinates.consensus": _consensus,
    "micrographs.pick_manual": _pick_manual,
    "micrographs.pick_template": _pick_template,
    "particles.screen": _screen,
}
"""What is said of each protocol."""
