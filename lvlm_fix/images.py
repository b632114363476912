"""The one door for pictures: every photo becomes an upright RGB image, or one clear error."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from lvlm_fix.errors import ImageError

__all__ = ["open_image", "sample_photos", "upright"]


def sample_photos() -> list[Path]:
    """The files of the photos that come with the package."""
    return sorted(Path(str(files("lvlm_fix") / "photos")).glob("*.jpg"))


def open_image(path: str | Path) -> Image.Image:
    """Read a photo as RGB, turned upright by its EXIF data. Raises `ImageError`."""
    if not Path(path).is_file():
        raise ImageError(f"there is no image file {str(path)!r}")
    try:
        with Image.open(path) as image:
            return upright(image)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"cannot read {str(path)!r} as an image: {error}") from error


def upright(image: Image.Image) -> Image.Image:
    """The first frame, turned by EXIF, transparency on white, as RGB."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
