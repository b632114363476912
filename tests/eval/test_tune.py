"""The search for settings: it finds what helps, says so where nothing does, and resumes."""

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from lvlm_eval.cli import app
from lvlm_eval.ended import Said
from lvlm_eval.run import Plan, Serve, Texts
from lvlm_eval.stats import Array
from lvlm_eval.tune import Goal, confirm, search, space_of, spec_of
from lvlm_eval.tuning import tuned
from PIL import Image
from schema import held
from typer.testing import CliRunner

import lvlm_fix as lf
from lvlm_fix.tools.cli import settings_of

WORDS = ["dog", "cat", "bus", "car", "bench", "kite", "bird", "boat", "horse", "pizza"]
SPACES = {"vhr": {"strength": (0.5, 3.0)}, "pai": {"strength": (0.1, 2.0)}}


def world(seed: int, photos: int, gain: float, shuffled: bool) -> Callable[[str], Array]:
    """Counts of captions that name four objects of ten, 60 % of them there; `gain` more under VHR
    near a strength of 2. Shuffled: judged by the objects of another photo.
    """
    rng = np.random.default_rng(seed)
    there = rng.random((photos, len(WORDS))) < 0.4
    truth = there[rng.permutation(photos)] if shuffled else there

    def rows(spec: str) -> Array:
        name, _, value = spec.partition(":strength=")
        right = 0.6 + (gain if name == "vhr" and abs(float(value) - 2) < 0.6 else 0)
        own = np.random.default_rng([seed, *spec.encode()])
        said = np.zeros_like(there)
        for photo in range(photos):
            for _ in range(4):
                pool = np.flatnonzero(there[photo] == (own.random() < right))
                said[photo, own.choice(pool if len(pool) else len(WORDS))] = True
        named, hit = said.sum(1), (said & truth).sum(1)
        wrong, ones = named - hit, np.ones(photos)
        present = truth.sum(1)
        return np.stack(
            [ones, wrong > 0, wrong, named, hit, named, present, 12 * ones, ones], 1
        ).astype(np.float64)

    return rows


def verdict(seed: int, gain: float, shuffled: bool) -> str | None:
    first, second = (world(2 * seed + half, 80, gain, shuffled) for half in range(2))
    best = search(first, first("none"), SPACES, 12, seed=seed)
    return confirm({spec: second(spec) for spec in best.values()}, second("none"))["winner"]


def test_what_helps_is_found_and_on_shuffled_truth_nothing_helps() -> None:
    winner = verdict(1, gain=0.25, shuffled=False)
    assert winner is not None and winner.startswith("vhr:")
    assert abs(float(winner.partition("=")[2]) - 2) < 0.6
    assert sum(verdict(seed, 0.25, True) is None for seed in range(20)) >= 18


def test_a_text_that_loses_recall_or_repeats_does_not_count() -> None:
    base = world(0, 50, 0, False)("none")
    short, looping = base.copy(), base.copy()
    short[:, 4] = np.floor(short[:, 4] / 2)
    looping[:, 8] = 0.9
    assert Goal().missed(base, base) == 0
    assert Goal().missed(short, base) > 0.1
    assert Goal().missed(looping, base) == pytest.approx(0.05)
    better = base.copy()
    better[:, 2] = 0
    better[:, 8] = 0.9
    found = confirm({"vhr": better}, base)
    assert found["candidates"]["vhr"]["p_holm"] < 0.05 and found["winner"] is None


def test_ranges_come_from_the_settings_limits() -> None:
    assert space_of("vhr") == {"strength": (0.5, 8.0)}
    assert space_of("pai")["plausible"] == (0.025, 0.4)
    with pytest.raises(lf.SettingError, match="no setting 'size'"):
        space_of("vhr", {"size": (0, 1)})
    assert spec_of("vhr", {"strength": 1.23456}) == "vhr:strength=1.235"


def serving(calls: list[str], methods: dict[str, object]) -> Serve:
    """A model that invents a dog unless VHR acts."""

    @contextmanager
    def serve(paths: Sequence[Path], prompts: Sequence[str]) -> Generator[Texts]:
        def texts(spec: str) -> list[Said]:
            assert spec in methods
            calls.append(spec)
            more = "" if spec.startswith("vhr") else " and a dog"
            return [Said(f"a cat sits on a bench near the road{more}", "end")] * len(paths)

        yield texts

    return serve


def test_the_same_search_again_captions_nothing_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    keys = range(1, 25)
    plan = Plan(
        task="chair", model="stand-in", methods=("none",), prompt="Describe.",
        samples={"": [{"image_id": key} for key in keys]},
        photos={key: Path(f"{key}.jpg") for key in keys},
        truth={key: frozenset({"cat", "bench"}) for key in keys},
    )  # fmt: skip
    methods: dict[str, object] = {"none": ()}
    calls: list[str] = []
    found = tuned(plan, serving(calls, methods), tmp_path, SPACES, methods, captions=72)
    assert found["winner"].startswith("vhr:") and found["n"] == 12
    held(["eval", "tune", "--json"], json.dumps(found))
    first = len(calls)
    again = tuned(plan, serving(calls, methods), tmp_path, SPACES, methods, captions=72)
    assert again == found and len(calls) == first
    cut, left = tmp_path / "cut", [5]

    @contextmanager
    def dying(paths: Sequence[Path], prompts: Sequence[str]) -> Generator[Texts]:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        with serving(calls, methods)(paths, prompts) as texts:
            yield texts

    with pytest.raises(KeyboardInterrupt):
        tuned(plan, dying, cut, SPACES, methods, captions=72)
    assert tuned(plan, serving(calls, methods), cut, SPACES, methods, captions=72) == found
    with pytest.raises(lf.SettingError, match="too few"):
        tuned(plan, serving(calls, methods), tmp_path / "b", SPACES, methods, captions=12)


def test_settings_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"vhr.strength": "1.5"}))
    assert settings_of([f"@{path}", "pai.strength=0.3"]) == {
        "vhr.strength": "1.5",
        "pai.strength": "0.3",
    }
    path.write_text("[1]")
    with pytest.raises(lf.SettingError, match="not a settings file"):
        settings_of([f"@{path}"])
    with pytest.raises(lf.SettingError, match="cannot be read"):
        settings_of([f"@{tmp_path / 'none.json'}"])


def test_the_command_prints_what_its_schema_says(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for key in range(1, 5):
        Image.new("RGB", (40, 30), (40 * key, 90, 20)).save(tmp_path / "images" / f"{key}.jpg")
    objects = {str(key): ["dog"] for key in range(1, 5)}
    (tmp_path / "objects.json").write_text(json.dumps(objects))
    words = ["tune", "--data", tmp_path, "--truth", tmp_path / "objects.json", "--method", "vhr"]
    words += ["--captions", 4, "--max-new-tokens", 8, "--out", tmp_path / "run", "--json"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    held(["eval", *words], done.stdout)
    first = json.loads((tmp_path / "run" / "tuned" / "none.jsonl").read_text().splitlines()[0])
    broken = first["image_id"]  # of the half that is searched on
    (tmp_path / "images" / f"{broken}.jpg").write_bytes(b"torn")
    words[words.index(tmp_path / "run")] = tmp_path / "again"
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 3, done.output
    held(["eval", *words], done.stdout)
    assert f"photo {broken}: " in done.stderr and "1 of 4 photos are broken" in done.stderr
