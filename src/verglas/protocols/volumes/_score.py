"""The numbers that say how well a map agrees with its halves or with a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verglas.protocols.volumes._maps import CORRELATION, curve_row, finite, fsc_rows

if TYPE_CHECKING:
    from verglas.algorithms.map_fsc import MaskedFsc
    from verglas.algorithms.model_fsc import ModelFsc

__all__ = ["halves_curves", "halves_score", "reference_curves", "reference_score", "support_score"]


def halves_score(fsc: MaskedFsc) -> dict[str, Any]:
    """Resolutions of two half maps."""
    return {
        "half_0143_angst": finite(fsc.resolution_angst(fsc.corrected, 0.143)),
        "half_05_angst": finite(fsc.resolution_angst(fsc.corrected, 0.5)),
        "half_unmasked_0143_angst": finite(fsc.resolution_angst(fsc.unmasked, 0.143)),
    }


def support_score(found: ModelFsc, halves: MaskedFsc) -> dict[str, Any]:
    """Say how far the reference bears out what the half maps claim.

    A perfect reference agrees with the map as `sqrt(2F/(1+F))` foresees. One that differs from
    the specimen agrees less on all shells alike; claims without substance show as a drop on the
    shells beyond the reference's 0.5. So the ratio of found to foreseen is given for the
    shells from 30 Å to there, and from there to where the half maps end.
    """
    from verglas.algorithms.map_fsc import expected_truth_fsc

    x, foreseen = halves.frequencies_per_angst, expected_truth_fsc(halves.corrected)
    end = halves.resolution_angst(halves.corrected, 0.143)
    middle = found.resolution_05_angst

    def ratio(coarse_angst: float, fine_angst: float) -> float | None:
        band = (x > 1 / coarse_angst) & (x <= 1 / fine_angst)
        if not band.any():
            return None
        return float(found.fsc.corrected[band].mean() / foreseen[band].mean())

    return {"support_coarse": ratio(30.0, middle), "support_fine": ratio(middle, end)}


def halves_curves(source_id: int, fsc: MaskedFsc) -> list[dict[str, Any]]:
    """Curves of two half maps beside a comparison, and what they predict for it."""
    from verglas.algorithms.map_fsc import expected_truth_fsc

    x, predicted = fsc.frequencies_per_angst, expected_truth_fsc(fsc.corrected)
    return [
        curve_row(source_id, "half maps corrected", x, fsc.corrected, y_label=CORRELATION),
        curve_row(source_id, "expected from half maps", x, predicted, y_label=CORRELATION),
    ]


def reference_score(found: ModelFsc) -> dict[str, Any]:
    """Resolutions, pose and hand of a map against a reference.

    The pose is that of the map in the reference's frame: `r_ref = R M r_map + shift`, M the
    flip along z of a mirrored map.
    """
    pose = found.alignment.best.pose
    other = found.alignment.other
    rescaled = found.rescaled
    return {
        "fsc_05_angst": finite(found.resolution_05_angst),
        "fsc_0143_angst": finite(found.resolution_0143_angst),
        "fsc_corrected_05_angst": finite(found.resolution_corrected_05_angst),
        "fsc_unmasked_05_angst": finite(found.resolution_unmasked_05_angst),
        "is_mirrored": pose.mirrored,
        "other_hand_05_angst": finite(found.other_hand_05_angst),
        "correlation": found.alignment.best.correlation,
        "other_hand_correlation": other.correlation if other else None,
        "rotation_map_to_ref": pose.rotation_map_to_ref.tolist(),
        "shift_angst": pose.shift_angst.tolist(),
        "pixel_size_factor": rescaled.pose.pixel_size_factor if rescaled else None,
        "rescaled_05_angst": finite(found.rescaled_05_angst) if found.rescaled_05_angst else None,
        "mask_fraction": float(found.mask.mean()),
    }


def reference_curves(source_id: int, found: ModelFsc) -> list[dict[str, Any]]:
    """Curves of a map against a reference."""
    return fsc_rows(source_id, found.fsc)
