"""Published tables that this library can speak to: the figures of a paper, and the run of ours that
stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lvlm_fix.prompts import DESCRIBE

__all__ = ["TABLES", "PublishedTable"]


@dataclass(frozen=True)
class PublishedTable:
    """One table: what it says, and what to run.

    Attributes:
        rows: method as on the command line -> its figures, percent (words for `length`); empty
            where the figures are ours alone.
        photos: how many are drawn by the seed, of val2014 or of `split`.
        split: a list in the `splits.json` of the data.
        differs: each difference of protocol, one sentence.
    """

    about: str
    source: str
    task: str
    rows: Mapping[str, Mapping[str, float]]
    differs: tuple[str, ...]
    model: str = "llava-hf/llava-1.5-7b-hf"
    revision: str | None = "b234b804b114d9e37bb655e11cbbb5f5e971b7a9"
    gigabytes: float = 14.1
    photos: int = 500
    split: str | None = None
    prompt: str = DESCRIBE
    max_new_tokens: int = 512


GREEDY = "Ours is greedy; theirs was sampled."
DRAW = "Which 500 photos were drawn is not known; ours are drawn by seed 0."
CROP = "The stock processor crops a photo to a square; LLaVA's own code may pad it."
MEAN = "Theirs is the mean of three splits; ours pools their answers."

TABLES: Mapping[str, PublishedTable] = {
    "vhr-chair": PublishedTable(
        about="CHAIR of VHR on LLaVA-1.5-7B",
        source="He et al., ACL 2025, arXiv 2412.13949",
        task="chair",
        rows={
            "none": {"chair_s": 49.68, "chair_i": 14.32, "length": 83},
            "vhr": {"chair_s": 33.32, "chair_i": 9.71, "length": 81},
        },
        differs=(
            "Theirs is the mean of five draws of 500 photos; ours is one draw.",
            CROP,
            "Whether their pass without image is reinforced too is not stated; ours is not.",
        ),
    ),
    "vhr-pope": PublishedTable(
        about="POPE of VHR on LLaVA-1.5-7B, mean of three splits",
        source="He et al., ACL 2025, arXiv 2412.13949",
        task="pope",
        rows={"none": {"f1": 84.98}, "vhr": {"f1": 85.47}},
        differs=(MEAN, CROP),
        max_new_tokens=8,
    ),
    "var-chair": PublishedTable(
        about="CHAIR of VAR, VHR and VCD on LLaVA-1.5-7B, as another paper reran them",
        source="the table of ILVAD; figures taken at second hand",
        task="chair",
        rows={
            "none": {"chair_s": 48.6, "chair_i": 13.52},
            "var": {"chair_s": 52.5, "chair_i": 14.17},
            "vhr": {"chair_s": 34.5, "chair_i": 9.86},
            "vcd": {"chair_s": 48.4, "chair_i": 13.47},
        },
        differs=(
            DRAW,
            CROP,
            "Their VAR may follow its released code, which departs from the paper; ours follows"
            " the paper.",
        ),
    ),
    "var-pope": PublishedTable(
        about="POPE of VAR and VHR on LLaVA-1.5-7B, as another paper reran them",
        source="the table of ILVAD; figures taken at second hand",
        task="pope",
        rows={"none": {"f1": 85.22}, "var": {"f1": 85.87}, "vhr": {"f1": 85.45}},
        differs=(MEAN, CROP),
        max_new_tokens=8,
    ),
    "adaiat-chair": PublishedTable(
        about="CHAIR of PAI, HGAI and IAT on LLaVA-1.5-7B",
        source="arXiv 2603.04908; scored by this library from the captions that it released",
        task="chair",
        rows={
            "none": {"chair_s": 49.0, "chair_i": 13.34, "recall": 80.2, "length": 88.9},
            "pai": {"chair_s": 31.8, "chair_i": 7.87, "recall": 72.2, "length": 95.1},
            "hgai": {"chair_s": 31.4, "chair_i": 6.91, "recall": 73.9, "length": 90.1},
            "iat": {"chair_s": 29.6, "chair_i": 8.97, "recall": 70.4, "length": 70.6},
        },
        differs=(
            DRAW,
            CROP,
            "Their PAI and HGAI use the strength .5; ours are at their own papers' settings.",
            "AdaIAT itself needs curves of the model: `lvlm-fix heads curves`.",
        ),
    ),
    "reruns-chair": PublishedTable(
        about="CHAIR of six methods on LLaVA-1.5-7B, rerun by one author",
        source="a rerun by one author of all rows; figures taken at second hand",
        task="chair",
        rows={
            "none": {"chair_s": 54.6, "chair_i": 16.4, "recall": 72.6},
            "vcd": {"chair_s": 59.8, "chair_i": 17.8, "recall": 75.6},
            "icd": {"chair_s": 57.0, "chair_i": 15.0, "recall": 74.6},
            "pai": {"chair_s": 41.2, "chair_i": 10.4, "recall": 68.6},
            "var": {"chair_s": 60.0, "chair_i": 18.3, "recall": 72.6},
            "vaf": {"chair_s": 58.8, "chair_i": 19.0, "recall": 71.3},
        },
        differs=(GREEDY, DRAW, CROP, "AD-HH is left out: it needs a table of heads of the model."),
    ),
    "deco-chair": PublishedTable(
        about="CHAIR of DeCo and DoLa on LLaVA-1.5-7B",
        source="the page of DeCo's code, arXiv 2410.11779",
        task="chair",
        rows={
            "none": {"chair_s": 45.0, "chair_i": 14.7},
            "deco": {"chair_s": 37.8, "chair_i": 11.1},
            "dola": {"chair_s": 47.8, "chair_i": 13.8},
        },
        differs=(DRAW, CROP),
    ),
    "opera-chair": PublishedTable(
        about="CHAIR of OPERA on LLaVA-1.5-7B, beside greedy and five beams",
        source="arXiv 2311.17911; scored by this library from the captions that it released",
        task="chair",
        rows={
            "none": {"chair_s": 44.8, "chair_i": 12.68, "recall": 80.0, "length": 87.1},
            "opera:strength=0": {
                "chair_s": 48.8, "chair_i": 13.80, "recall": 80.1, "length": 86.3,
            },
            "opera": {"chair_s": 44.6, "chair_i": 12.68, "recall": 79.3, "length": 83.6},
        },
        differs=(
            DRAW,
            CROP,
            "Theirs keeps the last 512 steps to return to; ours keeps all.",
        ),
    ),
    "vista-chair": PublishedTable(
        about="CHAIR of VISTA on LLaVA-1.5-7B, beside PAI, VCD and DoLa",
        source="Li et al., ICML 2025, arXiv 2502.03628, table 1, greedy",
        task="chair",
        rows={
            "none": {"chair_s": 46.4, "chair_i": 12.1},
            "vista+sla": {"chair_s": 20.4, "chair_i": 6.9},
            "pai": {"chair_s": 22.8, "chair_i": 7.0},
            "vcd": {"chair_s": 47.4, "chair_i": 13.0},
            "dola": {"chair_s": 45.4, "chair_i": 11.9},
        },
        differs=(
            "Theirs are 500 photos drawn with seed 1994; ours are drawn by seed 0.",
            CROP,
            "Their direction has 1 added to one channel of the first layer; ours is the plain"
            " difference.",
            "Their settings of PAI, VCD and DoLa are not known; ours are at their own papers'.",
            "No recall and no length are printed with theirs.",
        ),
        prompt="Please help me describe the image in detail.",
    ),
    "vista-pope": PublishedTable(
        about="POPE of VISTA on LLaVA-1.5-7B, mean of three splits",
        source="Li et al., ICML 2025, arXiv 2502.03628, greedy",
        task="pope",
        rows={"none": {"f1": 85.61}, "vista:strength=0.01+sla": {"f1": 86.29}},
        differs=(MEAN, CROP, "Theirs has up to 32 tokens; ours up to 8."),
        max_new_tokens=8,
    ),
    "tiny": PublishedTable(
        about="Ours: CHAIR of the embedded model",
        source="this library",
        task="chair",
        rows={name: {} for name in ("none", "vhr", "var", "var+vhr", "pai", "spin", "guide")},
        differs=("A test model of 27 million parameters; nothing here is LLaVA-1.5-7B's.",),
        model="tiny",
        revision=None,
        gigabytes=0.0,
        photos=328,
        split="test",
        max_new_tokens=128,
    ),
    "small": PublishedTable(
        about="Ours: CHAIR of `small`, 80 test photos (docs/evidence.md)",
        source="this library",
        task="chair",
        rows={
            name: {}
            for name in (
                "none", "pai", "spin", "vhr", "guide", "none+ask:use=drop,threshold=1",
            )
        },
        differs=("A model of 402 million parameters; nothing here is LLaVA-1.5-7B's.",),
        model="small",
        revision=None,
        gigabytes=0.5,
        photos=80,
        split="test",
        max_new_tokens=64,
    ),
}  # fmt: skip
