"""Pictures of newer kinds: read, or one error that says what is missing."""

from __future__ import annotations

import contextlib
import io
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from lvlm_eval.coco import photos_in
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

import lvlm_fix as lf
from lvlm_fix.images import BRANDS

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def media(brand: bytes) -> bytes:
    """How a file of this brand begins."""
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + bytes(64)


@needs_avif
def test_avif_is_read_upright_and_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (40, 20), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    path = tmp_path / "000000000007.avif"
    image.save(path, exif=exif, quality=100)
    found = lf.open_image(path)
    assert (found.mode, found.size) == ("RGB", (20, 40))
    top, bottom = found.getpixel((10, 5)), found.getpixel((10, 35))
    assert isinstance(top, tuple) and isinstance(bottom, tuple)
    assert top[0] > 230 and top[1] < 30 and min(bottom) > 245
    assert lf.open_image(path.read_bytes()).tobytes() == found.tobytes()
    assert photos_in(tmp_path) == {7: path}
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(lf.ImageError, match=r"000000000007\.avif"):
        lf.open_image(path)


@pytest.mark.parametrize("brand", sorted(BRANDS))
def test_a_kind_that_pillow_does_not_read_is_named_with_what_helps(
    brand: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.init()
    monkeypatch.setattr(
        Image, "OPEN", {k: v for k, v in Image.OPEN.items() if k not in ("AVIF", "HEIF", "HEIC")}
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "photo.jpg"  # whatever it is called
    path.write_bytes(media(brand))
    for source in (path, path.read_bytes()):
        with pytest.raises(lf.ImageError, match=f"kind {BRANDS[brand]}, which this Pillow") as why:
            lf.open_image(source)
        assert ("pillow-heif" in str(why.value)) == (BRANDS[brand] == "HEIC")


def test_heic_is_read_where_its_plug_in_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Plugin(types.ModuleType):
        def register_heif_opener(self) -> None:
            calls.append("registered")

    monkeypatch.setitem(sys.modules, "pillow_heif", Plugin("pillow_heif"))
    path = tmp_path / "000000000003.heic"
    path.write_bytes(media(b"heic"))
    with pytest.raises(lf.ImageError, match="no image"):  # for this plug-in registers nothing
        lf.open_image(path)
    assert calls == ["registered"]


def png(mode: str, size: tuple[int, int], color: Any, **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, "PNG", **more)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "color", "seen"),
    [
        ("1", 1, (255, 255, 255)), ("L", 77, (77, 77, 77)), ("LA", (0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 255, 0), (255, 255, 255)), ("RGBA", (0, 0, 255, 255), (0, 0, 255)),
        ("I;16", 65535, (255, 255, 255)), ("I;16", 32768, (128, 128, 128)),
        ("I;16", 200, (200, 200, 200)),
    ],
)  # fmt: skip
def test_every_depth_is_seen_as_it_looks(mode: str, color: Any, seen: tuple[int, ...]) -> None:
    assert lf.open_image(png(mode, (3, 2), color)).getpixel((1, 1)) == seen


def test_pictures_of_odd_kinds_and_sizes(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "clear.png", transparency=1)
    palette.save(tmp_path / "red.png")
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(tmp_path / "ink.jpg")
    Image.new("F", (2, 2), 0.5).save(tmp_path / "half.tiff")
    Image.new("F", (2, 2), -1.0).save(tmp_path / "below.tiff")
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    seen = {path.name: path for path in tmp_path.iterdir()}
    assert lf.open_image(seen["clear.png"]).getpixel((0, 0)) == (255, 255, 255)
    assert lf.open_image(seen["red.png"]).getpixel((0, 0)) == (255, 0, 0)
    assert max(lf.open_image(seen["ink.jpg"]).getpixel((4, 4))) < 40
    assert lf.open_image(seen["half.tiff"]).getpixel((0, 0)) == (128, 128, 128)
    assert lf.open_image(seen["moving.gif"]).getpixel((1, 1)) == (255, 0, 0)
    assert lf.open_image(png("RGB", (1, 1), "red")).size == (1, 1)
    assert lf.open_image(png("RGB", (10_000, 1), "red")).size == (10_000, 1)
    with pytest.raises(lf.ImageError, match="values from -1 to -1"):
        lf.open_image(seen["below.tiff"])


def test_what_cannot_be_read_or_is_too_large_is_one_error() -> None:
    whole = png("RGB", (64, 64), "red")
    note = PngInfo()
    note.add_text("parameters", "x" * 3_000_000, zip=True)
    for data, said in (
        (whole[:60], "cannot be read"), (b"", "no image"), (b"%PDF-1.4", "no image"),
        (png("1", (9000, 9000), 1), "9000 x 9000 pixels; at most 64,000,000"),
    ):  # fmt: skip
        with pytest.raises(lf.ImageError, match=said):
            lf.open_image(data)
    with contextlib.suppress(lf.ImageError):  # read or refused, as Pillow has it: no traceback
        lf.open_image(png("RGB", (4, 4), "red", pnginfo=note))
