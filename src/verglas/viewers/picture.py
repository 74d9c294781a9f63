"""Hold one picture of a page: its file, its text for those who cannot see it, its caption."""

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Missing", "Picture", "Width", "from_image"]

Width = Literal["third", "half", "whole"]


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
        jpeg: shown on the page in place of the file where it is there; noise packs badly.
        width: share of the page.
    """

    name: str
    png: bytes
    alt: str
    caption: str = ""
    width_px: int = 480
    svg: str = ""
    width: Width = "half"
    jpeg: bytes = b""

    @property
    def data_uri(self) -> str:
        """The picture as text that a page can hold."""
        kind, content = ("jpeg", self.jpeg) if self.jpeg else ("png", self.png)
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
    scale: int = 2,
    is_noisy: bool = False,
) -> Picture:
    """Turn a drawing into a picture.

    Args:
        image: with `scale` pixels for each pixel of the page.
        name: of the file.
        alt: what it shows.
        caption: what to look at.
        width: share of the page.
        scale: pixels of the file for each pixel of the page.
        is_noisy: pack it with losses on the page; not for transparent drawings.
    """
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", compress_level=6)
    if is_noisy:
        image.convert("RGB").save(jpeg, "JPEG", quality=82)
    return Picture(
        name=name,
        png=png.getvalue(),
        alt=alt,
        caption=caption,
        width_px=image.width // scale,
        width=width,
        jpeg=jpeg.getvalue(),
    )
