"""COCO folders, objects files, photos, subsets."""

import json
import os
from pathlib import Path

import pytest
from lvlm_eval.coco import annotated_truth, choose, photo_id, photos_in, read_ids, read_truth

from lvlm_fix import DataError, SettingError


def folder(tmp_path: Path) -> Path:
    (tmp_path / "annotations").mkdir()
    images = [{"id": key, "file_name": f"{key:012d}.jpg"} for key in (1, 2, 3)]
    categories = [{"id": 18, "name": "dog"}, {"id": 6, "name": "bus"}]
    boxes = [
        {"id": 1, "image_id": 1, "category_id": 18},
        {"id": 2, "image_id": 2, "category_id": 6},
    ]
    texts = [
        {"id": 1, "image_id": 1, "caption": "A man and his puppy."},
        {"id": 2, "image_id": 2, "caption": "Tied up."},
    ]
    write = (tmp_path / "annotations").joinpath
    write("instances_val2014.json").write_text(
        json.dumps({"images": images, "categories": categories, "annotations": boxes})
    )
    write("captions_val2014.json").write_text(json.dumps({"images": images, "annotations": texts}))
    return tmp_path


def test_truth_is_instances_and_reference_captions_and_is_kept_until_they_change(
    tmp_path: Path,
) -> None:
    data, cache = folder(tmp_path), tmp_path / "cache"
    expected = {1: {"dog", "person"}, 2: {"bus", "tie"}, 3: set()}
    assert annotated_truth(data, cache=cache) == expected
    assert annotated_truth(data, "strict", cache=cache)[2] == {"bus"}
    kept = next(path for path in cache.iterdir() if "tie" in path.read_text())
    kept.write_text(kept.read_text().replace("tie", "cat"))
    assert annotated_truth(data, cache=cache)[2] == {"bus", "cat"}  # from the cache
    path = data / "annotations" / "captions_val2014.json"
    path.write_text(path.read_text().replace("Tied up", "A sofa."))
    os.utime(path, ns=(1, 1))
    assert annotated_truth(data, cache=cache)[2] == {"bus", "couch"}
    with pytest.raises(DataError, match="instances"):
        annotated_truth(tmp_path / "cache")


def test_objects_files(tmp_path: Path) -> None:
    path = tmp_path / "objects.json"
    path.write_text('{"36": ["dog"], "9": []}')
    assert read_truth(path) == {36: {"dog"}, 9: set()}
    for text, message in {
        '{"36": ["dgo"]}': "'dgo'",
        "{}": "no objects",
        '{"x": []}': "'x'",
        "{": "line 1",
    }.items():
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_truth(path)


def test_photos_are_found_by_either_name(tmp_path: Path) -> None:
    for name in ("000000000036.jpg", "COCO_val2014_000000000064.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert {key: path.name[:4] for key, path in photos_in(tmp_path).items()} == {
        36: "0000",
        64: "COCO",
    }
    (tmp_path / "COCO_val2014_000000000036.jpg").touch()
    with pytest.raises(DataError, match="two photos with id 36"):
        photos_in(tmp_path)
    with pytest.raises(DataError, match="no image id"):
        photo_id("cat.jpg")


def test_subsets_depend_on_the_seed_and_not_on_the_order() -> None:
    assert choose([3, 1, 2], None, 0) == [1, 2, 3]
    assert (
        choose(range(100), 5, 1) == choose(reversed(range(100)), 5, 1) != choose(range(100), 5, 2)
    )
    with pytest.raises(SettingError):
        choose([1], 0, 0)


def test_named_lists_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    path.write_text('{"test": [3, 1], "twice": [1, 1]}')
    assert read_ids(f"{path}:test") == [1, 3]
    for spec, message in {
        f"{path}:no": "no list 'no'",
        f"{path}:twice": "twice",
        str(path): "not a list",
    }.items():
        with pytest.raises(DataError, match=message):
            read_ids(spec)
