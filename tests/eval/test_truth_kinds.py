"""Truth as other data sets write it is read, or refused with file, place and what was expected."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from lvlm_eval.check import check
from lvlm_eval.cli import app
from lvlm_eval.coco import read_truth, truth_of
from lvlm_eval.names import node_names, read_synonyms
from lvlm_eval.other_truth import read_voc, voc_files
from lvlm_eval.run import draw
from PIL import Image
from typer.testing import CliRunner

from lvlm_fix import DataError

OWN = {
    "images": [{"id": 1}, {"id": 2}],
    "categories": [{"id": n, "name": name} for n, name in enumerate(["Welpe", "Ampel", "Zug"], 1)],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1},
        {"id": 2, "image_id": 1, "category_id": 3},
        {"id": 3, "image_id": 2, "category_id": 2},
    ],
}  # fmt: skip


def voc(folder: Path, name: str, *objects: str) -> Path:
    path = folder / "Annotations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    inner = "\n".join(f"<object><name>{one}</name><part/></object>" for one in objects)
    path.write_text(f"<annotation>\n<filename>x.jpg</filename>\n{inner}\n</annotation>\n")
    return path


def test_a_voc_folder_is_truth_and_its_photos_are_found(tmp_path: Path) -> None:
    voc(tmp_path, "2007_000027.xml", "person", "tvmonitor", "person")
    voc(tmp_path, "000005.xml", "diningtable")
    voc(tmp_path, "000006.xml")
    (tmp_path / "Annotations" / "._000005.xml").write_bytes(b"\0")  # what one system leaves
    expected = {27: {"person", "tv"}, 5: {"dining table"}, 6: set()}
    assert truth_of(tmp_path, None) == expected
    assert [(row["kind"], row["rows"]) for row in check([tmp_path])] == [("truth", 3)]
    (tmp_path / "JPEGImages").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "JPEGImages" / "2007_000027.jpg")
    samples, photos, known = draw("chair", tmp_path, None, None, [], None, None, None, 0)
    assert samples == {"": [{"image_id": 27}]} and known == expected
    assert photos[27].name == "2007_000027.jpg"


def test_a_damaged_voc_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = voc(tmp_path, "000005.xml", "dog")
    for text, message in {
        "<annotation>\n<object>\n<name>dog</object>\n</annotation>": "line 3: not XML",
        "": "line 1: not XML",
        "<svg/>": "begins with <svg>; expected VOC's <annotation>",
        "<annotation><object/></annotation>": "object 1 has no <name>",
        "<annotation><object><name>dgo</name></object></annotation>": "'dgo' is no object",
    }.items():
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            truth_of(tmp_path, None)
    voc(tmp_path, "000005.xml", "dog")
    voc(tmp_path, "2008_000005.xml", "dog")
    with pytest.raises(DataError, match="both for photo 5"):
        truth_of(tmp_path, None)
    voc(tmp_path, "cat.xml", "dog")
    with pytest.raises(DataError, match=r"cat\.xml.* has no number"):
        read_voc([tmp_path / "Annotations" / "cat.xml"])
    assert voc_files(tmp_path / "nothing") == []


def test_tables_of_photo_and_object_are_truth(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        "ImageID,Source,LabelName,Confidence\n"
        "36,verification,Mobile phone,1\n36,verification,Dog,0\n9,machine,Dog,1\n9,machine,Man,1\n"
        "10,verification,Dog,0\n"
    )
    expected = {36: {"cell phone"}, 9: {"dog", "person"}, 10: set()}
    assert read_truth(path) == expected
    assert [(row["kind"], row["rows"]) for row in check([path])] == [("truth", 3)]
    with gzip.open(tmp_path / "labels.csv.gz", "wt") as file:
        file.write(path.read_text())
    assert read_truth(tmp_path / "labels.csv.gz") == expected
    lines = tmp_path / "objects.jsonl"
    lines.write_text('{"image": "a/000000000036.jpg", "objects": ["dog", "tv"]}\n')
    assert read_truth(lines) == {36: {"dog", "tv"}}
    lines.write_text('{"image_id": 1, "objects": []}\n{"image_id": 1, "label": "dog"}\n')
    assert read_truth(lines) == {1: {"dog"}}
    for text, message in {
        "ImageID,LabelName\n000a1249af2bc5f0,Dog\n": "record 1: photo '000a1249af2bc5f0' has no",
        "ImageID,LabelName\n1,Dog\n2,/m/0199g\n": "'/m/0199g' is no object of CHAIR",
        "ImageID,Thing\n1,Dog\n": "record 1 has the keys 'ImageID', 'Thing'; expected",
        "1,Dog\n2,Cat\n": "record 1",
    }.items():  # fmt: skip
        path.write_text(text)
        with pytest.raises(DataError, match=message) as refused:
            read_truth(path)
        assert "labels.csv" in str(refused.value)


def test_own_categories_are_read_by_a_file_of_synonyms(tmp_path: Path) -> None:
    own, synonyms = tmp_path / "own.json", tmp_path / "synonyms.json"
    own.write_text(json.dumps(OWN))
    with pytest.raises(DataError, match=r"own\.json: 'Ampel', 'Welpe', 'Zug' are no object"):
        read_truth(own)
    (row,) = check([own])
    assert "--synonyms" in row["error"]
    synonyms.write_text('{"Welpe": "dog", "Ampel": "traffic light", "Zug": null}')
    assert truth_of(own, own, synonyms=synonyms) == {1: {"dog"}, 2: {"traffic light"}}
    synonyms.write_text('{"Welpe": "dog", "*": null}')
    assert truth_of(own, own, synonyms=synonyms) == {1: {"dog"}, 2: set()}
    plain = tmp_path / "objects.json"
    plain.write_text('{"1": ["Welpe", "cat"]}')
    assert truth_of(plain, plain, synonyms=synonyms) == {1: {"dog", "cat"}}
    voc(tmp_path, "000001.xml", "Welpe", "Zug")
    assert truth_of(tmp_path, None, synonyms=synonyms) == {1: {"dog"}}
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"image_id": 1, "caption": "a dog and a cat"}\n')
    command = ["score", "chair", "--captions", captions, "--truth", plain, "--synonyms", synonyms]
    result = CliRunner().invoke(app, [*map(str, command), "--json"])
    assert json.loads(result.stdout)["chair_i"] == 0
    for text, message in {
        '{"Welpe": "puppies"}': "'Welpe' is given as 'puppies'; expected an object of CHAIR",
        '{"Welpe": ["dog"]}': "'Welpe' is given as",
        "[]": "no JSON object",
    }.items():
        synonyms.write_text(text)
        with pytest.raises(DataError, match=message):
            read_synonyms(synonyms)


def test_a_name_that_only_holds_an_object_is_not_that_object() -> None:
    assert node_names(["Dining_Table", "mobile phone", "Man"], "x") == {
        "Dining_Table": "dining table", "mobile phone": "cell phone", "Man": "person",
    }  # fmt: skip
    for name in ("dog_collar", "bird feeder", "horse_buggy", "cat and dog", "mouse_(animal)", ""):
        with pytest.raises(DataError, match="no object of CHAIR"):
            node_names([name], "x")
