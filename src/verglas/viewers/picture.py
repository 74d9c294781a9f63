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
        width: share of the page.
    """

    name: str
    png: bytes
    alt: str
    caption: str = ""
    width_px: int = 480
    svg: str = ""
    width: Width = "half"

    @property
    def mime(self) -> str:
        """Media type, by the first bytes."""
        return "image/jpeg" if self.png.startswith(b"\xff\xd8") else "image/png"

    @property
    def file_name(self) -> str:
        """Name with the suffix of the format."""
        return f"{self.name}.{'jpg' if self.mime == 'image/jpeg' else 'png'}"

    @property
    def data_uri(self) -> str:
        """The file as text that a page can hold."""
        return f"data:{self.mime};base64,{base64.b64encode(self.png).decode('ascii')}"


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
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return Picture(
        name, buffer.getvalue(), alt, caption, width_px=image.width // scale, width=width
    )
