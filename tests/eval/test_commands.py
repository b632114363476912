"""`eval score|questions|run|compare|report` as a user calls them."""

import json
from pathlib import Path

import pytest
from lvlm_eval.cli import app
from lvlm_eval.compare import compare, control, drawn, load
from lvlm_eval.report import changed_most, render
from lvlm_eval.run import run
from PIL import Image
from schema import held
from standin import answering, plan
from typer.testing import CliRunner

from lvlm_fix import DataError, LvlmFixError, SettingError


def call(*args: object) -> dict[str, object]:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if isinstance(result.exception, LvlmFixError):
        raise result.exception
    assert result.exit_code == 0, result.output
    if "--json" not in args:
        return {}
    held(["eval", *args], result.stdout)
    return json.loads(result.stdout)


def test_score_chair_reads_lines_lists_and_the_published_document(tmp_path: Path) -> None:
    truth, path = tmp_path / "objects.json", tmp_path / "captions"
    truth.write_text('{"1": ["dog"], "2": ["cat"]}')
    records = [{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "a bus"}]
    for text in (
        "\n".join(map(json.dumps, records)) + "\n",
        json.dumps(records, indent=1),
        json.dumps({"sentences": records}, indent=1),
    ):
        path.write_text(text)
        found = call("score", "chair", "--captions", path, "--truth", truth, "--json")
        assert (found["n"], found["chair_s"], found["chair_i"]) == (2, 0.5, 0.5)
        call("score", "chair", "--captions", path, "--truth", truth)
    for text in (
        "",
        "[]",
        json.dumps(records[0]) + "\n{",
        json.dumps([records[0]] * 2),
        '[{"image_id": 1}]',
        "[1]",
    ):
        path.write_text(text)
        with pytest.raises(DataError):
            call("score", "chair", "--captions", path, "--truth", truth, "--json")


def test_questions_and_score_pope(tmp_path: Path) -> None:
    truth, asked, given = (tmp_path / name for name in ("objects.json", "q.jsonl", "a.jsonl"))
    truth.write_text('{"1": ["dog"], "2": ["cat", "person"]}')
    call("questions", "--truth", truth, "--split", "random", "--out", asked)
    lines = [json.loads(line) for line in asked.read_text().splitlines()]
    given.write_text(
        "".join(
            json.dumps({"question_id": q["question_id"], "text": q["label"]}) + "\n" for q in lines
        )
    )
    found = call("score", "pope", "--questions", asked, "--answers", given, "--json")
    assert (found["n"], found["accuracy"], found["ci"]["accuracy"]) == (6, 1.0, [1.0, 1.0])
    with given.open("a") as file:
        file.write('{"question_id": 77, "text": "yes"}\n')
    with pytest.raises(DataError, match="77"):
        call("score", "pope", "--questions", asked, "--answers", given)
    assert (
        call("score", "pope", "--questions", asked, "--answers", given, "--skip-unknown", "--json")[
            "n"
        ]
        == 6
    )


def test_disputed_answers_are_counted_apart(tmp_path: Path) -> None:
    asked, right, given = (tmp_path / name for name in ("q.jsonl", "r.jsonl", "a.jsonl"))
    rows = [
        {"question_id": n, "image": "1.jpg", "text": f"Is there a {name}?", "label": "yes"}
        for n, name in enumerate(["dog", "cat", "bus"])
    ]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    right.write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[1] | {"label": "no"}) + "\n")
    given.write_text("".join(f'{{"question_id": {n}, "text": "yes"}}\n' for n in range(3)))
    command = ("score", "pope", "--questions", asked, "--answers", given, "--json")
    found = call(*command, "--corrections", right)
    assert (found["n"], found["tp"], found["fp"], found["disputed"]) == (2, 1, 1, 1)
    assert "disputed" not in call(*command)
    shown = CliRunner().invoke(app, [*map(str, command[:-1]), "--corrections", str(right)]).stdout
    assert "disputed" in shown
    assert "disputed, %" not in shown
    assert "doubtful, %" not in shown


def test_compare_and_report(tmp_path: Path) -> None:
    out, page = tmp_path / "run", tmp_path / "page.html"
    run(plan(), answering(), out)
    found = call("compare", out, "--json")
    assert found["methods"]["none"]["chair_i"] == 0.5
    assert set(found["differences"]["vhr:strength=1.5"]["chair_i"]) == {
        "difference",
        "ci",
        "p",
        "p_holm",
    }
    assert found["length_matched"]["vhr:strength=1.5"]["length"]["difference"] == 0
    call("compare", out)
    call("report", out, "--out", page)
    text = page.read_text()
    assert text.count("<mark>") == 2 * 10
    assert "http://" not in text.replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")
    assert "<svg" in text
    with pytest.raises(SettingError):
        call("compare", out, "--dialect", "loose")


def test_longer_texts_are_compared_at_equal_length(tmp_path: Path) -> None:
    run(plan(), answering(), tmp_path)
    path = tmp_path / "vhr-strength-1.5.jsonl"
    records = [json.loads(line) for line in (tmp_path / "none.jsonl").read_text().splitlines()]
    path.write_text(
        "".join(json.dumps(r | {"caption": r["caption"] + " and a sofa"}) + "\n" for r in records)
    )
    found = compare(load(tmp_path))
    assert found["differences"]["vhr:strength=1.5"]["chair_i"]["difference"] > 0
    assert found["length_matched"]["vhr:strength=1.5"]["chair_i"]["difference"] == 0
    assert changed_most(load(tmp_path), count=2)[0][2].invented[-1].node == "couch"


def test_vhr_is_placed_among_the_draws_of_random_heads() -> None:
    def named(value: float | None) -> dict[str, object]:
        return {"chair_i": value, "ci": {"chair_i": [0, 1]}}

    draws = {f"random-heads:seed={n}": named(n / 10) for n in range(4)}
    found = control({"none": named(0.1), "vhr:strength=3": named(0.05), "pai": named(0.1), **draws})
    assert found == {"vhr:strength=3": {"chair_i": found["vhr:strength=3"]["chair_i"]}}
    place = found["vhr:strength=3"]["chair_i"]
    assert place["mean"] == pytest.approx(0.15)
    assert (place["draws"], place["range"], place["below"], place["above"]) == (4, [0, 0.3], 1, 3)
    assert place["p"] == 2 * (1 + 1) / 5  # one draw of four is as low
    assert control({"vhr": named(9), **draws})["vhr"]["chair_i"]["p"] == 2 / 5  # none is as high
    assert control({"vhr": named(0.2), **draws})["vhr"]["chair_i"]["p"] == 1.0
    assert control({"vhr": named(None), **draws}) == {"vhr": {}}
    assert control({"vhr": named(1)}) == {}


def test_steer_is_placed_among_the_draws_of_random_vectors() -> None:
    def named(value: float) -> dict[str, object]:
        return {"chair_i": value, "ci": {"chair_i": [0, 1]}}

    vectors = {f"random-vector:seed={n}": named(n / 10) for n in range(3)}
    heads = {f"random-heads:seed={n}": named(9.0) for n in range(3)}
    found = control({"steer": named(0.05), "vhr": named(0.0), **vectors, **heads})
    place = found["steer"]["chair_i"]
    assert (place["of"], place["draws"], place["range"]) == ("random-vector", 3, [0, 0.2])
    assert (place["below"], place["above"]) == (1, 2)
    assert found["vhr"]["chair_i"]["of"] == "random-heads"
    assert drawn([*vectors, "random-heads:seed=1"]) == {"random-vector": [*vectors]}


def test_the_control_is_one_row_of_the_table_and_part_of_the_page(tmp_path: Path) -> None:
    specs = ["none", "vhr", "random-heads:seed=0", "random-heads:seed=1"]
    question = {
        "image": "000000000001.jpg",
        "question": "Is there a dog?",
        "label": "yes",
        "image_id": 1,
    }
    questions = {
        "a": [question | {"question_id": 1}],
        "b": [question | {"question_id": 1, "label": "no"}],
    }
    run(plan(specs), answering(), tmp_path / "chair")
    run(plan(specs, task="pope", samples=questions), answering(), tmp_path / "pope")
    result = CliRunner().invoke(app, ["table", str(tmp_path / "chair"), str(tmp_path / "pope")])
    lines = result.stdout.splitlines()
    assert lines[0].startswith(
        "| method | CHAIR_S | CHAIR_I | recall | length | distinct_3 | POPE F1 | yes |"
    )
    assert [line.split("|")[1].strip() for line in lines[2:5]] == [
        "`none`",
        "`vhr`",
        "`random-heads`, 2 draws",
    ]
    assert "50.0 to 50.0" in lines[4]
    assert (
        "`vhr` against 2 draws of random-heads, CHAIR_I: 0 draws higher, 0 lower" in result.stdout
    )
    for name in ("chair", "pope"):
        assert "Among 2 draws" in render(load(tmp_path / name))
        found = call("compare", tmp_path / name, "--json")
        assert list(found["differences"]) == ["vhr"]  # the draws are a distribution, not hypotheses
        call("compare", tmp_path / name)
    assert (found["methods"]["vhr"]["tp"], found["methods"]["vhr"]["fp"]) == (
        1,
        1,
    )  # of both splits
    with pytest.raises(DataError, match="one chair run"):
        call("table", tmp_path / "chair", tmp_path / "chair")


def test_a_comparison_needs_the_unmodified_model(tmp_path: Path) -> None:
    run(plan(["var"]), answering(), tmp_path)
    with pytest.raises(DataError, match="--method none"):
        compare(load(tmp_path))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "data" / "images").mkdir(parents=True)
    for key in (1, 2, 3):
        Image.new("RGB", (40, 30), (80 * key, 90, 20)).save(
            tmp_path / "data" / "images" / f"{key:012d}.jpg"
        )
    (tmp_path / "data" / "objects.json").write_text(
        '{"1": ["dog"], "2": ["cat", "person"], "3": ["bus"]}'
    )
    return tmp_path / "data"


def test_captions_of_the_embedded_model_from_photos_to_page(photos: Path, tmp_path: Path) -> None:
    common = [
        "--data",
        photos,
        "--truth",
        photos / "objects.json",
        "--out",
        tmp_path / "run",
        "--batch-size",
        2,
    ]
    methods = ["--method", "none", "--method", "vhr:strength=1.5"]
    call("run", "chair", *common, *methods, "--max-new-tokens", 6, "--json")
    assert len(load(tmp_path / "run").captions["none"]) == 3
    assert "data:image/jpeg" in render(load(tmp_path / "run")) or not changed_most(
        load(tmp_path / "run")
    )
    with pytest.raises(DataError, match="max_new_tokens"):
        call("run", "chair", *common, *methods, "--max-new-tokens", 7)
    with pytest.raises(SettingError, match="not run"):
        call("run", "chair", *common, *methods, "--set", "var.strength=1")


def test_answers_of_the_embedded_model(photos: Path, tmp_path: Path) -> None:
    common = ["--data", photos, "--truth", photos / "objects.json", "--out", tmp_path / "run"]
    call("run", "pope", *common, "--method", "none", "--limit", 1, "--max-new-tokens", 2, "--json")
    found = call("compare", tmp_path / "run", "--json")
    assert set(found["splits"]) == {"random", "popular", "adversarial"}
    assert "POPE" in render(load(tmp_path / "run"))
    (photos / "images" / "000000000001.jpg").unlink()
    (photos / "ids.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="photos are missing"):
        call(
            "run",
            "pope",
            *common[:-1],
            tmp_path / "b",
            "--method",
            "none",
            "--ids",
            photos / "ids.json",
        )
