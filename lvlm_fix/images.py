"""Read pictures: every photo becomes an upright RGB image, or one clear error."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lvlm_fix.errors import ImageError

__all__ = ["NUMBERED", "PIXELS", "SUFFIXES", "open_image", "sample_photos", "upright"]

PIXELS = 64_000_000  # of one picture, before it is decoded
SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif",
)  # fmt: skip
"""What files of pictures are called."""
NUMBERED = re.compile(rf"(?:.*_)?0*(\d+)(?:{'|'.join(map(re.escape, SUFFIXES))})", re.IGNORECASE)
"""The name of a photo that ends with its id: 000000000036.jpg, COCO_val2014_000000000036.jpg."""
BRANDS = {  # of files that begin as ISO's media do: what they are
    b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC",
    b"heim": "HEIC", b"heis": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC",
}  # fmt: skip


def sample_photos() -> list[Path]:
    """The files of the photos that come with the package."""
    return sorted(Path(str(files("lvlm_fix") / "photos")).glob("*.jpg"))


def open_image(
    source: str | Path | bytes, *, pixels: int = PIXELS, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """Read a photo (a file or its bytes) as RGB, turned upright by its EXIF data.

    HEIC is read if `pillow_heif` is installed.

    Raises `ImageError` if the photo cannot be read, is in none of the `formats` (None: all that
    Pillow reads), or has more than `pixels`. Too large a photo is not decoded.
    """
    if isinstance(source, bytes):
        name, opened = "a picture", io.BytesIO(source)
    elif not Path(source).is_file():
        raise ImageError(f"there is no image file {str(source)!r}")
    else:
        name, opened = repr(str(source)), Path(source)
    if formats is None and (kind := _media(opened)) is not None:
        _check_reads(kind, name)
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
        raise ImageError(f"{name} cannot be read as an image: it contains {kinds}") from error
    except Exception as error:  # decoders raise what they like on damaged bytes
        raise ImageError(f"{name} cannot be read as an image: {error}") from error


def _media(opened: io.BytesIO | Path) -> str | None:
    """AVIF or HEIC, by the first bytes; None for all else."""
    try:
        head = opened.getvalue()[:12] if isinstance(opened, io.BytesIO) else _head(opened)
    except OSError:  # the reader says why
        return None
    return BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(12)


def _check_reads(kind: str, name: str) -> None:
    """Raise `ImageError` where Pillow does not read a kind, and nothing that is installed helps."""
    Image.init()
    if kind in Image.OPEN or (kind == "HEIC" and "HEIF" in Image.OPEN):
        return
    if kind == "HEIC":
        with contextlib.suppress(ImportError):
            return import_module("pillow_heif").register_heif_opener()
    more = "pip install pillow-heif" if kind == "HEIC" else "a Pillow with AVIF (11.3 or later)"
    raise ImageError(
        f"{name} is a picture of kind {kind}, which this Pillow does not read: {more}, or save it "
        "as JPEG or PNG"
    )


def upright(image: Image.Image) -> Image.Image:
    """The first frame as RGB of 8 bits, turned by EXIF; transparency becomes white.

    Raises `ImageError` if the values leave it unclear what white is.
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
