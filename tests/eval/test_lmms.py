"""The lmms-eval plug-in: its entry point, its tasks' figures, and the whole where it is there."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from lvlm_eval import lmms, pope
from lvlm_eval.chair.score import judge, score
from lvlm_eval.records import read
from PIL import Image
from typer.testing import CliRunner

import lvlm_fix as lf
from lvlm_fix.errors import DataError, InputError, SettingError

TASKS = Path(lmms.__path__[0]) / "tasks"
HERE = importlib.util.find_spec("lmms_eval") is not None
needs_it = pytest.mark.skipif(
    not HERE, reason="needs lmms-eval, which has an environment of its own"
)


def test_the_entry_point_names_the_manifest_and_importing_the_package_loads_nothing() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    declared = project["project"]["entry-points"]["lmms_eval.models"]
    entry = EntryPoint("lvlm_fix", declared["lvlm_fix"], "lmms_eval.models")
    assert importlib.util.find_spec(entry.module) is not None
    found = subprocess.run(
        [sys.executable, "-c", "import lvlm_eval.lmms, sys; print('lmms_eval' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "False"
    if HERE:
        assert entry.load().model_id == "lvlm_fix"


@pytest.fixture
def scoring() -> ModuleType:
    """The functions of the task files, loaded as lmms-eval loads them."""
    spec = importlib.util.spec_from_file_location("scoring", TASKS / "scoring.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_function_that_a_task_names_is_there(scoring: ModuleType) -> None:
    for path in TASKS.glob("*.yaml"):
        named = [
            line.split("scoring.")[1]
            for line in path.read_text().splitlines()
            if "!function" in line
        ]
        assert len(named) == 9
        assert all(callable(getattr(scoring, name)) for name in named)


def test_chair_is_that_of_the_scorer(scoring: ModuleType) -> None:
    docs = [
        {"image_id": 1, "objects": ["dog", "person"]},
        {"image_id": 2, "objects": ["cat"]},
        {"image_id": 3, "objects": ["horse", "car", "bench"]},
    ]
    captions = [" A dog and two horses. ", "A cat.", "Three horses by a car."]
    rows = [
        scoring.caption_row(doc, [text])["f1"] for doc, text in zip(docs, captions, strict=True)
    ]
    own = score(
        judge(
            {doc["image_id"]: text for doc, text in zip(docs, captions, strict=True)},
            {doc["image_id"]: set(doc["objects"]) for doc in docs},
        )
    )
    for name in scoring.CHAIR:
        function = name if name.startswith("chair_") else f"chair_{name}"
        assert getattr(scoring, function)(rows) == pytest.approx(own[name])
    assert own["chair_i"] == pytest.approx(1 / 5)  # horses in photo 1, of five mentions


def test_pope_counts_yes_among_the_answers(scoring: ModuleType) -> None:
    labels = ["yes", "yes", "no", "no", "no"]
    answers = ["Yes, there is.", "no", " NO.", "Yes", "perhaps"]
    docs = [{"answer": label, "image_source": f"{n}.jpg"} for n, label in enumerate(labels)]
    rows = [scoring.answer_row(doc, [text])["f1"] for doc, text in zip(docs, answers, strict=True)]
    questions = {n: pope.Question(n, f"{n}.jpg", "", label) for n, label in enumerate(labels)}
    own = pope.score(pope.columns(questions, {n: text.strip() for n, text in enumerate(answers)}))
    for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        assert getattr(scoring, name)(rows) == pytest.approx(own[name])
    assert scoring.unreadable(rows) == 1 / 5
    assert scoring.yes_ratio(rows) != 2 / 5  # which is that of the labels


def test_data_for_the_tasks(tmp_path: Path) -> None:
    import typer
    from lvlm_eval.lmms.data import make

    photos = tmp_path / "photos"
    photos.mkdir()
    for key in (1, 2, 3):
        Image.new("RGB", (4, 4), (key, 0, 0)).save(photos / f"{key:012d}.jpg")
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"1": ["dog"], "2": ["cat", "car"], "3": ["person"]}))
    app = typer.Typer()
    app.command()(make)
    words = [str(tmp_path / "out"), "--data", str(photos), "--truth", str(truth)]
    assert CliRunner().invoke(app, words).exit_code == 0
    rows = {
        task: read(tmp_path / "out" / task / "test" / "metadata.jsonl")
        for task in ("chair", "pope")
    }
    assert [row["objects"] for row in rows["chair"]] == [["dog"], ["car", "cat"], ["person"]]
    assert len({row["question_id"] for row in rows["pope"]}) == len(rows["pope"]) == 24
    for task, found in rows.items():
        assert all((tmp_path / "out" / task / "test" / row["file_name"]).is_file() for row in found)
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, DataError)


@needs_it
def test_texts_are_the_library_s_own_in_the_order_of_the_requests(photos: list[Path]) -> None:
    from lmms_eval.api.instance import Instance
    from lvlm_eval.lmms.model import LvlmFix

    prompts = ["Describe.", "Is there a cat?", "Describe.", "What is this?"]
    docs = [Image.open(photos[n % 3]) for n in range(4)]

    def messages(number: int) -> list[Any]:
        parts = [{"type": "image", "url": docs[number]}, {"type": "text", "text": prompts[number]}]
        return [{"role": "user", "content": parts}]

    for method in ("none", "vhr"):
        model = LvlmFix("tiny", method=method, batch_size=2, device="cpu")
        model.task_dict = {"task": {"test": list(range(4))}}
        requests = [
            Instance(
                "generate_until",
                (
                    "",
                    messages,
                    {"max_new_tokens": 4 + 4 * (n % 2), "until": ["zzz"]},
                    n,
                    "task",
                    "test",
                ),
                n,
                {"task": "task", "doc_id": n, "repeats": 1},
            )
            for n in range(4)
        ]
        loaded = lf.load("tiny")
        expected = []
        for n, photo in enumerate(docs):
            ask = ([photo.convert("RGB")], [prompts[n]])
            if method == "none":
                expected += lf.answer(*loaded, *ask, max_new_tokens=4 + 4 * (n % 2))
                continue
            with lf.fix(loaded[0], method):
                expected += lf.answer(*loaded, *ask, max_new_tokens=4 + 4 * (n % 2))
        assert [text.strip() for text in model.generate_until(requests)] == expected


@needs_it
def test_what_is_not_served_is_refused() -> None:
    from lvlm_eval.lmms.model import LvlmFix, before, chat_of

    with pytest.raises(SettingError, match="batch_size"):
        LvlmFix("tiny", batch_size="auto")
    with pytest.raises(InputError, match="video"):
        chat_of([{"role": "user", "content": [{"type": "video", "url": "x"}]}])
    assert before("a\n\nb", ["\n\n", "b"]) == "a"
