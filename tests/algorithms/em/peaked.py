"""Views with known poses for the continuous stage, and distances between poses."""

from dataclasses import dataclass

import torch

from tests.algorithms.em.model_images import PIXEL_ANGST, draw_images, draw_views, make_setting
from verglas.algorithms.em.local import Starts
from verglas.algorithms.em.references import References
from verglas.kernels.so3 import random_rotations, rotation_from_vector

PRIOR_ANGST = 2.0


@dataclass(frozen=True)
class Known:
    """Views drawn from the model, and the truth."""

    setting: object
    views: object
    references: References
    rotations: torch.Tensor
    shifts_angst: torch.Tensor
    reference: torch.Tensor

    def __len__(self):
        return len(self.rotations)

    def starts(self, turn_deg=0.0, move_angst=0.0, seed=0):
        """The truth, turned about random axes and moved along random directions."""
        g = torch.Generator().manual_seed(seed)
        n = len(self)
        axis = torch.randn(n, 3, generator=g, dtype=torch.float64)
        along = torch.randn(n, 2, generator=g, dtype=torch.float64)
        axis = torch.nn.functional.normalize(axis) * turn_deg * torch.pi / 180
        return Starts(
            torch.arange(n),
            self.reference.clone(),
            rotation_from_vector(axis) @ self.rotations,
            self.shifts_angst + torch.nn.functional.normalize(along) * move_angst,
        )

    def snr(self):
        """Variance of the signal over that of the noise, over the whole image and band."""
        poses = (self.rotations, self.shifts_angst)
        clean, _ = draw_images(self.setting, *poses, reference=self.reference, noise=0.0)
        noisy, _ = draw_images(self.setting, *poses, reference=self.reference)
        return float(clean.var() / (noisy - clean).var())


def known_views(n, *, energy, seed=0, noise=1.0, n_references=1, box=24, radius=10):
    """Views of maps of 14 Gaussians, poses and shifts drawn from their priors.

    Args:
        energy: log units by which a view differs from nothing, on average.
        noise: factor on the noise's deviation in the images, not in the model.
    """
    setting = make_setting(box=box, radius=radius, energy=energy, n_references=n_references)
    g = torch.Generator().manual_seed(100 + seed)
    rotations = random_rotations(n, generator=g)
    shifts = PRIOR_ANGST * torch.randn(n, 2, generator=g, dtype=torch.float64)
    reference = torch.randint(n_references, (n,), generator=g)
    views = draw_views(setting, rotations, shifts, seed=seed, noise=noise, reference=reference)
    log_prior = torch.full((n_references,), 1 / n_references).log()
    references = References(setting.half_volumes, log_prior, 2, False)
    return Known(setting, views, references, rotations, shifts, reference)


def turn_vectors(rotations):
    """Rotation vectors (radians) of turns of less than half a circle."""
    skew = rotations - rotations.mT
    vector = 0.5 * torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], 1)
    sine = vector.norm(dim=1)
    cosine = (rotations.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    return vector * (torch.atan2(sine, cosine) / sine.clamp_min(1e-12))[:, None]


def offsets(rotations, shifts_angst, peaks):
    """From peaks to poses: rotation vector (radians) and shift (pixels), `[p, 5]`."""
    turn = turn_vectors(rotations @ peaks.at.rotations_ref_to_img.mT)
    return torch.cat([turn, (shifts_angst - peaks.at.shifts_angst) / PIXEL_ANGST], 1)


def mahalanobis(peaks, rotations, shifts_angst):
    """Squared distance of poses from peaks, in standard deviations."""
    apart = offsets(rotations, shifts_angst, peaks)
    return torch.einsum("pi,pij,pj->p", apart, peaks.precision, apart)
