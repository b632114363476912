"""Files are written whole or not at all, and a place that cannot be written is one clear line."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lvlm_fix.errors import DataError
from lvlm_fix.files import can_be_written, write_whole, written_whole


def test_a_file_is_replaced_whole_and_a_link_is_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    link.symlink_to(real)
    with written_whole(link) as part:
        part.write_text("new")
        assert real.read_text() == "old"
    assert link.is_symlink() and real.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [link, real]


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_whole(path) as part:
        part.write_text("ne")
        raise RuntimeError
    with pytest.raises(DataError, match=r"cannot write .*No space.*as it was"), written_whole(path):
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    path, got = tmp_path / "pipe", list[str]()
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_text()), daemon=True)
    reader.start()
    write_whole(path, "text")
    reader.join(30)
    assert got == ["text"] and path.is_fifo()


WRITERS = {
    "words": "eval score chair --captions {c} --truth {t} --words {out}",
    "questions": "eval questions --truth {t} --split popular --out {out}",
    "lmms": "eval lmms {out} --data {p} --truth {t}",
    "run": "eval run chair --data {p} --truth {t} --method none --out {out}",
    "tune": "eval tune --data {p} --truth {t} --method vhr --captions 8 --out {out}",
    "caption": "caption {p}/1.jpg --method vhr --max-new-tokens 2 --show {out}",
    "heads": "heads score --images {p} --metric vhd --out {out}",
    "objects": "ask objects {c} --out {out}",
}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_cannot_be_written_is_one_line(kind: str, lvlm, tmp_path: Path) -> None:
    photos, captions = tmp_path / "photos", tmp_path / "captions.jsonl"
    photos.mkdir()
    objects = {}
    for key in (1, 2, 3, 4):
        Image.new("RGB", (8, 8), (key, 0, 0)).save(photos / f"{key}.jpg")
        objects[key] = ["dog", "person"]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(objects))
    captions.write_text(
        json.dumps({"annotations": [{"image_id": 1, "caption": "A dog and a person."}]})
    )
    where = tmp_path / "a file"
    where.write_text("")
    words = WRITERS[kind].split()
    filled = [word.format(c=captions, t=truth, p=photos, out=where / "out") for word in words]
    code, _, err = lvlm(*filled)
    assert code == 2 and "Traceback" not in err
    assert err.splitlines()[-1].startswith("lvlm-fix: cannot "), err
    assert str(where) in err


def test_ctrl_c_is_one_line_while_a_command_is_loaded(
    lvlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.metadata.EntryPoint.load", stop)
    code, _, err = lvlm("eval", "check", "captions.jsonl")
    assert (code, err) == (130, "lvlm-fix: stopped\n")


@pytest.mark.parametrize("out", [".", "file/heads.json"])
def test_what_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, lvlm: Any, out: str
) -> None:
    (tmp_path / "file").write_text("")
    command = ["heads", "score", "--images", tmp_path / "photos-that-are-not-there"]
    code, printed, errors = lvlm(*command, "--out", tmp_path / out)
    assert code == 2 and not printed
    assert errors.startswith("lvlm-fix: cannot write") and len(errors.splitlines()) == 1


def test_the_folder_of_what_is_written_is_made(tmp_path: Path) -> None:
    assert can_be_written(tmp_path / "new" / "deep" / "heads.json").parent.is_dir()
