"""Runs: killed and resumed, shared among processes, damaged, added to."""

import contextlib
import io
import multiprocessing
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lvlm_eval.compare import load
from lvlm_eval.ended import Said
from lvlm_eval.records import append, write
from lvlm_eval.run import Rate, Serve, Texts, resumable, run
from rich.console import Console
from rich.progress import Progress

from lvlm_fix import DataError, SettingError

sys.path.insert(0, str(Path(__file__).parent))
from standin import TRUTH, answering, plan

FILES = ["none.jsonl", "vhr-strength-1.5.jsonl"]


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run(plan(), answering(), out)
    return out


def test_a_run_holds_every_sample_once_and_in_order(whole: Path) -> None:
    loaded = load(whole)
    assert list(loaded.captions["none"]) == list(TRUTH)
    assert loaded.methods == ["none", "vhr:strength=1.5"]
    assert {
        "command",
        "settings",
        "seed",
        "versions",
        "commit",
        "model_revision",
        "image_ids",
    } <= set(loaded.record)
    assert sorted(path.name for path in whole.iterdir()) == sorted([*FILES, "run.json"])


@pytest.mark.filterwarnings(
    "ignore:.*multi-threaded.*:DeprecationWarning"
)  # the child only sleeps and writes
def test_killed_ten_times_and_resumed_it_is_the_same_to_the_byte(
    whole: Path, tmp_path: Path
) -> None:
    """Other moments: LVLM_FIX_KILL_SEED=1 python -m pytest tests/eval/test_run.py -k ten_times"""
    draw = random.Random(int(os.environ.get("LVLM_FIX_KILL_SEED", "0")))
    out, kills = tmp_path / "run", 0
    fork = multiprocessing.get_context(
        "fork"
    )  # a fresh interpreter would spend seconds on imports, ten times
    while kills < 10:
        process = fork.Process(target=run, args=(plan(), answering(0.2), out))
        process.start()
        time.sleep(draw.uniform(0, 0.25))
        assert process.is_alive(), "done before the tenth kill"
        process.kill()
        process.join()
        kills += 1
        for part in (out / "parts").glob("*"):
            _tear(part)
    run(plan(), answering(), out)
    assert contents(out) == contents(whole)
    assert (out / "run.json").exists()
    assert not (out / "parts").exists()


def _tear(path: Path) -> None:
    """What a kill in the middle of a write leaves."""
    with path.open("ab") as file:
        file.write('{"image_id": 5, "caption": "é'.encode()[:-1])


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 400)), max_size=5),
    st.sampled_from([("none",), ("none", "vhr:strength=1.5")]),
)
def test_killed_anywhere_and_resumed_it_is_the_same_to_the_byte(
    whole: Path, kills: list[tuple[int, int]], first: tuple[str, ...]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        for number, (batches, torn) in enumerate(kills):
            methods = first if number == 0 else ("none", "vhr:strength=1.5")
            with contextlib.suppress(Killed):
                run(plan(methods), dying(batches), out)
            for part in (out / "parts").glob("*"):  # the write that the kill cut
                lines = (whole / part.name.replace(".0.", ".")).read_bytes().splitlines(True)
                kept = part.read_bytes()
                left = b"".join(line.replace(b"{", b'{"split": "", ', 1) for line in lines)
                if left.startswith(kept):
                    part.write_bytes(left[: len(kept) + torn])
        run(plan(), answering(), out)
        assert contents(out) == contents(whole)
        assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "run.json"])


class Killed(Exception):
    """Where a process would have ended."""


def dying(after: int) -> Serve:
    """Texts for so many calls, and then the end."""
    left = [after]

    @contextlib.contextmanager
    def serve(paths: Sequence[Path], prompts: Sequence[str]) -> Generator[Texts]:
        with answering()(paths, prompts) as texts:

            def counted(method: str) -> list[Said]:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return texts(method)

            yield counted

    return serve


def test_only_what_is_missing_is_asked_again(whole: Path, tmp_path: Path) -> None:
    out, parts = tmp_path / "run", tmp_path / "run" / "parts"
    parts.mkdir(parents=True)
    lines = (whole / "none.jsonl").read_bytes().splitlines(keepends=True)
    lines = [line.replace(b"{", b'{"split": "", ', 1) for line in lines]
    (parts / "none.0.jsonl").write_bytes(
        b"".join(lines[:6]) + lines[6][:9]
    )  # a batch and a half, torn
    calls: list[list[str]] = []
    run(plan(), answering(calls=calls), out)
    assert contents(out) == contents(whole)
    assert next(call[1] for call in calls if call[0] == "none") == f"{5:012d}"
    run(plan(), answering(calls=calls), out)
    assert len(calls) == 5 + 6


def test_a_damaged_line_is_named_and_nothing_is_lost(whole: Path, tmp_path: Path) -> None:
    parts = tmp_path / "run" / "parts"
    parts.mkdir(parents=True)
    part = parts / "none.0.jsonl"
    part.write_text('{"image_id": 1, "capt\n{"image_id": 2, "caption": "x"}\n')
    with pytest.raises(DataError, match="line 1 is damaged"):
        run(plan(), answering(), tmp_path / "run")
    assert part.read_text().endswith('"x"}\n')


@pytest.mark.parametrize("world", [2, 3, 9])
def test_several_processes_write_what_one_writes(whole: Path, tmp_path: Path, world: int) -> None:
    barrier, calls = threading.Barrier(world), []
    threads = [
        threading.Thread(
            target=run,
            args=(plan(), answering(0.01, calls), tmp_path / "run"),
            kwargs={"rank": rank, "world": world, "wait": barrier.wait},
        )
        for rank in range(world)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert contents(tmp_path / "run") == contents(whole)
    assert len(calls) == 12  # 6 batches under two methods, each once


def test_a_method_can_be_added_and_another_run_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(plan(["none"]), answering(), out)
    run(plan(["none", "var"]), answering(), out)
    assert load(out).methods == ["none", "var"]
    with pytest.raises(DataError, match="holds another run: seed"):
        run(plan(seed=1), answering(), out)
    (out / "var.jsonl").unlink()
    with pytest.raises(DataError, match="not finished"):
        load(out)
    with pytest.raises(DataError, match=r"no run\.json"):
        load(tmp_path)


def test_lost_or_doubled_samples_are_found(tmp_path: Path) -> None:
    run(plan(["none"]), answering(), tmp_path / "run")
    path = tmp_path / "run" / "none.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    with pytest.raises(DataError, match="22 of 23"):
        load(tmp_path / "run")
    path.write_text("".join([*lines, lines[0]]))
    with pytest.raises(DataError, match="appears twice"):
        load(tmp_path / "run")


def test_a_plan_that_cannot_be_done_is_refused() -> None:
    with pytest.raises(SettingError, match="batch-size"):
        plan(batch_size=0)
    with pytest.raises(SettingError, match="once"):
        plan(["var", "var"])
    with pytest.raises(DataError, match="no samples"):
        plan(samples={})
    with pytest.raises(DataError, match="000000000099"):
        plan(samples={"": [{"image_id": 99}]})


def test_a_question_of_several_splits_is_asked_once_and_photos_stay_together(
    tmp_path: Path,
) -> None:
    def question(number: int, photo: int, name: str) -> dict[str, object]:
        image = f"{photo:012d}.jpg"
        return {
            "question_id": number,
            "image_id": photo,
            "image": image,
            "question": f"{name}?",
            "label": "yes",
        }

    first = [question(1, 1, "dog"), question(2, 1, "cat"), question(3, 2, "dog")]
    second = [question(1, 2, "dog"), question(2, 1, "cat"), question(3, 1, "bus")]
    calls: list[list[str]] = []
    asked = plan(["none", "var"], task="pope", samples={"a": first, "b": second}, batch_size=3)
    run(asked, answering(calls=calls), tmp_path / "run")
    names = [f"{photo:012d}" for photo in (1, 1, 1, 2)]
    assert calls == [
        [method, *part] for part in (names[:3], names[3:]) for method in ("none", "var")
    ]
    answers = load(tmp_path / "run").answers
    assert [answers["a"]["var"][n][-4:] for n in (1, 2, 3)] == ["dog?", "cat?", "dog?"]
    assert [answers["b"]["var"][n][-4:] for n in (1, 2, 3)] == ["dog?", "cat?", "bus?"]
    assert (
        (tmp_path / "run" / "var.b.jsonl")
        .read_text()
        .startswith('{"question_id": 1, "image_id": 2, "text"')
    )
    assert [
        len(batch) for batch in plan(task="pope", samples={"a": first}, batch_size=1).batches()
    ] == [1, 1, 1]


def test_a_full_disk_is_one_error_and_what_was_written_stays(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no device that is always full")
    with pytest.raises(DataError, match=r"cannot write /dev/full: No space left on device; what"):
        append(full, [{"image_id": 1}])
    path = tmp_path / "folder"
    (path / "inner").mkdir(parents=True)  # cannot be replaced by a file
    with pytest.raises(DataError, match=r"cannot write .*folder.*it is as it was"):
        write(path, [{"image_id": 1}])
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, resumable(tmp_path):
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert f"stays in {tmp_path}; give the same command again to resume" in capsys.readouterr().err


def test_the_bar_tells_rate_and_time_left() -> None:
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=100, color_system=None)
    with Progress(*Progress.get_default_columns(), Rate(), console=console) as progress:
        bar = progress.add_task("vhr", total=4000)
        for _ in range(3):
            time.sleep(0.01)
            progress.advance(bar, 8)
        progress.refresh()
    assert re.search(r"vhr .* \d+:\d\d:\d\d \d+\.\d\d texts/s", said.getvalue())
