"""POPE: reading, scoring, generating."""

from pathlib import Path

import pytest
from lvlm_eval import pope
from lvlm_eval.pope import Question
from lvlm_eval.records import dumps

from lvlm_fix import DataError, SettingError

QUESTIONS = {
    1: Question(1, "000000000001.jpg", "Is there a dog in the image?", "yes"),
    2: Question(2, "000000000001.jpg", "Is there a cat in the image?", "no"),
    3: Question(3, "000000000002.jpg", "Is there a bus in the image?", "yes"),
    4: Question(4, "000000000002.jpg", "Is there a car in the image?", "no"),
}


@pytest.mark.parametrize(
    ("answer", "published", "readable", "strict"),
    [
        ("Yes", "yes", True, ("yes", True)),
        ("No, there is none.", "no", True, ("no", True)),
        ("no", "no", True, ("no", True)),
        ("It is not there", "no", True, ("yes", False)),
        ("NO", "yes", True, ("no", True)),  # the authors look for three spellings only
        ("Yes. No, wait.", "yes", True, ("yes", True)),  # the first sentence
        ("There is, no, a dog", "no", True, ("yes", False)),  # commas are dropped
        ("**No**", "yes", True, ("no", True)),
        ("no!", "yes", True, ("no", True)),
        ("Yes and no", "no", True, ("yes", True)),  # a "no" anywhere; or how it begins
        ("nope", "yes", False, ("yes", False)),
        ("A dog.", "yes", False, ("yes", False)),
        ("", "yes", False, ("yes", False)),
        ("nothing", "yes", False, ("yes", False)),
        ("Yesterday", "yes", False, ("yes", False)),
    ],
)
def test_reading(answer: str, published: str, readable: bool, strict: tuple[str, bool]) -> None:
    assert pope.reading(answer) == (published, readable)
    assert pope.reading(answer, "strict") == strict


def table(*answers: str, rule: pope.Rule = "published") -> dict[str, object]:
    given = {key: answer for key, answer in enumerate(answers, 1) if answer is not None}
    found = pope.score(pope.columns(QUESTIONS, given, rule))
    return {name: value for name, value in found.items() if name != "ci"}


def test_by_hand() -> None:
    assert table("yes", "no", "no", "yes") == {
        "n": 4, "accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.5,
        "unreadable": 0,
        "tp": 1, "fp": 1, "tn": 1, "fn": 1,
    }  # fmt: skip
    assert table(*["yes"] * 4) == {
        "n": 4, "accuracy": 0.5, "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3),
        "yes_ratio": 1.0,
        "unreadable": 0, "tp": 2, "fp": 2, "tn": 0, "fn": 0,
    }  # fmt: skip
    assert table(*["no"] * 4) == {
        "n": 4, "accuracy": 0.5, "precision": None, "recall": 0.0, "f1": 0.0, "yes_ratio": 0.0,
        "unreadable": 0, "tp": 0, "fp": 0, "tn": 2, "fn": 2,
    }  # fmt: skip


def test_unreadable_answers_are_yes_by_the_published_rule_and_wrong_by_the_strict_one() -> None:
    published, strict = table(*["hm"] * 4), table(*["hm"] * 4, rule="strict")
    assert (published["unreadable"], published["yes_ratio"], published["accuracy"]) == (4, 1.0, 0.5)
    assert (strict["unreadable"], strict["yes_ratio"], strict["accuracy"]) == (4, 0.0, 0.0)


def test_corrections_change_labels_and_what_they_leave_out_is_apart() -> None:
    moved = [one._replace(question_id=70 + key) for key, one in QUESTIONS.items() if key != 3]
    found, disputed = pope.corrected(QUESTIONS, [moved[0]._replace(label="no"), *moved[1:]])
    assert {key: one.label for key, one in found.items()} == {1: "no", 2: "no", 4: "no"}
    assert disputed == {3}
    with pytest.raises(DataError, match="share no photo"):
        pope.corrected(QUESTIONS, [moved[0]._replace(image="9.jpg")])


def test_unanswered_questions_are_left_out() -> None:
    assert table("yes")["n"] == 1


def test_an_empty_file_or_an_unknown_id_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="question_id 9"):
        pope.columns(QUESTIONS, {9: "yes"})
    with pytest.raises(DataError, match="empty run"):
        pope.score(pope.columns(QUESTIONS, {}))
    path = tmp_path / "answers.jsonl"
    for text, message in {
        "": "no records",
        '{"question_id": 1, "text": "yes"}\n{"question_id": 1, "text": "no"}\n': (
            "question_id 1 appears twice"
        ),
        '{"question_id": 1, "text": "yes"}\n{"question_id": 2, "te': "line 2 is damaged",
        '{"question_id": 1}\n': "needs a text",
        '{"text": "yes"}\n': "needs a whole number",
    }.items():
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            pope.read_answers(path)
    path.write_text('{"question_id": 7, "answer": "yes"}\n')
    assert pope.read_answers(path) == {7: "yes"}


def test_generated_questions_are_true_balanced_and_seeded(tmp_path: Path) -> None:
    truth = {
        1: frozenset({"dog", "cat"}),
        2: frozenset({"dog", "person", "bus", "car"}),
        3: frozenset({"person", "bus"}),
        4: frozenset[str](),
    }
    for split in pope.SPLITS:
        records = pope.generate(truth, truth, split, seed=1)
        assert records == pope.generate(truth, reversed(truth), split, seed=1)
        assert len(records) == 2 * (2 + 3 + 2)
        path = tmp_path / f"{split}.jsonl"
        path.write_text("".join(dumps(record) + "\n" for record in records))
        for question in pope.read_questions(path).values():
            name = (
                question.text.removeprefix("Is there a")
                .removeprefix("n")
                .removesuffix(" in the image?")
                .strip()
            )
            assert (name in truth[question.image_id]) == (question.label == "yes")
    popular = [r["text"] for r in pope.generate(truth, [1], "popular") if r["label"] == "no"]
    assert popular == [
        "Is there a person in the image?",
        "Is there a bus in the image?",
    ]  # both in two photos
    adversarial = [
        r["text"] for r in pope.generate(truth, [1], "adversarial") if r["label"] == "no"
    ]
    assert adversarial[0] == "Is there a person in the image?"  # with the dog of photo 2
    assert pope.generate(truth, truth, "random", seed=1) != pope.generate(
        truth, truth, "random", seed=2
    )
    with pytest.raises(DataError, match="no photo has objects"):
        pope.generate(truth, [4], "random")
    with pytest.raises(SettingError, match="split"):
        pope.generate(truth, truth, "rare")


@pytest.mark.parametrize(
    ("questions", "answers", "counts"),
    [
        ("coco_pope_adversarial.json", "adversarial", (1187, 133, 1367, 313)),
        ("coco_pope_random.2910.json", "random", (1104, 29, 1285, 294)),
    ],
)
def test_the_printed_confusion_counts(
    shared: Path, questions: str, answers: str, counts: tuple[int, ...]
) -> None:
    folder = shared / "oracles/pope"
    given = pope.read_answers(folder / f"llava-v1.5-7b.{answers}.answers.jsonl")
    found = pope.score(pope.columns(pope.read_questions(folder / questions), given))
    assert tuple(found[name] for name in ("tp", "fp", "tn", "fn")) == counts


def test_corrections_of_every_published_split(shared: Path) -> None:
    folder = shared / "oracles/pope"
    for split in pope.SPLITS:
        asked = pope.read_questions(folder / f"coco_pope_{split}.json")
        corrections = pope.read_questions(folder / f"coco_repope_{split}.json")
        found, disputed = pope.corrected(asked, corrections.values())
        assert len(found) == len(asked) - len(disputed) == len(corrections)


def test_every_question_file_is_read(shared: Path) -> None:
    found = {
        path.name: len(pope.read_questions(path))
        for path in (shared / "oracles/pope").glob("coco_*.json")
    }
    assert found["coco_pope_random.json"] == 3000
    assert found["coco_repope_random.json"] == 2774
    assert len(found) == 7
