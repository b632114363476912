"""`lvlm-fix reproduce`: what it would do, what it fetches, and a table of ours."""

import json
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from lvlm_eval import fetch
from lvlm_eval.published import TABLES
from lvlm_eval.reproduce import app
from lvlm_eval.serve import methods_of
from schema import held
from typer.testing import CliRunner

import lvlm_fix as lf

PHOTOS = Path(lf.__file__).parent / "photos"


def asked(*words: str) -> str:
    """Standard output of `lvlm-fix reproduce ...`."""
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    if "--json" in words:
        held(["reproduce"], result.stdout)
    return result.stdout


def test_every_table_can_be_announced_and_names_methods_that_exist() -> None:
    listed = json.loads(asked("--json"))["tables"]
    assert listed.keys() == TABLES.keys()
    for name, table in TABLES.items():
        plan = json.loads(asked(name, "--dry-run", "--json"))
        assert plan["texts"] > 0 and plan["differs"]
        assert table.rows and next(iter(table.rows)) == "none"
        for spec in table.rows:
            assert bool(methods_of(spec, {})) == (not spec.startswith("none"))


def test_an_unknown_table_names_those_there_are() -> None:
    with pytest.raises(lf.SettingError, match="vhr-chair"):
        CliRunner().invoke(app, ["nothing"], catch_exceptions=False)


class Silent(SimpleHTTPRequestHandler):
    """Files of a folder, without a log."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands in for COCO's and POPE's pages."""
    root = tmp_path / "pages"
    (root / "annotations").mkdir(parents=True)
    (root / "val2014").mkdir()
    server = HTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(fetch, "COCO", address)
    monkeypatch.setattr(fetch, "POPE", address)
    yield root
    server.shutdown()
    server.server_close()


def test_what_is_missing_is_fetched_and_what_is_there_is_not(pages: Path, tmp_path: Path) -> None:
    archive = pages / "annotations" / "annotations_trainval2014.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr(
            "annotations/instances_val2014.json",
            json.dumps({"images": [{"id": n} for n in (7, 3, 5)]}),
        )
        packed.writestr("annotations/captions_val2014.json", "{}")
    for number in (3, 5, 7):
        (pages / "val2014" / f"COCO_val2014_{number:012d}.jpg").write_bytes(
            (PHOTOS / "coffee.jpg").read_bytes()
        )
    data = tmp_path / "coco"
    fetch.fetch_annotations(data)
    chosen = fetch.val2014(data, 2, 0)
    assert len(chosen) == 2 and chosen == sorted(chosen)
    fetch.fetch_photos(data, chosen)
    assert len(list((data / "val2014").iterdir())) == 2
    assert sorted(p.name for p in (data / "annotations").iterdir()) == sorted(fetch.ANNOTATIONS)
    archive.unlink()
    for path in (pages / "val2014").iterdir():
        path.unlink()
    fetch.fetch_annotations(data)
    fetch.fetch_photos(data, chosen)


def test_what_cannot_be_fetched_names_where_to_put_it(pages: Path, tmp_path: Path) -> None:
    with pytest.raises(lf.DataError, match=r"put it at .*coco_pope_random\.json"):
        fetch.fetch_questions(tmp_path)
    with pytest.raises(lf.DataError, match="annotations_trainval2014"):
        fetch.fetch_annotations(tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_a_table_of_ours_runs_and_shows_its_figures(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "000000000001.jpg").write_bytes((PHOTOS / "coffee.jpg").read_bytes())
    (tmp_path / "images" / "000000000002.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes())
    (tmp_path / "splits.json").write_text('{"test": [1, 2]}')
    truth = tmp_path / "objects.json"
    truth.write_text('{"1": ["cup"], "2": ["cat"]}')
    words = ("tiny", "--data", str(tmp_path), "--truth", str(truth), "--out", str(tmp_path / "run"))
    found = json.loads(asked(*words, "--json"))
    assert found["photos"] == 2
    assert found["rows"].keys() == TABLES["tiny"].rows.keys()
    shown = asked(*words)  # the finished run is read again
    assert "vhr, ours" in shown and "differs: " in shown
