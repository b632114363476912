"""Every documented command runs on `tiny` and a few small files, or has a reason why not here."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from test_docs import PAGES, ROOMS, commands
from typer.testing import CliRunner

from lvlm_fix.tools.cli import app

NOT_HERE = {
    r"llava|cuda": "needs weights that are not in the package",
    r"^(serve|demo)": "runs until it is stopped: test_serve.py and demo/test_page.py start it",
    r"nullu": "needs pairs of captions: test_nullu.py makes some",
    r"^bench": "takes minutes: test_bench.py runs it small",
    r"^eval (run|compare|report|table|lmms)": "needs COCO and minutes: eval/test_commands.py",
    r"^--install-completion": "changes the shell of whoever runs it",
    r"\$|shared/|runs/": "needs COCO, or what a long run left",
}
OBJECTS = ["dog", "cat", "person", "cup", "spoon", "chair", "car", "bed", "bus", "cow"]


def documented() -> list[list[str]]:
    """All commands, once each; head tables first, as other commands read them."""
    found = [words for page in PAGES for words in commands(page.read_text())]
    once = [list(words) for words in dict.fromkeys(map(tuple, found))]
    return sorted(once, key=lambda words: words[0] != "heads")


def reason(words: list[str]) -> str | None:
    """Why a command is not run here; None where it is."""
    line = " ".join(words)
    return next((why for pattern, why in NOT_HERE.items() if re.search(pattern, line)), None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: list[Path]) -> Path:
    """The files that the pages speak of, in the current folder."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "lvlm_fix" / "photos").mkdir(parents=True)
    for path in photos:
        shutil.copy(path, tmp_path / "lvlm_fix" / "photos")
    shutil.copy(photos[1], tmp_path / "photos")
    shutil.copy(photos[1], tmp_path / "photo.jpg")
    truth = {str(number): OBJECTS[number : number + 3] for number in range(1, 7)}
    (tmp_path / "objects.json").write_text(json.dumps(truth))
    labelled = {"image": 1, "text": "a cat on a bed", "grounded": ["cat"], "invented": ["bed"]}
    (tmp_path / "words.jsonl").write_text(json.dumps(labelled) + "\n")
    shutil.copy(photos[1], tmp_path / "photos" / "1.jpg")
    (tmp_path / "captions.jsonl").write_text('{"image_id": 1, "caption": "A cat and a dog."}\n')
    question = {"question_id": 1, "image": "1.jpg", "text": "Is there a cat in the image?"}
    asked = json.dumps(question | {"label": "yes"})
    (tmp_path / "coco_pope_adversarial.json").write_text(asked + "\n")
    (tmp_path / "answers.jsonl").write_text('{"question_id": 1, "text": "Yes."}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_documented_commands_run(folder: Path) -> None:
    done = 0
    for words in documented():
        if reason(words):
            continue
        if words[0] == "export" and "--check" not in words:
            shutil.rmtree("exported", ignore_errors=True)
        room = ROOMS.get(words[0])
        result = CliRunner().invoke(room or app, words[1:] if room else words)
        assert result.exit_code == 0, f"{words}: {result.output}\n{result.exception!r}"
        done += 1
    assert done >= 8
    assert (folder / "heads.json").is_file() and (folder / "popular.jsonl").is_file()


def test_no_reason_is_left_without_a_command() -> None:
    lines = [" ".join(words) for words in documented()]
    unused = [pattern for pattern in NOT_HERE if not any(re.search(pattern, it) for it in lines)]
    assert not unused
