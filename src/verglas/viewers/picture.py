"""Hold one picture of a page: its file, its text for those who cannot see it, its caption."""

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

_QUALITY = 82

__all__ = ["Missing", "Picture", "Width", "from_image"]

Width = Literal["third", "half", "two-thirds", "whole"]


@dataclass(frozen=True)
class Picture:
    """A rendered picture.

    Attributes:
        name: of its file, without folder and suffix; unique on a page once prefixed.
        png: the file.
        alt: what it shows, in a sentence, for those who cannot see it.
        caption: what to look at; plain text.
        width_px: how wide it is shown at most; files hold twice as many pixels.
        svg: drawn in place of the file where it is there, in the colours of the page.
        webp: shown on the page in place of the file where it is there; it is much smaller.
        width: share of the page.
    """

    name: str
    png: bytes
    alt: str
    caption: str = ""
    width_px: int = 480
    svg: str = ""
    width: Width = "half"
    webp: bytes = b""

    @property
    def data_uri(self) -> str:
        """The picture as text that a page can hold."""
        kind, content = ("webp", self.webp) if self.webp else ("png", self.png)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


@dataclass(frozen=True)
class Missing:
    """A picture that could not be made, and why."""

    what: str
    reason: str


def from_image(
    image: "Image",
    name: str,
    *,
    alt: str,
    caption: str = "",
    width: Width = "half",
    scale: float = 2.0,
) -> Picture:
    """Turn a drawing into a picture.

    Args:
        image: with `scale` pixels for each pixel of the page.
        name: of the file.
        alt: what it shows.
        caption: what to look at.
        width: share of the page.
        scale: pixels of the file for each pixel of the page.
    """
    from PIL import features

    png, webp = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", compress_level=2)
    if features.check("webp"):
        image.save(webp, "WEBP", quality=_QUALITY, method=1)
    return Picture(
        name=name,
        png=png.getvalue(),
        alt=alt,
        caption=caption,
        width_px=round(image.width / scale),
        width=width,
        webp=webp.getvalue(),
    )
