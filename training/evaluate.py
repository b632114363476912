"""Figures of a model folder on a split: `python -m training.evaluate --model lvlm_fix/tiny --coco DIR --out FILE`.

Captions are judged by `lvlm_eval`. Up to two objects of a photo's truth are asked about, and as many absent ones, drawn
evenly from all objects of the split. Intervals: 95 %, bootstrap.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lvlm_eval.chair import judge, score
from PIL import Image
from scipy.stats import rankdata
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from training.targets import LONG, ask

__all__ = ["auc"]


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Chance that a yes question scores above a no question."""
    yes = truth.sum()
    return float((rankdata(scores)[truth].sum() - yes * (yes + 1) / 2) / (yes * (~truth).sum()))


def interval(values: np.ndarray, figure: Callable[[np.ndarray], float], draws: int = 1000) -> list[float]:
    """Low and high end for a figure of rows of questions."""
    chance = np.random.default_rng(0)
    drawn = [figure(values[chance.integers(0, len(values), len(values))]) for _ in range(draws)]
    return [float(end) for end in np.percentile(drawn, (2.5, 97.5))]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="where captions and figures are written (json)")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="only the first photos")
    arguments = parser.parse_args()
    truths = json.loads((arguments.coco / "objects_trainval2014.nltk.json").read_text())
    ids = sorted(json.loads((arguments.coco / "splits.json").read_text())[arguments.split])[: arguments.limit]
    model = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    yes, no = (processor.tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in ("Yes", "No"))
    every = sorted({name for i in ids for name in truths[str(i)]})
    chance, captions, scores, labels = random.Random(0), {}, [], []
    prompt = f"USER: <image>\n{LONG[0]} ASSISTANT:"
    for start in tqdm(range(0, len(ids), 16), mininterval=10):
        some = ids[start : start + 16]
        images = [Image.open(arguments.coco / "images" / f"{i:012d}.jpg").convert("RGB") for i in some]
        given = processor(images=images, text=[prompt] * len(some), return_tensors="pt", padding=True)
        out = model.generate(**given)[:, given["input_ids"].shape[1] :]
        for number, text in zip(some, processor.batch_decode(out, skip_special_tokens=True), strict=True):
            captions[number] = text.strip()
        seen = model.get_image_features(given["pixel_values"]).pooler_output
        for patches, number in zip(seen, some, strict=True):
            there = chance.sample(truths[str(number)], min(2, len(truths[str(number)])))
            absent = chance.sample([name for name in every if name not in truths[str(number)]], len(there))
            if there:
                asked = processor.tokenizer(
                    [f"USER: {'<image>' * len(patches)}\n{ask(name)} ASSISTANT:" for name in there + absent],
                    return_tensors="pt",
                    padding=True,
                )
                embedded = model.get_input_embeddings()(asked["input_ids"])
                embedded[asked["input_ids"] == model.config.image_token_id] = patches.repeat(len(there) * 2, 1)
                logits = model(inputs_embeds=embedded, attention_mask=asked["attention_mask"], logits_to_keep=1).logits[
                    :, -1
                ]
                scores += (logits[:, yes] - logits[:, no]).tolist()
                labels += [True] * len(there) + [False] * len(there)
    questions = np.array([scores, labels], float).T
    figures = score(judge(captions, {i: set(truths[str(i)]) for i in ids}))
    for name, figure in {
        "auc": lambda q: auc(q[:, 0], q[:, 1] > 0),
        "accuracy": lambda q: float(((q[:, 0] > 0) == (q[:, 1] > 0)).mean()),
        "yes_ratio": lambda q: float((q[:, 0] > 0).mean()),
    }.items():
        figures[name], figures["ci"][name] = figure(questions), interval(questions, figure)
    figures["questions"] = len(scores)
    arguments.out.write_text(json.dumps({"figures": figures, "captions": captions}, indent=1))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
