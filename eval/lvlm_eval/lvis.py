"""LVIS: which of its categories are objects of CHAIR, and what is known of each photo.

LVIS looked for some categories in each photo: those that are annotated are there, those in
`neg_category_ids` are not, and of all others nothing is known. `not_exhaustive_category_ids` are of
categories that are there.
Source: Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation" (2019).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lvlm_eval.names import UNKNOWN, Synonyms, node_of
from lvlm_fix.objects.vocabulary import NODES

__all__ = ["Categories", "absent_unless_seen", "is_lvis", "lvis_categories"]


class Categories(NamedTuple):
    """Category id -> object, of those that are one; and of those that bear the object's own name,
    without which it is not there.
    """

    objects: dict[int, str]
    own: dict[int, str]


def is_lvis(images: Iterable[Mapping[str, Any]]) -> bool:
    """Whether photos say what was looked for."""
    return any("neg_category_ids" in image for image in images)


def lvis_categories(categories: Iterable[Mapping[str, Any]], synonyms: Synonyms) -> Categories:
    """A category is the object that CHAIR reads in its whole name, else the one object that it
    reads in its synonyms; `synonyms` come first. All others are left out. Says so on standard
    error.
    """
    known = {int(one["id"]): one for one in categories}
    objects: dict[int, str] = {}
    for key, one in known.items():
        name = str(one["name"])
        if (node := synonyms.get(name, node_of(name))) is None and name not in synonyms:
            found = {node_of(str(other)) for other in one.get("synonyms", ())} - {None}
            node = found.pop() if len(found) == 1 else None
        if node is not None:
            objects[key] = node
    own: dict[int, str] = {}
    for node in dict.fromkeys(objects.values()):
        of = [key for key, other in objects.items() if other == node]
        named = [key for key in of if _plain(node) in map(_plain, _names(known[key]))]
        own |= dict.fromkeys(named or (of if len(of) == 1 else ()), node)
    print(
        f"lvlm-fix: of LVIS: {len(objects)} of {len(known)} categories are objects of CHAIR,"
        f" {len(set(objects.values()))} of {len(NODES)} have one; what nobody looked for in a photo"
        " is unknown there, and counts neither as right nor as invented",
        file=sys.stderr,
    )
    return Categories(objects, own)


def absent_unless_seen(image: Mapping[str, Any], found: Categories) -> frozenset[str]:
    """The marks of the objects that may be in a photo for all that is known."""
    absent = {found.own.get(int(key)) for key in image.get("neg_category_ids", ())}
    return frozenset(f"{UNKNOWN}{node}" for node in NODES if node not in absent)


def _names(category: Mapping[str, Any]) -> list[str]:
    return [str(category["name"]), *map(str, category.get("synonyms", ()))]


def _plain(name: str) -> str:
    """A name without what tells it from its like, and in one word: "car_(automobile)" is car."""
    return re.sub(r"_\(.*?\)|[ _-]", "", name.lower())
