"""The commonest nouns of captions, found by the words around them. No tagger is needed: captions
name things in one way ("a brown dog on the grass").

A word counts as a noun if it often directly follows a determiner or a number ("a dog"; verbs do
not), often ends its phrase ("dog on"; "brown" does not), and is not in `NO_THING`. Plurals count
with their singular; names of two words do not count. The rule and its shares are ours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from lvlm_fix.objects.spots import plural

__all__ = ["commonest"]

_BEFORE = "a an the some several many two three four five six one another his her their its"
_BEHIND = (  # what a noun phrase ends at
    "in on at of to by with near next and or is are was were has have that which while as for from"
    " into over under behind beside between through around down up off inside outside along across"
    " against above below onto beneath"
)
_NO_THING = (  # amounts, the picture itself, its parts, sides, times, acts
    "image picture photo photograph view shot scene background foreground front back top bottom"
    " side middle center left right corner end edge row group bunch couple pair set lot variety"
    " number piece slice bit kind type part area place position line day night time other others"
    " something air distance way game match event party trip he she it them him close full parked"
    " stop trick jump high serve show display ride walk smiling crossing"
)
BEFORE, BEHIND = frozenset(_BEFORE.split()), frozenset(_BEHIND.split())
NO_THING = BEFORE | BEHIND | frozenset(_NO_THING.split())
FIRST, VERBAL, LAST = 0.08, 0.3, 0.35  # least shares: behind a determiner (in -ing), at an end
RARE = 20  # plurals to a singular at most: "bu" of "bus" is a slip


def commonest(captions: Iterable[str], count: int) -> list[str]:
    """The `count` commonest nouns, singular, lower case, the commonest first."""
    seen, first, last = Counter[str](), Counter[str](), Counter[str]()
    for caption in captions:
        words = re.findall(r"[a-z]+|[.,;!?]", caption.lower())
        for before, word, behind in zip(["", *words], words, [*words[1:], ""], strict=False):
            seen[word] += 1
            first[word] += before in BEFORE
            last[word] += behind in BEHIND or not behind.isalpha()
    for one in list(seen):
        many = plural(one)
        if many != one and 0 < seen[many] <= RARE * seen[one]:
            for counts in (seen, first, last):
                counts[one] += counts.pop(many, 0)
    found = [
        word
        for word, number in seen.items()
        if len(word) > 1
        and word.isalpha()
        and word not in NO_THING
        and first[word] >= (VERBAL if word.endswith("ing") else FIRST) * number
        and last[word] >= LAST * number
    ]
    return sorted(found, key=lambda word: (-seen[word], word))[:count]
