"""Caption -> the COCO nodes it names, in order of mention.

The published scorer tokenises (NLTK Treebank), tags, lemmatises with WordNet and looks the lemmas
up. Only some hundred surface forms can end in the vocabulary, so their lemmas are tabulated once;
what the tagger would have decided is decided from the neighbouring words, for the few forms where
it matters (`_verbal`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple

from lvlm_fix.objects.vocabulary import ABSENT, IRREGULAR, PAIRS, SYNONYMS, VERBS

__all__ = ["Dialect", "Mention", "mentions", "nodes", "surfaces"]

Dialect = Literal["published", "strict"]
"""`published` counts as the authors' scorer does; `strict` counts every plural and no verb form
("tied", "skiing").
"""

_SPLIT = re.compile(r"([«»“”‘’„`;@#$%&?!*\[\](){}<>\"]|--|\.{2,}|[:,](?!\d)|,$)")
_ENDING = re.compile(r"^(.+?)('s|'m|'d|'ll|'re|'ve|n't|')$")
_CLOSING = frozenset("])}>\"'»”’")
_BE = frozenset(["is", "are", "was", "were", "be", "been", "being"])
_ARTICLES = frozenset(["a", "an", "the"])
_DETERMINERS = _ARTICLES | frozenset(["his", "her", "its", "their", "my", "your", "our"])
_PREPOSITIONS = frozenset(  # and "some": what stands behind is a noun
    [
        "some",
        "for",
        "of",
        "from",
        "in",
        "with",
        "like",
        "as",
        "at",
        "about",
        "during",
        "or",
        "than",
        "by",
    ]
)
_COLOURS = frozenset(
    [
        "black",
        "white",
        "red",
        "blue",
        "green",
        "yellow",
        "orange",
        "brown",
        "grey",
        "gray",
        "pink",
        "purple",
    ]
)
_NOUNS_IN_ING = frozenset(
    ["bedding", "training", "shipping", "boating", "batting", "bowling", "grooming", "booking"]
)
_IRREGULAR_VERBS = {"born": "bear", "borne": "bear", "sank": "sink", "sunk": "sink", "lit": "light"}
_NUMBERS = frozenset(["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])


class Mention(NamedTuple):
    """One object word of a caption: the matched word, its node, and where it stands among
    `caption.split()`.
    """

    word: str
    node: str
    first: int
    last: int


def nodes(caption: str, dialect: Dialect = "published") -> list[str]:
    """The COCO nodes that `caption` names, one per mention, in order."""
    return [mention.node for mention in mentions(caption, dialect)]


def surfaces() -> dict[str, list[str]]:
    """Node -> every form in which a text may name it: synonyms, pairs and plurals, lower case."""
    table = _lemmas("strict")
    forms: dict[str, set[str]] = {}
    for form, lemma in table.items():
        if lemma in SYNONYMS:
            forms.setdefault(SYNONYMS[lemma], set()).add(form)
    for pair, word in PAIRS.items():
        if word in SYNONYMS:
            first, _, last = pair.partition(" ")
            lasts = {last, *(form for form, lemma in table.items() if lemma == last)}
            forms.setdefault(SYNONYMS[word], set()).update({f"{first} {form}" for form in lasts})
    return {node: sorted(found) for node, found in sorted(forms.items())}


def mentions(caption: str, dialect: Dialect = "published") -> list[Mention]:
    """The object words of `caption`, in order."""
    table = _lemmas(dialect)
    tokens: list[str] = []
    places: list[int] = []
    for place, piece in enumerate(caption.lower().split()):
        parts = _tokens(piece)
        tokens += parts
        places += [place] * len(parts)
    found: list[Mention] = []
    lemmas = {
        i: lemma if token not in _DOUBTFUL else _lemma_in_context(tokens, i, lemma)
        for i, token in enumerate(tokens)
        if (lemma := table.get(token))
    }
    paired = -1
    for i, lemma in lemmas.items():
        if i == paired:
            continue
        pair = PAIRS.get(f"{lemma} {lemmas[i + 1]}") if i + 1 in lemmas else None
        if pair:
            paired = i + 1
        word = pair or lemma
        if word in SYNONYMS or word == "seat":
            found.append(Mention(word, SYNONYMS[word], places[i], places[i + 1 if pair else i]))
    words = {mention.word for mention in found}
    if "toilet" in words and "seat" in words:  # the seat of a toilet is no chair
        found = [mention for mention in found if mention.word != "seat"]
    return found


@lru_cache(maxsize=1 << 16)
def _tokens(piece: str) -> tuple[str, ...]:
    """Tokens of one lower-case word between blanks, as NLTK's `word_tokenize` cuts it."""
    if piece.isalpha():
        return (piece,)
    parts = [part for part in _SPLIT.split(piece) if part]
    out: list[str] = []
    for i, part in enumerate(parts):
        closed = all(later in _CLOSING for later in parts[i + 1 :])
        if closed and len(part) > 1 and part.endswith(".") and not part.endswith(".."):
            out += [*_clitics(part[:-1]), "."]
        else:
            out += _clitics(part)
    return tuple(out)


def _clitics(part: str) -> list[str]:
    match = _ENDING.match(part)
    return [match[1], match[2]] if match else [part]


@lru_cache(maxsize=2)
def _lemmas(dialect: Dialect) -> dict[str, str]:
    """Surface form -> lemma, for every form whose lemma is an object word or a part of a pair."""
    words = {word for word in SYNONYMS if " " not in word}
    words |= {part for pair in PAIRS for part in pair.split()}
    table = {word: word for word in words}
    for word in words:
        if dialect == "strict" or word not in ABSENT:
            table.setdefault(_plural(word), word)
            table.setdefault(word + "s", word)  # "puppys": the suffix rule asks no spelling
    table |= {form: lemma for form, lemma in IRREGULAR.items() if lemma in words}
    if dialect == "strict":
        return table | {"men": "man"}
    for word in VERBS:
        for form in _verb_forms(word):
            table.setdefault(form, word)
    return table | _IRREGULAR_VERBS


def _plural(word: str) -> str:
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    if word.endswith("man"):  # "men" is a word of WordNet, so the published rule leaves it alone
        return word[:-3] + "mans"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


def _verb_forms(word: str) -> tuple[str, str]:
    if word == "tie":
        return "tied", "tying"
    if re.fullmatch(r"[^aeiou]+[aeiou][^aeiouwxys]", word):
        word += word[-1]
    past = word[:-1] + "ied" if word.endswith("y") else word + ("d" if word.endswith("e") else "ed")
    return past, (word[:-1] if word.endswith("e") else word) + "ing"


_PAST = frozenset(_verb_forms(word)[0] for word in VERBS)
_DOUBTFUL = _PAST.union(
    *(_verb_forms(word)[1:] for word in VERBS), {"kites", "potted", "stove", "umbrellas"}
)


def _lemma_in_context(tokens: list[str], i: int, lemma: str) -> str:
    """The lemma of a form that the published tagger reads now as a noun, now as something else."""
    before = tokens[i - 1] if i else ""
    after, later = (*tokens[i + 1 : i + 3], "", "")[:2]
    match tokens[i]:
        case "stove":  # a bare "stove" in a list is tagged as the past tense of "stave"
            return "" if before in {",", "and"} and (after in {",", "."}) else lemma
        case "umbrellas":
            return "" if (before == "holding" and later == "there") or after == "visible" else lemma
        case "kites":
            return "" if before == "kite" else lemma
        case "potted":  # behind an adverb and a number it is tagged as the past tense of "pot"
            return "" if before in _NUMBERS and i > 1 and tokens[i - 2] == "also" else lemma
        case form if form in _PAST:  # "a seated giraffe": an adjective
            return "" if before in _ARTICLES else lemma
        case form:
            return lemma if _verbal(form, before, after, later) else ""


def _verbal(form: str, before: str, after: str, later: str) -> bool:
    """Whether a form in -ing is tagged as a verb ("is skiing"), not as a noun ("the thrill of
    skiing").
    """
    if before in _BE or after in _DETERMINERS:  # "is skiing", "in the midst of tying her shoes"
        return True
    if form == "seating":  # "seating options", "a seating area for", "providing seating for the"
        if before == "providing" and later == "the":
            return True
        return after.endswith("s") or (
            after.isalpha() and after not in _PREPOSITIONS and later in _PREPOSITIONS
        )
    if form in _NOUNS_IN_ING or before in _PREPOSITIONS or before in _COLOURS or "-" in before:
        return False
    if before in _ARTICLES or before.endswith("ing"):
        return later == "on"
    return True
