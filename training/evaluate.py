"""Figures of a model folder on a split: `python -m training.evaluate --model lvlm_fix/tiny --coco ../shared/coco`.

CHAIR with the metric's vocabulary and a plain plural rule, and yes/no questions about every object in the truth with as
many absent ones. Intervals: 95 %, bootstrap over photos.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import rankdata
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from training.targets import LONG, ask

__all__ = ["auc", "nodes", "repetition"]


def nodes(caption: str, synonyms: dict[str, str], doubles: dict[str, str]) -> list[str]:
    """COCO nodes of a caption's object words, in the order of mention."""
    words = re.findall(r"[a-z]+", caption.lower())
    single = [
        w if w in synonyms else next((s for s in (w[:-1], w[:-2], w[:-3] + "y") if s in synonyms), w) for w in words
    ]
    found, at = [], 0
    while at < len(words):
        pair = " ".join(single[at : at + 2])
        word = doubles.get(pair, single[at]) if at + 1 < len(words) else single[at]
        at += 2 if at + 1 < len(words) and pair in doubles else 1
        if word and word in synonyms and words[at - 1] != "tied":
            found.append(synonyms[word])
    return found


def repetition(caption: str) -> float:
    """Share of the caption's trigrams that are unique."""
    words = re.findall(r"[a-z]+", caption.lower())
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(trigrams)) / len(trigrams) if trigrams else 1.0


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Chance that a yes question scores above a no question."""
    yes = truth.sum()
    return float((rankdata(scores)[truth].sum() - yes * (yes + 1) / 2) / (yes * (~truth).sum()))


def interval(values: np.ndarray, figure: object, draws: int = 1000) -> tuple[float, float, float]:
    """A figure of per-photo rows, and its bootstrap interval."""
    chance = np.random.default_rng(0)
    drawn = [figure(values[chance.integers(0, len(values), len(values))]) for _ in range(draws)]  # type: ignore[operator]
    return (figure(values), *np.percentile(drawn, (2.5, 97.5)))  # type: ignore[operator]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True, help="the metric's vocabulary.json")
    parser.add_argument("--out", type=Path, required=True, help="where captions and figures are written (json)")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="only the first photos")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    vocabulary = json.loads(arguments.vocabulary.read_text())
    synonyms, doubles = vocabulary["inverse_synonym_dict"], vocabulary["double_word_dict"]
    truths = json.loads((arguments.coco / "objects_trainval2014.nltk.json").read_text())
    ids = sorted(json.loads((arguments.coco / "splits.json").read_text())[arguments.split])[: arguments.limit]
    model = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    yes, no = (processor.tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in ("Yes", "No"))
    every = sorted({name for i in ids for name in truths[str(i)]})
    chance, rows, captions, scores, labels = random.Random(0), [], {}, [], []

    def inputs(images: list[Image.Image], prompts: list[str]) -> dict[str, torch.Tensor]:
        texts = [f"USER: <image>\n{prompt} ASSISTANT:" for prompt in prompts]
        return processor(images=images, text=texts, return_tensors="pt", padding=True)

    for start in tqdm(range(0, len(ids), 16), mininterval=10):
        some = ids[start : start + 16]
        images = [Image.open(arguments.coco / "images" / f"{i:012d}.jpg").convert("RGB") for i in some]
        given = inputs(images, [LONG[0]] * len(some))
        out = model.generate(**given)[:, given["input_ids"].shape[1] :]
        for number, text in zip(some, processor.batch_decode(out, skip_special_tokens=True), strict=True):
            said, truth = nodes(text, synonyms, doubles), set(truths[str(number)])
            wrong = sum(name not in truth for name in said)
            rows.append(
                (wrong, len(said), wrong > 0, len(set(said) & truth), len(truth), len(text.split()), repetition(text))
            )
            captions[number] = text.strip()
        for image, number in zip(images, some, strict=True):
            there = chance.sample(truths[str(number)], min(3, len(truths[str(number)])))
            absent = chance.sample([name for name in every if name not in truths[str(number)]], len(there))
            if there:
                given = inputs([image] * 2 * len(there), [ask(name) for name in there + absent])
                logits = model(**given, logits_to_keep=1).logits[:, -1]
                scores += (logits[:, yes] - logits[:, no]).tolist()
                labels += [True] * len(there) + [False] * len(there)
    table, questions = np.array(rows, float), np.array([scores, labels], float).T
    figures = {
        "CHAIR_I %": interval(table, lambda t: 100 * t[:, 0].sum() / t[:, 1].sum()),
        "CHAIR_S %": interval(table, lambda t: 100 * t[:, 2].mean()),
        "recall %": interval(table, lambda t: 100 * t[:, 3].sum() / t[:, 4].sum()),
        "words": interval(table, lambda t: t[:, 5].mean()),
        "unique trigrams": interval(table, lambda t: t[:, 6].mean()),
        "yes/no AUC": interval(questions, lambda q: auc(q[:, 0], q[:, 1] > 0)),
        "yes/no accuracy %": interval(questions, lambda q: 100 * ((q[:, 0] > 0) == (q[:, 1] > 0)).mean()),
        "yes ratio": interval(questions, lambda q: (q[:, 0] > 0).mean()),
    }
    arguments.out.write_text(
        json.dumps({"n": len(ids), "questions": len(scores), "figures": figures, "captions": captions})
    )
    print(f"n = {len(ids)} photos, {len(scores)} questions")
    for name, (value, low, high) in figures.items():
        print(f"{name:18} {value:7.3f}  [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
