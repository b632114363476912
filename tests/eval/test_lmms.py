"""The lmms-eval plug-in: its entry point, its tasks' figures, and the whole where it is there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from lvlm_eval import lmms, pope
from lvlm_eval.chair.score import judge, score
from lvlm_eval.check import CAPTION_IDS, CAPTIONS, check
from lvlm_eval.records import by_id, read
from PIL import Image

import lvlm_fix as lf
from lvlm_fix.errors import DataError, InputError, SettingError

TASKS = Path(lmms.__path__[0]) / "tasks"
HERE = importlib.util.find_spec("lmms_eval") is not None
needs_it = pytest.mark.skipif(
    not HERE, reason="needs lmms-eval, which has an environment of its own"
)

# whoever loads the entry point before lmms-eval's models are imported, and then asks for the model
FIRST = """
from lvlm_eval.lmms import manifest
print(manifest.MANIFEST.model_id)
from lmms_eval.models import MODEL_REGISTRY_V2
print(MODEL_REGISTRY_V2.get_manifest("lvlm_fix").model_id == "lvlm_fix")
"""


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
        told = subprocess.run(
            [sys.executable, "-c", FIRST], capture_output=True, text=True, check=True
        )
        assert told.stdout.split()[-2:] == ["lvlm_fix", "True"]
        assert "Failed to load" not in told.stderr


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
    docs = [{"answer": label, "image_source": f"{n}.jpg", "question_id": n}
            for n, label in enumerate(labels)]  # fmt: skip
    rows = [scoring.answer_row(doc, [text])["f1"] for doc, text in zip(docs, answers, strict=True)]
    questions = {n: pope.Question(n, f"{n}.jpg", "", label) for n, label in enumerate(labels)}
    own = pope.score(pope.columns(questions, {n: text.strip() for n, text in enumerate(answers)}))
    for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        assert getattr(scoring, name)(rows) == pytest.approx(own[name])
    assert scoring.unreadable(rows) == 1 / 5
    assert scoring.yes_ratio(rows) != 2 / 5  # which is that of the labels


def test_data_for_the_tasks(lvlm, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for key in (1, 2, 3):
        Image.new("RGB", (4, 4), (key, 0, 0)).save(photos / f"{key:012d}.jpg")
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"1": ["dog"], "2": ["cat", "car"], "3": ["person"]}))
    words = ["eval", "lmms", tmp_path / "out", "--data", photos, "--truth", truth]
    assert lvlm(*words)[0] == 0
    rows = {
        task: read(tmp_path / "out" / task / "test" / "metadata.jsonl")
        for task in ("chair", "pope")
    }
    assert [row["objects"] for row in rows["chair"]] == [["dog"], ["car", "cat"], ["person"]]
    assert [row["question_id"] for row in rows["pope"]] == list(range(1, 25))
    for task, found in rows.items():
        assert all((tmp_path / "out" / task / "test" / row["file_name"]).is_file() for row in found)
    code, _, err = lvlm(*words)
    assert code == 2 and "exists already" in err
    (photos / f"{2:012d}.jpg").unlink()
    (photos / "splits.json").write_text('{"two": [1, 2]}')
    code, _, err = lvlm(
        "eval", "lmms", tmp_path / "other", "--data", photos, "--truth", truth, "--split", "two"
    )
    assert code == 2 and "1 of 2 photos are missing (first: 000000000002.jpg)" in err
    assert not (tmp_path / "other").exists()
    (row,) = check([tmp_path / "out" / "pope" / "test" / "metadata.jsonl"])
    assert (row["kind"], row["rows"]) == ("questions", 24)


LOGGED = {  # as lmms-eval 0.7.3 logs them: of its own task, of another of its own, of ours
    "answers": (
        {"doc_id": 0, "target": "yes", "filtered_resps": "Yes", "input": "Is there a dog? Say it.",
         "pope_accuracy": {"question_id": 7, "prediction": "yes", "ground_truth": "yes"}},
        {"doc_id": 1, "target": "no", "filtered_resps": ["No."], "input": "Is there a cat?",
         "accuracy": {"photo": "1.jpg", "label": "no", "answer": "No.", "question_id": "8"}},
    ),
    "captions": (
        {"doc_id": 0, "target": "['A cat.']", "resps": [" A dog."], "filtered_resps": "A dog.",
         "coco_CIDEr": {"answer": ["A cat."], "pred": "A dog.", "image_id": 7, "id": 3}},
        {"doc_id": 1, "target": "[]", "filtered_resps": "A cat.", "input": "Describe.",
         "f1": {"image_id": 8, "caption": "A cat.", "objects": ["cat"]}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LOGGED)
def test_a_log_is_read_by_what_was_said_and_the_ids_of_its_figures(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "20261101_samples_some_task.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in LOGGED[kind]))
    (row,) = check([path])
    assert (row["kind"], row["rows"]) == (kind, 2)
    if kind == "answers":
        asked = {n: pope.Question(n, "1.jpg", f"Is there a {what}?", "no")
                 for n, what in ((7, "dog"), (8, "cat"))}  # fmt: skip
        assert pope.read_answers(path, asked) == {7: "Yes", 8: "No."}
        with pytest.raises(DataError, match="do not belong together"):
            pope.read_answers(path, {7: asked[8]})
    else:
        assert by_id(read(path), CAPTION_IDS, CAPTIONS, path) == {7: "A dog.", 8: "A cat."}


def test_a_log_whose_figures_kept_no_id_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"doc_id": 0, "filtered_resps": "Yes", "mme": {"score": 1}}))
    with pytest.raises(DataError, match=r"record 1 needs a whole number.*'doc_id', 'filtered_"):
        pope.read_answers(path)
    (row,) = check([path])
    assert "doc_id" in row["error"]


@needs_it
def test_a_real_run_has_the_texts_of_its_own_wrapper_and_the_figures_of_the_scorer(
    lvlm, photos: list[Path], tmp_path: Path
) -> None:
    folder, truth = tmp_path / "photos", tmp_path / "truth.json"
    folder.mkdir()
    for number, path in enumerate(photos, 1):
        lf.open_image(path).save(folder / f"{number}.png")
    truth.write_text(json.dumps({n: ["person", "dog"] for n, _ in enumerate(photos, 1)}))
    data = tmp_path / "lvlm_fix_data"
    assert lvlm("eval", "lmms", data, "--data", folder, "--truth", truth)[0] == 0
    tiny = Path(lf.__path__[0]) / "tiny"
    models = {
        "lvlm_fix": ("pretrained=tiny,method=none,device=cpu", 3),
        "llava_hf": (f"pretrained={tiny},device=cpu,device_map=cpu,dtype=float32", 1),
    }
    said = {}
    for model, (given, batch) in models.items():
        out = tmp_path / model
        words = f"--model {model} --model_args {given} --tasks lvlm_chair,lvlm_pope"
        words += f" --include_path {TASKS} --batch_size {batch} --output_path {out} --log_samples"
        ran = subprocess.run(
            [sys.executable, "-m", "lmms_eval", *words.split()],
            cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        logs = {path.stem.split("lvlm_")[-1]: path for path in out.rglob("*_samples_*.jsonl")}
        assert logs.keys() == {"chair", "pope"}, ran.stderr[-2000:]
        said[model] = {name: [(row["doc_id"], row["filtered_resps"]) for row in lines(path)]
                       for name, path in logs.items()}  # fmt: skip
        (results,) = out.rglob("*_results.json")
        printed = json.loads(results.read_text())["results"]
        own = {
            "chair": lvlm("eval", "score", "chair", "--captions", logs["chair"],
                          "--truth", data / "chair" / "test" / "metadata.jsonl", "--json"),
            "pope": lvlm("eval", "score", "pope", "--answers", logs["pope"], "--json",
                         "--questions", data / "pope" / "test" / "metadata.jsonl"),
        }  # fmt: skip
        for name, (code, text, err) in own.items():
            assert code == 0, err
            ours, theirs = json.loads(text), printed[f"lvlm_{name}"]
            figures = {key.removesuffix(",none") for key in theirs if key.endswith(",none")}
            figures = {key for key in figures if "stderr" not in key}
            assert len(figures) == 6
            for key in figures:
                mine = ours[key] / (ours["n"] if key == "unreadable" else 1)
                assert theirs[f"{key},none"] == pytest.approx(mine, abs=1e-12), (name, key)
    assert said["lvlm_fix"] == said["llava_hf"]
    assert len(said["lvlm_fix"]["chair"]) == len(photos)


def lines(path: Path) -> list[Any]:
    """What a file of JSON lines holds, as it is."""
    return [json.loads(line) for line in path.read_text().splitlines()]


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
