"""`lvlm-fix eval tune`: settings for one model and one's own photos."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

import lvlm_fix as lf
from lvlm_eval.chair.score import columns, judge
from lvlm_eval.compare import BASE
from lvlm_eval.left_out import LeftOut, end, read_left_out
from lvlm_eval.options import (
    AsJson,
    BatchSize,
    Data,
    Ids,
    Images,
    Limit,
    Model,
    Prompt,
    TruthFile,
)
from lvlm_eval.records import read, write_json
from lvlm_eval.run import Plan, Serve, draw, resumable, run, stem
from lvlm_eval.serve import methods_of, serving
from lvlm_eval.stats import Array
from lvlm_eval.tune import GOAL, Goal, Space, confirm, search, space_of
from lvlm_fix.errors import DataError, SettingError
from lvlm_fix.methods import parse_methods
from lvlm_fix.models import DESCRIBE, revision_of

__all__ = ["tune_command", "tuned"]


def tune_command(
    data: Data,
    out: Annotated[Path, typer.Option(help="folder; give the same command again to resume")],
    method: Annotated[list[str], typer.Option(help="repeatable; methods to search")],
    model: Model = "tiny",
    range_: Annotated[
        list[str] | None,
        typer.Option("--range", help="method.setting=low:high; default: a quarter to four times"),
    ] = None,
    images: Images = None,
    truth: TruthFile = None,
    ids: Ids = None,
    limit: Limit = None,
    captions: Annotated[int, typer.Option(help="budget of the search, in captions")] = 2000,
    minutes: Annotated[float | None, typer.Option(help="budget of the search, in minutes")] = None,
    batch_size: BatchSize = 8,
    max_new_tokens: Annotated[int, typer.Option(help="longest text, tokens")] = 128,
    prompt: Prompt = DESCRIBE,
    seed: Annotated[int, typer.Option(help="seed of the draw, the split and the search")] = 0,
    as_json: AsJson = False,
) -> None:
    """Search for settings that help this model, or say that nothing helps.

    The search runs on half of the photos; the other half confirms. Settings that help go to
    OUT/settings.json, which `--set @OUT/settings.json` reads.

    Example: lvlm-fix eval tune --data coco --method vhr --captions 600 --out runs/tune
    """
    spaces = _spaces(method, range_ or [])
    samples, photos, known = draw("chair", data, images, truth, [], ids, None, limit, seed)
    loaded, processor = lf.load(model, device="cuda" if torch.cuda.is_available() else "cpu")
    methods: dict[str, Any] = {BASE: ()}
    plan = Plan(
        task="chair", model=model, methods=(BASE,), samples=samples, photos=photos, truth=known,
        prompt=prompt, batch_size=batch_size, max_new_tokens=max_new_tokens, seed=seed,
        model_revision=revision_of(loaded),
    )  # fmt: skip
    serve = serving(loaded, processor, methods, max_new_tokens)
    with resumable(out):
        result = tuned(plan, serve, out, spaces, methods, captions=captions, minutes=minutes)
    winner = result["winner"]
    if winner is not None:
        name, _, settings = winner.partition(":")
        pairs = {f"{name}.{k}": v for k, v in (p.split("=") for p in settings.split(","))}
        write_json(out / "settings.json", pairs)
    gone = read_left_out(out / "tuned") | read_left_out(out / "confirmed")
    if as_json:
        print(json.dumps(result))
        return end(gone, len(samples[""]))
    console = Console(highlight=False, soft_wrap=True)
    for spec, found in result["candidates"].items():
        each = (
            f"{name} {100 * found[name]['difference']:+.1f} "
            f"[{100 * found[name]['low']:+.1f}, {100 * found[name]['high']:+.1f}]"
            for name in ("chair_i", "recall")
        )
        console.print(
            f"{spec}: {', '.join(each)}, p after Holm {found['p_holm']:.3f}", markup=False
        )
    console.print(
        f"nothing helps, on {result['n']} photos that nothing was chosen on"
        if winner is None
        else f"{winner} helps; --method {winner.partition(':')[0]} --set @{out / 'settings.json'}",
        markup=False,
    )
    end(gone, len(samples[""]))


def tuned(
    plan: Plan,
    serve: Serve,
    out: Path,
    spaces: Mapping[str, Space],
    methods: dict[str, Any],
    *,
    captions: int = 2000,
    minutes: float | None = None,
    goal: Goal = GOAL,
) -> dict[str, Any]:
    """`confirm` of what `search` finds; runs are kept in `out`, and used again.

    Photos are split into halves by the plan's seed. Specs are put into `methods` before they are
    served.

    Raises:
        SettingError: fewer than two photos, or a budget below one trial.
    """
    drawn = list(plan.samples[""])
    random.Random(plan.seed).shuffle(drawn)
    halves = {
        name: sorted(half, key=lambda record: record["image_id"])
        for name, half in (("tuned", drawn[::2]), ("confirmed", drawn[1::2]))
    }
    trials = captions // max(1, len(halves["tuned"])) - 1  # one is the unmodified model
    if not halves["confirmed"] or trials < 1:
        raise SettingError(
            f"{captions} captions and {len(drawn)} photos are too few: half of the photos are "
            "captioned once for the unmodified model, and once for each trial"
        )
    begun = time.monotonic()
    broken: dict[str, LeftOut] = {}

    def rows(half: str, specs: Sequence[str]) -> dict[str, Array]:
        methods.update({spec: methods_of(spec, {}) for spec in specs if spec not in methods})
        own = replace(plan, samples={"": halves[half]}, methods=tuple(dict.fromkeys(specs)))
        gone = run(own, serve, out / half)
        if broken.setdefault(half, gone) != gone:
            raise DataError(
                "a photo broke, or was mended, during the search; give the same command again"
            )
        files = {spec: read(out / half / f"{stem(spec)}.jsonl") for spec in specs}
        texts = {
            spec: {r["image_id"]: r["caption"] for r in found if r["image_id"] not in gone}
            for spec, found in files.items()
        }
        return {spec: columns(judge(found, plan.truth)) for spec, found in texts.items()}

    base = rows("tuned", [BASE])[BASE]
    left = None if minutes is None else 60 * minutes - (time.monotonic() - begun)
    best = search(
        lambda spec: rows("tuned", [spec])[spec], base, spaces, trials, goal=goal, seed=plan.seed,
        seconds=left,
    )  # fmt: skip
    if not best:
        gone = len(read_left_out(out / "confirmed"))
        return {"n": len(halves["confirmed"]) - gone, "candidates": {}, "winner": None}
    judged = rows("confirmed", [BASE, *best.values()])
    base = judged.pop(BASE)
    return confirm(judged, base, goal=goal, seed=plan.seed)


def _spaces(methods: Sequence[str], ranges: Sequence[str]) -> dict[str, Space]:
    """Where to look, per method."""
    given: dict[str, dict[str, tuple[float, float]]] = {}
    for text in ranges:
        key, _, ends = text.partition("=")
        name, _, setting = key.partition(".")
        try:
            low, high = (float(end) for end in ends.split(":"))
        except ValueError:
            raise SettingError(f"--range takes method.setting=low:high, got {text!r}") from None
        if name not in methods or not low < high:
            raise SettingError(f"--range {text}: name a --method, and a low end below the high end")
        given.setdefault(name, {})[setting] = (low, high)
    for name in methods:
        parse_methods(name)  # an unknown one is refused before anything is read
    return {name: space_of(name, given.get(name)) for name in methods}
