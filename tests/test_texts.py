"""The embedded model's texts under every method are the same on every release of transformers.

`python tests/test_texts.py` records them anew, in `tests/texts.json`; with names, those alone.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cases import CASES, OPERATED, shifts_of, vectors_of

import lvlm_fix as lf
from lvlm_fix.images import sample_photos
from lvlm_fix.models import DESCRIBE, answer_ids
from lvlm_fix.vectors.steers import Steers

FILE = Path(__file__).with_name("texts.json")
RECORDED: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
TOKENS = 24
# where a case's settings are for the miniatures
OWN: dict[str, Any] = {
    "adaiat": lf.AdaIAT(level=9.0),
    "icd": lf.ICD(),
    "pti": lf.PTI(vectors=shifts_of(range(3), 8, 32)),
    "yes-push": lf.YesPush(margin=2.0, least=0.0),
}


def text_under(case: str, model: Any, processor: Any) -> list[int]:
    """The ids of a greedy text about the first sample photo."""
    photo = lf.open_image(sample_photos()[0])
    methods = OWN[case] if case in OWN else (CASES | OPERATED)[case][1]
    if isinstance(methods, Steers):  # the cases' vectors are of the miniatures' width
        methods = replace(methods, vectors=vectors_of(range(1, 4), 256, length=100.0))
    with lf.fix(model, methods):
        return answer_ids(model, processor, [photo], [DESCRIBE], max_new_tokens=TOKENS)[0]


@pytest.mark.parametrize("case", [*CASES, *OPERATED])
def test_a_text_is_the_one_that_was_recorded(case: str, tiny: Any) -> None:
    assert text_under(case, *tiny) == RECORDED[case]


if __name__ == "__main__":
    loaded = lf.load("tiny")
    found = {c: text_under(c, *loaded) for c in sys.argv[1:] or (*CASES, *OPERATED)}
    FILE.write_text(json.dumps(RECORDED | found) + "\n")
