"""What a category of somebody's truth is called by CHAIR."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lvlm_eval.records import read_json
from lvlm_fix.errors import DataError
from lvlm_fix.objects.extract import mentions
from lvlm_fix.objects.vocabulary import NODES

__all__ = ["REST", "UNKNOWN", "Synonyms", "known", "node_names", "node_of", "read_synonyms"]

Synonyms = Mapping[str, str | None]
"""Category -> node of CHAIR; None: to be left out."""
REST = "*"
"""In a file of synonyms: every category that is neither named there nor an object of CHAIR."""
UNKNOWN = "?"
"""Before an object in a photo's truth: nobody looked for it there, so it may be there or not."""
VOC = {  # the names of PASCAL VOC that COCO has not
    "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
    "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv",
}  # fmt: skip


def node_names(
    names: Iterable[str], where: str | Path, synonyms: Synonyms | None = None
) -> dict[str, str | None]:
    """Category -> node of CHAIR, whatever its capitals, and VOC's names too.

    A name counts as an object's only as a whole: a "dog collar" is no dog. Raises `DataError`
    naming the categories that are no object of CHAIR and have no synonym.
    """
    found: dict[str, str | None] = {}
    unknown = list[str]()
    given = synonyms or {}
    for name in dict.fromkeys(names):
        if name in given:
            found[name] = given[name]
        elif (node := node_of(name)) is not None:
            found[name] = node
        elif REST in given:
            found[name] = given[REST]
        else:
            unknown.append(name)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise DataError(
            f"{where}: {', '.join(map(repr, unknown[:5]))}{more} "
            f"{'is' if len(unknown) == 1 else 'are'} no object of CHAIR; say which it is, or null, "
            f'in a file for --synonyms ("{REST}": null leaves out all others)'
        )
    return found


def node_of(name: str) -> str | None:
    """The node that a name is as a whole."""
    lower = name.lower().replace("_", " ").strip()
    lower = VOC.get(lower, lower)
    if lower in NODES:
        return lower
    words = lower.split()
    found = mentions(lower) if all(word.isalpha() and word.isascii() for word in words) else []
    if len(found) == 1 and (found[0].first, found[0].last) == (0, len(words) - 1):
        return found[0].node
    return None


def known(names: Iterable[str]) -> frozenset[str]:
    """The objects that are there, without marks of what is unknown."""
    return frozenset(name for name in names if not name.startswith(UNKNOWN))


def read_synonyms(path: Path | None) -> dict[str, str | None]:
    """Category -> node, or null. Raises `DataError`."""
    document = {} if path is None else read_json(path)
    if not isinstance(document, dict):
        raise DataError(f"{path} is no JSON object of category -> object of CHAIR, or null")
    for name, node in document.items():
        if node is not None and (not isinstance(node, str) or node not in NODES):
            raise DataError(
                f"{path}: {name!r} is given as {node!r}; expected an object of CHAIR, such as "
                "'dog' or 'cell phone', or null"
            )
    return document
