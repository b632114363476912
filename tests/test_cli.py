"""The command line as a user runs it, on the embedded model and real photos."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lvlm_fix.heads.table import HeadTable
from lvlm_fix.tools import cli


def test_caption_prints_one_json_document(lvlm: Any, photos: list[Path]) -> None:
    code, out, _ = lvlm("caption", *photos[:2], "--json", "--max-new-tokens", 12)
    document = json.loads(out)
    assert code == 0
    assert list(document) == ["model", "prompt", "items"]
    for photo, item in zip(photos, document["items"], strict=False):
        before, after = item["outputs"]
        assert item["image"] == str(photo)
        assert (before["method"], after["method"]) == ("none", "var+vhr")
        assert before["text"] and after["text"] and before["seconds"] > 0
        assert (
            "no attention sinks" in after["acted"]["var"]["note"]
            or after["acted"]["var"]["rows_edited"]
        )
        assert after["acted"]["vhr"]["heads"]


def test_caption_shows_two_texts(lvlm: Any, photos: list[Path]) -> None:
    code, out, _ = lvlm(
        "caption", photos[0], "--method", "vhr", "--set", "vhr.strength=3", "--max-new-tokens", 8
    )
    assert code == 0
    assert "none" in out and "vhr" in out and "heads by layer" in out


def test_words_gives_every_word_its_scores_and_marks_doubtful_objects(
    lvlm: Any, photos: list[Path]
) -> None:
    coffee = next(path for path in photos if path.stem == "coffee")
    words = ("caption", coffee, "--method", "vhr", "--words", "--max-new-tokens", 40)
    _, out, _ = lvlm(*words, "--json")
    outputs = json.loads(out)["items"][0]["outputs"]
    for output in outputs:
        found = output["grounding"]
        assert [word["word"] for word in found["words"]] == [
            word.strip(".,") for word in output["text"].split()
        ]
        assert all(
            output["text"][word["start"] : word["end"]] == word["word"] for word in found["words"]
        )
        assert {"t_vhd", "log_probability", "image_gain", "entropy"} <= set(found["words"][0])
        assert found["signal"] == "ask" and len(found["error"]) == 3
        asked = [word for word in found["words"] if word["ask"] is not None]
        assert asked and len(asked) < len(found["words"])
        for word in asked:
            assert word["weak"] == (word["chance"] < 0.5)
    code, out, _ = lvlm(*words)
    assert code == 0
    doubted = [w for output in outputs for w in output["grounding"]["words"] if w["weak"]]
    assert doubted and out.count(" %)") == len(doubted)
    assert "object words asked about" in out and "mean error 0.0" in out


def test_a_neutral_method_gives_the_same_text(lvlm: Any, photos: list[Path]) -> None:
    _, out, _ = lvlm(
        "caption",
        photos[0],
        "--json",
        "--set",
        "vhr.strength=1",
        "--set",
        "var.share=0",
        "--max-new-tokens",
        24,
    )
    before, after = json.loads(out)["items"][0]["outputs"]
    assert before["text"] == after["text"]


def test_a_broken_image_loses_no_other(lvlm: Any, photos: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("this is no photo")
    code, out, err = lvlm(
        "caption",
        photos[0],
        broken,
        tmp_path / "absent.jpg",
        photos[1],
        "--json",
        "--max-new-tokens",
        4,
    )
    items = json.loads(out)["items"]
    assert code == 3
    assert [len(item["outputs"]) for item in items] == [2, 0, 0, 2]
    assert "broken.jpg" in err and "absent.jpg" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["caption", "absent.jpg"], "there is no image file 'absent.jpg'"),
        (["caption", "PHOTO", "--model", "no/such-model"], "cannot load model 'no/such-model'"),
        (["caption", "PHOTO", "--method", "nonsense"], "there is no method 'nonsense'"),
        (["caption", "PHOTO", "--set", "vhr.strength=-1"], "strength must be >= 0, got -1"),
        (["caption", "PHOTO", "--set", "strength=1"], "--set takes method.setting=value"),
        (["caption", "PHOTO", "--max-new-tokens", "0"], "max-new-tokens must be >= 1, got 0"),
        (["caption", "PHOTO", "--prompt", " "], "the prompt is empty"),
        (["heads", "show", "PHOTO"], "as a head table"),
        (["heads", "show", "absent.json"], "as a head table"),
        (
            ["heads", "compare", "absent.json", "absent.json"],
            "cannot read 'absent.json' as a head table",
        ),
        (
            ["caption", "PHOTO", "--set", "vhr.table=absent.json"],
            "cannot read 'absent.json' as a head table",
        ),
        (["heads", "score", "--images", "absent", "--out", "t.json"], "takes a folder of photos"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(
    lvlm: Any, photos: list[Path], words: list[str], message: str
) -> None:
    code, out, err = lvlm(*(str(photos[0]) if word == "PHOTO" else word for word in words))
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("lvlm-fix:")]
    assert len(lines) == 1 and message in lines[0]


def test_methods_and_families_as_json(lvlm: Any) -> None:
    from lvlm_fix.tools.probing import APART

    _, out, _ = lvlm("methods", "--json")
    rows = {row["name"]: row for row in json.loads(out)["methods"]}
    vhr = rows["vhr"]
    assert vhr["paper"] == "arXiv 2412.13949" and vhr["edits"] == ["head_outputs"]
    assert vhr["needs"].startswith("no_image: one text-only pass") and "median" not in vhr["needs"]
    assert vhr["departs"].startswith("The paper leaves some points open") and not vhr["control"]
    assert {name for name, row in rows.items() if row["control"]} == {
        "eos-boost", "plausible-only", "random-heads", "random-vector", "truncate", "yes-push",
    }  # fmt: skip
    assert rows["var"]["edits"] == ["attention_weights"]
    _, out, _ = lvlm("families", "--json")
    found = json.loads(out)["families"]
    llava = next(row["methods"] for row in found if row["family"] == "llava")
    assert set(llava) <= set(rows) - {"none", *APART} and llava["vhr"] == llava["var"] == "works"
    assert {value for row in found for value in row["methods"].values()} <= {
        "works",
        "refused",
        "unbuilt",
        "unknown",
    }


@pytest.mark.parametrize("metric", ["vhd", "retrieval-picture"])
def test_heads_are_scored_saved_shown_and_drawn(
    lvlm: Any, photos: list[Path], tmp_path: Path, metric: str
) -> None:
    table, png = tmp_path / "heads.json", tmp_path / "heads.png"
    code, _, _ = lvlm(
        "heads", "score", "--images", photos[0].parent, "--metric", metric, "--out", table
    )
    assert code == 0
    loaded = HeadTable.load(table)
    assert (loaded.metric, loaded.n, loaded.model, loaded.mean.shape) == (metric, 4, "tiny", (6, 8))
    assert loaded.deviation.max() > 0 and (loaded.mean >= 0).all()
    assert set(loaded.versions) == {"python", "torch", "transformers"}
    code, out, _ = lvlm("heads", "show", table, "--png", png)
    assert code == 0 and metric in out
    with Image.open(png) as drawn:
        assert drawn.format == "PNG"
    _, out, _ = lvlm("heads", "compare", table, table, "--top", 5, "--json")
    document = json.loads(out)
    assert document["spearman"] == pytest.approx(1) and (
        document["heads"],
        document["overlap"],
    ) == (48, 1)
    code, _, _ = lvlm(
        "caption",
        photos[0],
        "--method",
        "vhr",
        "--set",
        f"vhr.table={table}",
        "--max-new-tokens",
        2,
    )
    assert code == 0


def test_labelled_captions_make_the_tables_of_act_and_ad_hh(
    lvlm: Any, photos: list[Path], tmp_path: Path
) -> None:
    captions, truth, words, table = (
        tmp_path / name for name in ("c.json", "t.json", "w.jsonl", "act.json")
    )
    photo = tmp_path / "000000000007.jpg"
    photo.write_bytes(photos[0].read_bytes())
    captions.write_text(json.dumps([{"image_id": 7, "caption": "A cup beside two dogs."}]))
    truth.write_text(json.dumps({"7": ["cup"]}))
    code, _, _ = lvlm(
        "eval", "score", "chair", "--captions", captions, "--truth", truth, "--words", words
    )
    assert code == 0
    assert json.loads(words.read_text()) == {
        "image": 7, "text": "A cup beside two dogs.", "grounded": ["cup"], "invented": ["dogs"],
    }  # fmt: skip
    code, _, _ = lvlm(
        "heads", "score", "--images", tmp_path, "--metric", "act", "--words", words, "--out", table
    )
    scored = HeadTable.load(table)
    assert code == 0 and (scored.metric, scored.n, scored.mean.shape) == ("act", 1, (6, 8))
    assert [bool((row == row).all()) for row in scored.mean] == [
        False,
        False,
        True,
        True,
        True,
        False,
    ]  # ACT's layers
    code, _, err = lvlm("heads", "score", "--images", tmp_path, "--metric", "ad-hh", "--out", table)
    assert code == 2 and "--words goes with the scores over words" in err


def test_the_library_imports_neither_evaluation_nor_demo() -> None:
    root = Path(cli.__file__).parent
    for file in root.rglob("*.py"):
        lines = file.read_text().splitlines()
        assert not [
            line
            for line in lines
            if line.strip().startswith(("import lvlm_", "from lvlm_")) and "lvlm_fix" not in line
        ]


def test_importing_changes_nothing_in_transformers() -> None:
    code = (
        "from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as a; before = dict(a);"
        "import lvlm_fix as lf; lf.fix; lf.VHR; lf.load; assert dict(a) == before;"
        "assert {'fix', 'VHR', 'load', 'METHODS'} <= set(dir(lf))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_of_the_families_is_that_of_the_data() -> None:
    from lvlm_fix.methods import METHODS
    from lvlm_fix.tools.probing import APART, FILE, read_probed
    from lvlm_fix.tools.probing_page import PAGE, in_all, page

    rows = read_probed()
    assert all({*row["methods"], *APART} <= {*METHODS} for row in rows)
    assert PAGE.read_text() == page(json.loads(FILE.read_text()))
    readme = Path(__file__).parents[1] / "README.md"
    assert in_all(rows) in " ".join(readme.read_text().split())
    works = {
        name: sum(row["methods"][name] == "works" for row in rows) for name in ("vhr", "var", "pai")
    }
    assert works["vhr"] >= 25 and works["var"] >= 20 and works["pai"] >= 20


def test_imports_run_one_way() -> None:
    """The demo may use the evaluation, and both the library; never the other way round."""
    root = Path(__file__).parents[1]
    for room, above in {"lvlm_fix": "lvlm_eval|lvlm_demo", "eval": "lvlm_demo"}.items():
        files = list((root / room).rglob("*.py"))
        assert files
        for file in files:
            assert not re.search(
                rf"^\s*(from|import) ({above})\b", file.read_text(), re.MULTILINE
            ), file
