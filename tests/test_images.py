"""Pictures of newer kinds: read, or one error that says what is missing."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from lvlm_eval.coco import photos_in
from PIL import Image, features

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
