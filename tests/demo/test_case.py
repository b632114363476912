"""A case in one file: what is written is read, and a wrong file is refused with one line."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from lvlm_demo import case, present
from lvlm_demo.engine import SIDE, Asked, Marks, Told, objects_of, open_photo
from PIL import Image

import lvlm_fix as lf
from lvlm_fix.errors import InputError

MARKS = {signal: [("weakest", f"{signal}: <1>"), ("", "no object")] for signal in present.SIGNS}


def written(photos: list[Path], **changed: Any) -> str:
    """A file with a text on each side; `changed` replaces fields of its JSON (`a__b`: b in a)."""
    told = [Told("<b>A</b> cat.", 1.5, "a note", frozenset({1}), Marks(MARKS)), Told("A dog.", 2.0)]
    methods, against = (lf.PAI(strength=0.25), lf.VHR()), (lf.VHR(),)
    asked = Asked(photos[1], "What </script> is it?", "me/model", methods, 40, against)
    page = case.page(case.of(asked, open_photo(photos[1]), told))
    begin = page.index(case.OPEN) + len(case.OPEN)
    end = page.index(case.CLOSE, begin)
    if not changed:
        return page
    data = json.loads(page[begin:end])
    for name, value in changed.items():
        *path, last = name.split("__")
        place = data
        for part in path:
            place = place[part]
        place[last] = value
    return page[:begin] + json.dumps(data).replace("<", "\\u003c") + page[end:]


def test_what_is_written_is_read(photos: list[Path]) -> None:
    found = case.read(written(photos).encode())
    assert (found.prompt, found.model, found.tokens) == ("What </script> is it?", "me/model", 40)
    assert found.acting(found.left) == (lf.VHR(),)
    assert found.acting(found.right) == (lf.PAI(strength=0.25), lf.VHR())
    left = found.left.told()
    assert (left.text, left.seconds, left.note, left.invented) == (
        "<b>A</b> cat.", 1.5, "a note", {1},
    )  # fmt: skip
    assert left.grounding == Marks(MARKS)
    assert found.right.told() == Told("A dog.", 2.0)
    photo = Image.open(io.BytesIO(found.picture())).convert("RGB")
    assert photo.tobytes() == open_photo(photos[1]).tobytes()
    assert objects_of(photo) == {"cat"}  # a sample is still known


def test_the_file_is_a_page_that_needs_nothing_else(photos: list[Path]) -> None:
    page = written(photos)
    assert page.count("<script") == 1 and "default-src 'none'" in page
    assert "b&gt;A&lt;/b" in page and '<s title="not in the photo">cat</s>' in page
    assert "<button" not in page and not re.search(r"""(href|url\(|@import|src="(?!data:))""", page)
    assert "pai + vhr</h2>" in page and "strength=0.25" in page


def test_camera_data_is_not_in_the_file(photos: list[Path], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.jpg", exif=exif)
    asked = Asked(tmp_path / "mine.jpg", "Hi")
    made = case.of(asked, open_photo(asked.photo), [Told("A", 1.0), Told("B", 1.0)])
    assert b"where I live" not in made.picture()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "lvlm-fix case 9"}, "damaged: format"),
        ({"tokens": 10**6}, "damaged: tokens"),
        ({"prompt": "word " * 1000}, "damaged: prompt"),
        ({"left__seconds": float("nan")}, "damaged"),
        ({"left__methods": ["../../etc/passwd"]}, "no method '../../etc/passwd' here"),
        ({"left__methods": ["vhr"] * 4}, "damaged: left.methods"),
        ({"left__invented": [2]}, "invented: the text has 2 words"),
        ({"left__marks__t_vhd": [["", "one"]]}, "must have 2 words each"),
        ({"left__marks__t_vhd": [["w' onclick=", "a"], ["", "b"]]}, "damaged: left.marks.t_vhd"),
        ({"settings__vhr": {"table": "/etc/passwd"}}, "vhr has no setting 'table' on this page"),
        ({"settings__pai": {"strength": -5.0}}, "strength must be >="),
        ({"more": 1}, "damaged: more"),
    ],
)
def test_a_wrong_field_is_named(photos: list[Path], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        case.read(written(photos, **changed).encode())


def test_a_file_that_is_no_case_is_refused(photos: list[Path]) -> None:
    page = written(photos)
    huge = io.BytesIO()
    Image.new("1", (SIDE + 1, 1)).save(huge, "PNG")
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 8)).save(jpeg, "JPEG")
    found = case.read(page.encode()).photo
    for data, message in (
        (b"", "is not a case"),
        (b"\xff\xfe\x00", "is not a case"),
        (page[: len(page) - 400].encode(), "is not a case"),
        ((case.OPEN + "{" + case.CLOSE).encode(), "damaged"),
        (b"x" * (case.BYTES + 1), "larger than 20 MB"),
        (page.replace(found, "%%").encode(), "base64"),
        (page.replace(found, base64.b64encode(jpeg.getvalue()).decode()).encode(), "none of PNG"),
        (page.replace(found, base64.b64encode(huge.getvalue()).decode()).encode(), "longer side"),
        (page.replace(found, found[: len(found) // 8 * 4]).encode(), "cannot be read as an image"),
    ):
        with pytest.raises(InputError, match=message):
            case.read(data)


def test_what_has_a_control_can_be_set_back() -> None:
    for kind in lf.METHODS.values():
        names = present.adjustable(kind)
        assert "table" not in names and "layers" not in names
        made = kind(**{name: getattr(kind(), name) for name in names})
        assert made == kind()
