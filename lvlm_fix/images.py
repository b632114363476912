"""The one door for pictures: every photo becomes an upright RGB image, or one clear error."""

from __future__ import annotations

import io
import warnings
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lvlm_fix.errors import ImageError

__all__ = ["PIXELS", "open_image", "sample_photos", "upright"]

PIXELS = 64_000_000  # of one picture, before it is decoded


def sample_photos() -> list[Path]:
    """The files of the photos that come with the package."""
    return sorted(Path(str(files("lvlm_fix") / "photos")).glob("*.jpg"))


def open_image(
    source: str | Path | bytes, *, pixels: int = PIXELS, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """Read a photo, a file or its bytes, as RGB, turned upright by its EXIF data.

    Raises `ImageError` where it cannot be read, is of none of the `formats` (None: all that Pillow
    reads), or has more than `pixels`: these are not decoded.
    """
    if isinstance(source, bytes):
        name, opened = "a picture", io.BytesIO(source)
    elif not Path(source).is_file():
        raise ImageError(f"there is no image file {str(source)!r}")
    else:
        name, opened = repr(str(source)), Path(source)
    try:
        with warnings.catch_warnings():  # Pillow warns of what is refused here
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(opened, formats=formats)
        with image:
            width, height = image.size
            if width * height > pixels:
                raise ImageError(
                    f"{name} has {width} x {height} pixels; at most {pixels:,} are taken"
                )
            return upright(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        kinds = "no image" if formats is None else f"none of {', '.join(formats)}"
        raise ImageError(f"{name} cannot be read as an image: it is {kinds}") from error
    except Exception as error:  # decoders raise what they like on damaged bytes
        raise ImageError(f"{name} cannot be read as an image: {error}") from error


def upright(image: Image.Image) -> Image.Image:
    """The first frame, turned by EXIF, transparency on white, as RGB of 8 bits.

    Raises `ImageError` for values of which it is not clear what white is.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(np.asarray(image, dtype=np.float64))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> Image.Image:
    """Grey of more than 8 bits, or of fractions: white is 1, 255 or 65,535, the least that fits."""
    white = next((white for white in (1.0, 255.0, 65535.0) if values.max() <= white), None)
    if white is None or not np.isfinite(values).all() or values.min() < 0:
        raise ImageError(
            f"a picture with values from {values.min():g} to {values.max():g}: save it with 8 or "
            "16 bits"
        )
    return Image.fromarray(np.round(values * (255 / white)).astype(np.uint8))
