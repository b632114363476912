"""Figures of a model folder on a split: `python -m training.evaluate --model lvlm_fix/tiny --coco
DIR --out FILE`.

Captions are judged by `lvlm_eval`. Up to two objects of a photo's truth are asked about, and as
many absent ones, drawn evenly from all objects of the split. Intervals: 95 %, bootstrap over
photos. `references` are the same figures of one reference caption a photo.
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
from transformers import AutoModelForImageTextToText, AutoProcessor, ProcessorMixin

from training.targets import LONG, ask
from training.train import file_of, read

__all__ = ["auc"]


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Chance that a yes question scores above a no question."""
    yes = truth.sum()
    return float((rankdata(scores)[truth].sum() - yes * (yes + 1) / 2) / (yes * (~truth).sum()))


def interval(
    asked: list[np.ndarray], figure: Callable[[np.ndarray], float], draws: int = 1000
) -> list[float]:
    """Low and high end for a figure of the questions about some photos; no ratio of sums, so not
    `lvlm_eval`'s.
    """
    chance = np.random.default_rng(0)
    drawn = [
        figure(np.concatenate([asked[i] for i in chance.integers(0, len(asked), len(asked))]))
        for _ in range(draws)
    ]
    return [float(end) for end in np.percentile(drawn, (2.5, 97.5))]


def photos(coco: Path, split: str) -> list[int]:
    """Ids of a split; "held" are the photos of the train split that training leaves out."""
    if split == "held":
        data = read(coco)
        return sorted(data.ids[-data.held :])
    return sorted(json.loads((coco / "splits.json").read_text())[split])


def references(coco: Path, ids: list[int]) -> dict[int, str]:
    """The first reference caption of each photo that has one."""
    annotations = json.loads((coco / "captions_val2017.json").read_text())["annotations"]
    return {a["image_id"]: a["caption"] for a in reversed(annotations) if a["image_id"] in ids}


def asked_of(processor: ProcessorMixin, text: str) -> str:
    """A chat about one image, up to the answer."""
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="where captions and figures are written (json)"
    )
    parser.add_argument(
        "--split", default="test", help="a list of splits.json, or held: the part of train left out"
    )
    parser.add_argument("--limit", type=int, help="only the first photos")
    arguments = parser.parse_args()
    truths = json.loads((arguments.coco / "objects_trainval2014.nltk.json").read_text())
    ids = photos(arguments.coco, arguments.split)[: arguments.limit]
    model = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    prompt, image = asked_of(processor, LONG[0]), processor.image_token
    space = "" if prompt.endswith("\n") else " "
    yes, no = (
        processor.tokenizer.encode(f"{space}{word}", add_special_tokens=False)[0]
        for word in ("Yes", "No")
    )
    every = sorted({name for i in ids for name in truths[str(i)]})
    chance, captions, asked = random.Random(0), {}, []
    for start in tqdm(range(0, len(ids), 16), mininterval=10):
        some = ids[start : start + 16]
        images = [Image.open(file_of(arguments.coco, i)).convert("RGB") for i in some]
        given = processor(
            images=images, text=[prompt] * len(some), return_tensors="pt", padding=True
        )
        out = model.generate(**given)[:, given["input_ids"].shape[1] :]
        for number, text in zip(
            some, processor.batch_decode(out, skip_special_tokens=True), strict=True
        ):
            captions[number] = text.strip()
        seen = model.get_image_features(given["pixel_values"]).pooler_output
        for patches, number in zip(seen, some, strict=True):
            there = chance.sample(truths[str(number)], min(2, len(truths[str(number)])))
            absent = chance.sample(
                [name for name in every if name not in truths[str(number)]], len(there)
            )
            if there:
                questions = processor.tokenizer(
                    [
                        asked_of(processor, ask(name)).replace(image, image * len(patches))
                        for name in there + absent
                    ],
                    return_tensors="pt",
                    padding=True,
                )
                embedded = model.get_input_embeddings()(questions["input_ids"])
                embedded[questions["input_ids"] == model.config.image_token_id] = patches.repeat(
                    len(there) * 2, 1
                )
                logits = model(
                    inputs_embeds=embedded,
                    attention_mask=questions["attention_mask"],
                    logits_to_keep=1,
                ).logits[:, -1]
                labels = [1.0] * len(there) + [0.0] * len(there)
                asked.append(np.stack(((logits[:, yes] - logits[:, no]).numpy(), labels), axis=1))
    truth = {i: frozenset(truths[str(i)]) for i in ids}
    figures = score(judge(captions, truth))
    for name, figure in {
        "auc": lambda q: auc(q[:, 0], q[:, 1] > 0),
        "accuracy": lambda q: float(((q[:, 0] > 0) == (q[:, 1] > 0)).mean()),
        "yes_ratio": lambda q: float((q[:, 0] > 0).mean()),
    }.items():
        figures[name], figures["ci"][name] = figure(np.concatenate(asked)), interval(asked, figure)
    figures["questions"] = sum(map(len, asked))
    spoken = references(arguments.coco, ids)
    figures["references"] = score(judge(spoken, {i: truth[i] for i in spoken}))
    arguments.out.write_text(json.dumps({"figures": figures, "captions": captions}, indent=1))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
