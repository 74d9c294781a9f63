"""Agreement of a map with an atomic model or another map, whatever its orientation and hand.

The model and its mask are brought into the map's frame, so the map is never interpolated.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verglas.algorithms.map_align import (
    AlignConfig,
    HandFit,
    MapAlignment,
    align_maps,
    refine_alignment,
)
from verglas.algorithms.map_fsc import (
    FscConfig,
    MaskConfig,
    MaskedFsc,
    masked_fsc,
    shell_curve,
    without_offset,
)
from verglas.algorithms.resample import MapPose, resample_volume
from verglas.kernels.fsc import resolution_at

__all__ = ["MODEL_MASK", "ModelFsc", "model_fsc"]

MODEL_MASK = MaskConfig(low_pass_angst=12.0, dilate_angst=8.0, edge_angst=15.0)
"""Soft and wide: the control with random phases stays near 0 for maps of 3 to 10 Å."""


@dataclass(frozen=True)
class ModelFsc:
    """How well a map agrees with a model or another map, at its best pose and hand.

    Attributes:
        fsc: curves in the map's frame and box, better hand.
        resolution_05_angst: of the masked curve at 0.5: the number to quote.
        resolution_0143_angst: of the masked curve at 0.143.
        resolution_corrected_05_angst: at 0.5, after the control for the mask.
        resolution_unmasked_05_angst: at 0.5, without a mask.
        other_hand_05_angst: masked, at 0.5, of the other hand; infinity if not tried.
        alignment: pose of the map in the model's frame, and the other hand's.
        mask: `[n, n, n]`, in the map's frame.
        model: `[n, n, n]`, the model brought into the map's frame.
        rescaled: pose with the map's pixel size refined; None when not asked for.
        rescaled_05_angst: masked, at 0.5, with that pixel size (in the model's Å).
    """

    fsc: MaskedFsc
    resolution_05_angst: float
    resolution_0143_angst: float
    resolution_corrected_05_angst: float
    resolution_unmasked_05_angst: float
    other_hand_05_angst: float
    alignment: MapAlignment
    mask: Tensor
    model: Tensor
    rescaled: HandFit | None
    rescaled_05_angst: float | None


@dataclass(frozen=True)
class _Pair:
    """A map, and the model with its mask in its own frame."""

    volume: Tensor
    model: Tensor
    mask: Tensor
    pixel_size_angst: float
    model_pixel_size_angst: float
    align: AlignConfig

    def search(self) -> MapAlignment:
        return align_maps(
            self.model,
            self.volume,
            reference_pixel_size_angst=self.model_pixel_size_angst,
            moving_pixel_size_angst=self.pixel_size_angst,
            config=self.align,
            mask=self.mask,
        )

    def rescale(self, pose: MapPose) -> HandFit:
        """Refine the map's pixel size too.

        The model is moved, not the map: a factor on the noisy one would be drawn to where
        its noise is lower.
        """
        fit = refine_alignment(
            self.volume,
            self.model,
            pose.inverse(),
            reference_pixel_size_angst=self.pixel_size_angst,
            moving_pixel_size_angst=self.model_pixel_size_angst,
            config=replace(self.align, fit_pixel_size=True),
            mask=self.in_map_frame(self.mask, pose).clamp(0, 1),
        )
        return replace(fit, pose=fit.pose.inverse())

    def in_map_frame(self, source: Tensor, pose: MapPose) -> Tensor:
        """Bring the model or its mask into the frame of the map."""
        return resample_volume(
            source,
            pose.inverse(),
            pixel_size_angst=self.model_pixel_size_angst,
            box=int(self.volume.shape[0]),
            output_pixel_size_angst=self.pixel_size_angst,
        )

    def resolution_05_angst(self, pose: MapPose) -> float:
        """Resolution of the masked curve at 0.5 for a pose, in the map's Å."""
        model = self.in_map_frame(self.model, pose)
        mask = self.in_map_frame(self.mask, pose).clamp(0, 1)
        curve = shell_curve(without_offset(self.volume, mask), without_offset(model, mask))
        box = int(self.volume.shape[0])
        found = resolution_at(curve[None], 0.5, box=box, pixel_size_angst=self.pixel_size_angst)
        return float(found[0])


def model_fsc(
    volume: Tensor,
    model: Tensor,
    *,
    pixel_size_angst: float,
    generator: torch.Generator,
    model_pixel_size_angst: float | None = None,
    align: AlignConfig | None = None,
    mask: MaskConfig = MODEL_MASK,
    fsc: FscConfig | None = None,
    fit_pixel_size: bool = False,
) -> ModelFsc:
    """Correlate a map with a model after finding the map's pose and hand.

    The mask comes from the low-passed model alone. The number to quote is the masked
    curve's resolution at 0.5; that of the corrected curve agrees with it unless the mask
    is too tight.

    Args:
        volume: `[n, n, n]`, the map.
        model: `[m, m, m]`, potential of the atoms, or another map, unmasked.
        pixel_size_angst: of the map.
        generator: of the random phases, on the CPU.
        model_pixel_size_angst: of the model; default that of the map.
        align: search settings; `symmetry` is that of the map about its own axes. The pixel
            size is never fitted for the number to quote.
        mask: how the mask is made from the model.
        fsc: settings of the control.
        fit_pixel_size: also find the map's pixel size that the model prefers.

    References:
        Rosenthal & Henderson 2003, doi:10.1016/j.jmb.2003.07.013 (0.5 against a perfect
        reference); Chen et al. 2013, doi:10.1016/j.ultramic.2013.06.004 (control).
    """
    model_angst = model_pixel_size_angst or pixel_size_angst
    pair = _Pair(
        volume=volume,
        model=model,
        mask=mask.build(model, pixel_size_angst=model_angst),
        pixel_size_angst=pixel_size_angst,
        model_pixel_size_angst=model_angst,
        align=replace(align or AlignConfig(), fit_pixel_size=False),
    )
    found = pair.search()
    pose = found.best.pose
    moved = pair.in_map_frame(model, pose)
    moved_mask = pair.in_map_frame(pair.mask, pose).clamp(0, 1)
    curves = masked_fsc(
        volume,
        moved,
        moved_mask,
        pixel_size_angst=pixel_size_angst,
        generator=generator,
        config=fsc,
    )
    rescaled = pair.rescale(pose) if fit_pixel_size else None
    other_05, rescaled_05 = math.inf, None
    if found.other:
        other_05 = pair.resolution_05_angst(found.other.pose)
    if rescaled:
        factor = rescaled.pose.pixel_size_factor
        rescaled_05 = pair.resolution_05_angst(rescaled.pose) * factor
    return ModelFsc(
        fsc=curves,
        resolution_05_angst=curves.resolution_angst(curves.masked, 0.5),
        resolution_0143_angst=curves.resolution_angst(curves.masked, 0.143),
        resolution_corrected_05_angst=curves.resolution_angst(curves.corrected, 0.5),
        resolution_unmasked_05_angst=curves.resolution_angst(curves.unmasked, 0.5),
        other_hand_05_angst=other_05,
        alignment=found,
        mask=moved_mask,
        model=moved,
        rescaled=rescaled,
        rescaled_05_angst=rescaled_05,
    )
