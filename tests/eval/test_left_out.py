"""Photos that break: left out of a run and named; the rest is done, and they can be mended."""

import json
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from lvlm_eval.cli import app
from lvlm_eval.compare import compare, load
from lvlm_eval.ended import Said, Unread
from lvlm_eval.left_out import read_left_out
from lvlm_eval.report import render
from lvlm_eval.run import Plan, Serve, Texts, run
from lvlm_eval.serve import serving
from lvlm_eval.table import table
from lvlm_eval.tuning import tuned
from PIL import Image
from schema import held
from standin import TRUTH, answering, plan
from typer.testing import CliRunner

from lvlm_fix import DataError, InputError


def half_blind(broken: set[int], die_after: int = 99) -> Serve:
    """Texts of the photos that are not broken; a photo is mended when its file is there."""
    left = [die_after]

    @contextmanager
    def serve(paths: Sequence[Path], prompts: Sequence[str]) -> Generator[Texts]:
        seen = [path for path in paths if int(path.stem) not in broken or path.exists()]
        with answering()(seen, prompts[: len(seen)]) as texts:

            def counted(method: str) -> list[Said | Unread]:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                said = iter(texts(method))
                return [next(said) if p in seen else Unread(f"{p} is torn") for p in paths]

            yield counted

    return serve


def names(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


def test_a_broken_photo_is_left_out_and_all_others_have_their_texts(tmp_path: Path) -> None:
    gone = run(plan(), half_blind({5, 22}), tmp_path)
    assert gone == {5: "000000000005.jpg is torn", 22: "000000000022.jpg is torn"}
    assert not (tmp_path / "parts").exists()
    found = load(tmp_path)
    whole = [key for key in TRUTH if key not in gone]
    assert list(found.captions["none"]) == list(found.captions["vhr:strength=1.5"]) == whole
    assert (found.record["image_ids"], found.left_out) == (whole, gone)
    result = compare(found)
    assert result["left_out"] == 2 and result["methods"]["none"]["n"] == 21
    said = "2 broken photos have no text and no part in the figures"
    assert f"CHAIR: {said}." in table(found) and f"{said}: 5, 22" in render(found)
    shown = CliRunner().invoke(app, ["compare", str(tmp_path)]).stdout
    assert said in " ".join(shown.split())


def test_the_run_is_the_same_wherever_it_was_stopped(tmp_path: Path) -> None:
    run(plan(), half_blind({5, 6}), tmp_path / "whole")
    for calls in range(12):
        out = tmp_path / f"cut-{calls}"
        with pytest.raises(KeyboardInterrupt):
            run(plan(), half_blind({5, 6}, calls), out)
        assert run(plan(), half_blind({5, 6}), out).keys() == {5, 6}
        assert names(out) == names(tmp_path / "whole")
    assert run(plan(), dead, tmp_path / "whole").keys() == {5, 6}  # nothing is asked again


@contextmanager
def dead(paths: Sequence[Path], prompts: Sequence[str]) -> Generator[Texts]:
    raise AssertionError("there is nothing to ask")
    yield


def test_a_mended_photo_is_taken_up_and_the_run_is_as_if_it_had_never_been_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(plan(), answering(), tmp_path / "whole")
    run(plan(), half_blind({5, 9}), tmp_path / "run")
    for number in (5, 9):
        Image.new("RGB", (8, 8)).save(f"{number:012d}.jpg")
        gone = run(plan(), half_blind({5, 9}), tmp_path / "run")
        assert gone.keys() == ({9} if number == 5 else set())
    assert names(tmp_path / "run") == names(tmp_path / "whole")
    assert not load(tmp_path / "run").left_out


def test_a_photo_that_breaks_later_counts_for_no_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(plan(["none"]), answering(), tmp_path / "run")
    assert run(plan(["none", "var"]), half_blind({7}), tmp_path / "run").keys() == {7}
    found = load(tmp_path / "run")
    assert 7 not in found.captions["none"] and len(found.captions["none"]) == 22
    Image.new("RGB", (8, 8)).save(f"{7:012d}.jpg")
    assert run(plan(["none"]), answering(), tmp_path / "run").keys() == {7}  # var lacks it still
    assert not run(plan(["none", "var"]), answering(), tmp_path / "run")
    assert len(load(tmp_path / "run").captions["var"]) == 23


def test_answers_about_a_broken_photo_are_left_out_of_every_split(tmp_path: Path) -> None:
    def question(number: int, photo: int) -> dict[str, object]:
        return {
            "question_id": number, "image_id": photo, "image": f"{photo:012d}.jpg",
            "question": f"Is there a dog, {number}?", "label": "yes",
        }  # fmt: skip

    splits = {"a": [question(1, 1), question(2, 2)], "b": [question(1, 2), question(2, 3)]}
    asked = plan(task="pope", samples=splits, batch_size=3)
    assert run(asked, half_blind({2}), tmp_path).keys() == {2}
    found = load(tmp_path)
    assert list(found.answers["a"]["none"]) == [1] and list(found.answers["b"]["none"]) == [2]
    assert compare(found)["methods"]["none"]["n"] == 2
    assert run(asked, dead, tmp_path).keys() == {2}


def test_a_run_of_broken_photos_alone_is_an_error_and_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    broken = set(TRUTH)
    with pytest.raises(DataError, match=r"no photo of 23 can be read \(first: .*1.jpg is torn"):
        run(plan(), half_blind(broken), tmp_path / "run")
    with pytest.raises(DataError, match="not finished"):
        load(tmp_path / "run")
    Image.new("RGB", (8, 8)).save("000000000003.jpg")
    run(plan(), half_blind(broken), tmp_path / "run")
    assert list(load(tmp_path / "run").captions["none"]) == [3]


def test_a_search_goes_on_without_a_broken_photo(tmp_path: Path) -> None:
    truth = {key: frozenset({"cat"}) for key in range(1, 13)}
    small = Plan(
        task="chair", model="stand-in", methods=("none",), prompt="Describe.", truth=truth,
        samples={"": [{"image_id": key} for key in truth]},
        photos={key: Path(f"{key}.jpg") for key in truth},
    )  # fmt: skip
    halves: dict[int, int] = {}
    for broken in truth:
        out = tmp_path / str(broken)
        spaces = {"vhr": {"strength": (1.0, 3.0)}}
        found = tuned(small, half_blind({broken}), out, spaces, {"none": ()}, captions=18)
        halves[broken] = found["n"]
        gone = read_left_out(out / "tuned") | read_left_out(out / "confirmed")
        assert gone.keys() <= {broken}
    assert set(halves.values()) <= {5, 6}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    for key in (1, 2, 3):
        Image.new("RGB", (40, 30), (80 * key, 90, 20)).save(folder / f"{key:012d}.jpg")
    whole = (folder / "000000000002.jpg").read_bytes()
    (folder / "000000000002.jpg").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "data" / "objects.json").write_text('{"1": ["dog"], "2": ["cat"], "3": ["bus"]}')
    return tmp_path / "data"


@pytest.mark.parametrize("task", ["chair", "pope"])
def test_the_command_names_broken_photos_at_the_end_and_its_status_says_so(
    data: Path, task: str
) -> None:
    out = data / "run"
    words = ["run", task, "--data", data, "--truth", data / "objects.json", "--method", "none"]
    words += ["--out", out, "--max-new-tokens", 2, "--batch-size", 4, "--json"]
    for _ in range(2):
        done = CliRunner().invoke(app, list(map(str, words)))
        assert done.exit_code == 3, done.output
        held(["eval", *words], done.stdout)
        assert list(json.loads(done.stdout)["left_out"]) == ["2"]
        assert "photo 2: '" in done.stderr and "cannot be read as an image" in done.stderr
        assert done.stderr.splitlines()[-1].startswith(
            "lvlm-fix: 1 of 3 photos are broken and have no text; everything else is done."
        )
    Image.new("RGB", (40, 30)).save(data / "images" / "000000000002.jpg")
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0 and json.loads(done.stdout)["left_out"] == {}
    assert load(out).record["image_ids"] == [1, 2, 3]


def test_a_shape_that_the_model_does_not_take_is_the_photos_fault_and_words_are_not(
    tiny: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{key}.png" for key in (1, 2, 3)]
    for path, size in zip(paths, [(30, 30), (3000, 1), (20, 40)], strict=True):
        Image.new("RGB", size).save(path)
    module = sys.modules["lvlm_eval.serve"]
    prepare = module.prepare

    def narrow(model: object, processor: object, images: Sequence[Image.Image], asks: object):
        if any(max(image.size) > 200 * min(image.size) for image in images):
            raise InputError("aspect ratio above 200")
        return prepare(model, processor, images, asks)

    monkeypatch.setattr(module, "prepare", narrow)
    serve = serving(*tiny, {"none": ()}, 2)
    with serve(paths, ["Describe."] * 3) as texts:
        said = texts("none")
    assert [type(one) for one in said] == [Said, Unread, Said]
    assert said[1].why == f"'{paths[1]}': aspect ratio above 200"
    with serve(paths[::2], ["Describe."] * 2) as texts:
        assert [said[0], said[2]] == texts("none")
    with serve(paths[1:2], ["Describe."]) as texts:
        assert [type(one) for one in texts("none")] == [Unread]
    with pytest.raises(InputError, match="<image>"), serve(paths[:1], ["<image> what?"]):
        pass


def test_scoring_says_how_many_photos_have_no_caption(tmp_path: Path) -> None:
    truth, captions = tmp_path / "objects.json", tmp_path / "captions.jsonl"
    truth.write_text('{"1": ["dog"], "2": ["cat"], "3": ["bus"]}')
    captions.write_text('{"image_id": 1, "caption": "a dog"}\n')
    words = ["score", "chair", "--captions", str(captions), "--truth", str(truth), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and json.loads(done.stdout)["n"] == 1
    assert "2 of 3 photos of the truth have no caption and are left out" in done.stderr


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    run(plan(["none"]), half_blind({5}), tmp_path)
    (tmp_path / "left-out.jsonl").write_text('{"image_id": 5}\n')
    with pytest.raises(DataError, match=r"left-out\.jsonl is damaged"):
        load(tmp_path)
