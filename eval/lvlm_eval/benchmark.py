"""Captions per second of the extractor against a plain tokenise-tag-lemmatise scorer, in one run.

The plain scorer does per caption what the published one does: Treebank tokenising by its list of
substitutions, an averaged-perceptron tagger (its features and its sum over 45 tags; the weights do
not matter for the time), WordNet's suffix rules with a look-up of every candidate, then pairs and
synonyms.

    python -m lvlm_eval.benchmark [captions.jsonl]
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from lvlm_eval.records import read
from lvlm_fix.objects.extract import mentions, nodes
from lvlm_fix.objects.vocabulary import PAIRS, SYNONYMS

__all__ = ["measure", "plain_nodes"]

_SENTENCES = [
    (
        "The image features a man and two women sitting at a dining table with several wine glasses"
        " and a potted plant."
    ),
    (
        "In the background, there are three horses, a stop sign, and a truck parked next to the"
        " parking meter."
    ),
    (
        "A person is skiing down the slope while others are standing near the benches, possibly"
        " taking a break."
    ),
    "The kitchen has a refrigerator, an oven, a sink, and a bowl of oranges placed on the counter.",
]
_TREEBANK = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"([«“‘„]|[`]+)", r" \1 "), (r"^\"", r"``"), (r"(``)", r" \1 "), (r"([ \(\[{<])(\"|\'{2})",
        r"\1 `` "),
        (r"([^\.])(\.)([\]\)}>\"\'»”’ ]*)\s*$", r"\1 \2 \3 "), (r"([:,])([^\d])", r" \1 \2"),
        (r"([:,])$", r" \1 "),
        (r"\.{2,}", r" \g<0> "), (r"[;@#$%&]", r" \g<0> "), (r"[?!]", r" \g<0> "), (r"([^'])' ",
        r"\1 ' "),
        (r"[*]", r" \g<0> "), (r"[\]\[\(\)\{\}\<\>]", r" \g<0> "), (r"--", r" -- "), (r"([»”’])",
        r" \1 "),
        (r"''", r" '' "), (r"\"", r" '' "), (r"([^' ])('[sS]|'[mM]|'[dD]|') ", r"\1 \2 "),
        (r"([^' ])('ll|'re|'ve|n't) ", r"\1 \2 "), (r"(?i)\b(can)(not)\b", r" \1 \2 "),
    )
]  # fmt: skip
_TAGS = [f"T{number}" for number in range(45)]
_WEIGHTS: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(_TAGS, 0.1))
_SUFFIXES = [
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
]


def plain_nodes(caption: str) -> list[str]:
    """The nodes of a caption, the slow way."""
    tokens: list[str] = []
    for sentence in re.split(r"(?<=[.?!])\s+", caption.lower()):
        for pattern, replacement in _TREEBANK:
            sentence = pattern.sub(replacement, sentence)
        tokens += sentence.split()
    _tag(tokens)
    lemmas = [_lemma(token) for token in tokens]
    words: list[str] = []
    while lemmas:
        pair = " ".join(lemmas[:2])
        words.append(PAIRS.get(pair, lemmas[0]))
        del lemmas[: 2 if pair in PAIRS else 1]
    if "toilet" in words and "seat" in words:
        words = [word for word in words if word != "seat"]
    return [SYNONYMS[word] for word in words if word in SYNONYMS]


def measure(extract: Callable[[str], object], captions: Sequence[str]) -> float:
    """Captions per second of processor time."""
    start = time.process_time()
    for caption in captions:
        extract(caption)
    return len(captions) / (time.process_time() - start)


def _tag(tokens: list[str]) -> list[str]:
    context = ["-START-", "-START2-", *tokens, "-END-", "-END2-"]
    before, earlier, tags = "-START-", "-START2-", list[str]()
    for i, word in enumerate(tokens, 2):
        features = (
            "bias", f"suffix {word[-3:]}", f"pref {word[0]}", f"-1 tag {before}",
            f"-2 tag {earlier}",
            f"tags {before} {earlier}", f"word {word}", f"-1 tag word {before} {word}",
            f"-1 word {context[i - 1]}",
            f"-1 suffix {context[i - 1][-3:]}", f"-2 word {context[i - 2]}",
            f"+1 word {context[i + 1]}",
            f"+1 suffix {context[i + 1][-3:]}", f"+2 word {context[i + 2]}",
        )  # fmt: skip
        sums: dict[str, float] = defaultdict(float)
        for feature in features:
            for tag, weight in _WEIGHTS[feature].items():
                sums[tag] += weight
        earlier, before = before, max(_TAGS, key=lambda tag: (sums[tag], tag))
        tags.append(before)
    return tags


def _lemma(token: str) -> str:
    known = _KNOWN
    forms = [token, *(token[: -len(old)] + new for old, new in _SUFFIXES if token.endswith(old))]
    return min((form for form in forms if form in known), key=len, default=token)


_KNOWN = {word for word in SYNONYMS if " " not in word} | {
    part for pair in PAIRS for part in pair.split()
}


def main() -> None:
    """Print captions per second of both, and the ratio, as JSON."""
    captions = [" ".join(_SENTENCES)] * 5000
    if len(sys.argv) > 1:
        captions = [record["caption"] for record in read(Path(sys.argv[1]))] * 10
    nodes("")  # the tables are made on first use
    fast, slow = measure(mentions, captions), measure(plain_nodes, captions[:200])
    figures = {
        "captions": len(captions),
        "per_second": round(fast),
        "plain_per_second": round(slow),
    }
    print(json.dumps(figures | {"ratio": round(fast / slow, 1)}))


if __name__ == "__main__":
    main()
