"""The subcommand `lvlm-fix eval grounding`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lvlm_eval.grounding import BIN, Mentions, mentions_of, score
from lvlm_eval.options import (
    AsJson,
    BatchSize,
    Data,
    Ids,
    Images,
    Limit,
    Model,
    Prompt,
    Revision,
    Seed,
    Split,
    TruthFile,
)
from lvlm_eval.run import all_there, commit_of, draw
from lvlm_fix.errors import SettingError
from lvlm_fix.models import DESCRIBE
from lvlm_fix.tools.photos import Broken

__all__ = ["grounding_command"]


def grounding_command(
    data: Data,
    model: Model = "tiny",
    revision: Revision = None,
    images: Images = None,
    truth: TruthFile = None,
    split: Split = None,
    ids: Ids = None,
    limit: Limit = None,
    batch_size: BatchSize = 8,
    max_new_tokens: Annotated[int, typer.Option(help="longest text, tokens")] = 128,
    prompt: Prompt = DESCRIBE,
    bin_words: Annotated[int, typer.Option(help="width of a bin of place, in words")] = BIN,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure how well each score of a word tells invented objects from real ones.

    Each is measured alone, among words at a similar place in the caption, and in addition to it.

    Example: lvlm-fix eval grounding --data coco --split test --limit 100
    """
    if bin_words < 1 or batch_size < 1:
        raise SettingError("bin-words and batch-size must be >= 1")
    import lvlm_fix as lf
    from lvlm_fix.families import family_of
    from lvlm_fix.grounding import ground
    from lvlm_fix.models import answer_ids, revision_of

    samples, photos, known = draw("chair", data, images, truth, (), ids, split, limit, seed)
    chosen = [int(sample["image_id"]) for sample in samples[""]]
    all_there(chosen, photos)
    loaded, processor = lf.load(model, revision=revision)
    asker = lf.Asker(loaded, processor)
    tokenizer = asker.tokenizer
    heads = family_of(loaded).decoder.config.num_attention_heads
    ks = [2**power for power in range(heads.bit_length()) if 2**power <= heads]
    found: list[Mentions] = []
    broken = Broken()
    for start in track(range(0, len(chosen), batch_size), "captions", console=Console(stderr=True)):
        batch = chosen[start : start + batch_size]
        read = list(broken.opened((key, photos[key]) for key in batch))
        if not read:
            continue
        opened = [image for _, image in read]
        texts = answer_ids(
            loaded, processor, opened, [prompt] * len(opened), max_new_tokens=max_new_tokens
        )
        for (key, image), said in zip(read, texts, strict=True):
            if not tokenizer.decode(said, skip_special_tokens=True).strip():
                print(
                    f"lvlm-fix: the caption of photo {key} is empty and is left out",
                    file=sys.stderr,
                )
                continue
            one = ground(loaded, processor, image, prompt, said, published=True, ask=asker)
            found.append(mentions_of(key, one, known[key], ks))
    result: dict[str, Any] = {
        "model": model,
        "model_revision": revision_of(loaded),
        "prompt": prompt,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        **score(found, seed, width=bin_words),
        "commit": commit_of(),
        "command": " ".join(["lvlm-fix", *sys.argv[1:]]),
    }
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(_table(result))
    broken.end()


def _table(result: Mapping[str, Any]) -> Table:
    """Signals, the best first, and combinations behind them; in 80 columns."""
    shown = Table("score", "AUROC", "within bins", "gain over place", box=SIMPLE, pad_edge=False)
    shown.title = (
        f"{result['invented']} of {result['object_words']} object words invented,"
        f" {result['photos']} photos"
    )
    shown.caption = (
        f"AUROC [95 % over photos]; bins of {result['bin_words']} words; gain: AUROC of score and"
        " place fitted on other photos, less that of place"
    )
    for part in ("signals", "combined"):
        rows = sorted(result[part].items(), key=lambda item: -item[1]["auroc"])
        for name, figures in rows:
            shown.add_row(name, *(_cell(figures, key) for key in ("auroc", "within_bins", "gain")))
        shown.add_section()
    return shown


def _cell(figures: Mapping[str, Any], key: str) -> str:
    low, high = figures[f"{key}_ci"]
    return f"{figures[key]:.3f} [{low:.2f}, {high:.2f}]".replace("0.", ".")
