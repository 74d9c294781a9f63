"""The picking network: what lies at each place of a levelled micrograph.

The image is rescaled so that a particle is 20 pixels wide, whatever it is; the network therefore
has to know shapes, not sizes. Three levels (2, 4 and 8 pixels a cell) joined by skips, residual
blocks in each: it sees about three diameters to each side. It answers every second pixel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["CELL_PX", "PARTICLE_PX", "Answer", "PickNetwork", "cell_positions_px"]

PARTICLE_PX = 20.0  # the pixel is then 1/20 of the diameter: 6.5 Å for one of 130 Å
CELL_PX = 2
_COARSEST_PX = 8
_FINE, _MIDDLE, _COARSE = 24, 48, 64
_RARE_LOGIT = -3.0  # few cells hold a centre: training starts from there


@dataclass(frozen=True)
class Answer:
    """What the network says of each cell of 2 x 2 pixels.

    Attributes:
        particle_logit: `[b, h, w]`, log odds of a particle's centre here.
        dirt_logit: `[b, h, w]`, log odds of contamination, carbon or an aggregate.
        offset_px: `[b, 2, h, w]`, from the cell's middle to the centre of the particle, x and y.
    """

    particle_logit: Tensor
    dirt_logit: Tensor
    offset_px: Tensor


def _conv(n_in: int, n_out: int, *, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(n_out),
    )


class _Residual(nn.Module):
    """Two convolutions added to their input."""

    def __init__(self, n_channels: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.first = _conv(n_channels, n_channels, dilation=dilation)
        self.second = _conv(n_channels, n_channels, dilation=dilation)

    def forward(self, features: Tensor) -> Tensor:
        """Add what the block finds: `[b, c, h, w]`."""
        return torch.relu(features + self.second(torch.relu(self.first(features))))


class PickNetwork(nn.Module):
    """Fully convolutional, 0.35 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, _FINE, 6, stride=CELL_PX, padding=2, bias=False),
            nn.BatchNorm2d(_FINE),
            nn.ReLU(),
            _Residual(_FINE),
        )
        self.middle = nn.Sequential(
            nn.AvgPool2d(2),
            _conv(_FINE, _MIDDLE),
            nn.ReLU(),
            _Residual(_MIDDLE),
            _Residual(_MIDDLE),
        )
        self.coarse = nn.Sequential(
            nn.AvgPool2d(2),
            _conv(_MIDDLE, _COARSE),
            nn.ReLU(),
            _Residual(_COARSE),
            _Residual(_COARSE, dilation=2),
            nn.Conv2d(_COARSE, _MIDDLE, 1),
        )
        self.rejoin = nn.Sequential(_Residual(_MIDDLE), nn.Conv2d(_MIDDLE, _FINE, 1))
        last = nn.Conv2d(32, 4, 1)
        nn.init.constant_(last.bias[:2], _RARE_LOGIT)  # type: ignore[index]
        self.head = nn.Sequential(_Residual(_FINE), _conv(_FINE, 32), nn.ReLU(), last)

    def forward(self, images: Tensor) -> Answer:
        """Look at levelled images.

        Args:
            images: `[b, h, w]`, particles bright and 20 px wide, unit noise; any size.
        """
        height, width = images.shape[-2:]
        missing = [-side % _COARSEST_PX for side in (width, height)]
        padded = nn.functional.pad(images[:, None], (0, missing[0], 0, missing[1]))
        fine = self.stem(padded.to(memory_format=torch.channels_last))
        middle = self.middle(fine)
        middle = middle + _doubled(self.coarse(middle))
        fine = fine + _doubled(self.rejoin(middle))
        cells = self.head(fine)[:, :, : -(-height // CELL_PX), : -(-width // CELL_PX)].float()
        return Answer(cells[:, 0], cells[:, 1], cells[:, 2:])


def _doubled(cells: Tensor) -> Tensor:
    return nn.functional.interpolate(cells, scale_factor=2.0, mode="bilinear", align_corners=False)


def cell_positions_px(n_rows: int, n_columns: int, device: torch.device) -> Tensor:
    """Middle of each cell in pixels of the levelled image, x and y: `[2, n_rows, n_columns]`."""
    middle = 0.5 * (CELL_PX - 1)
    y = torch.arange(n_rows, device=device, dtype=torch.float32) * CELL_PX + middle
    x = torch.arange(n_columns, device=device, dtype=torch.float32) * CELL_PX + middle
    return torch.stack([x[None, :].expand(n_rows, -1), y[:, None].expand(-1, n_columns)])
