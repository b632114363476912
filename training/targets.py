"""What the model is taught to say: texts built from reference captions and object lists. Pure and
seeded.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

__all__ = [
    "LIST",
    "LONG",
    "SHORT",
    "Photo",
    "agreed",
    "ask",
    "listing",
    "long_text",
    "mentioned",
    "sentence",
    "short_text",
]

LONG = (
    "Please describe this image in detail.",
    "Describe this image in detail.",
    "What is shown in this image?",
)
SHORT = (
    "Describe this image in one sentence.",
    "Write a short caption for this image.",
    "Describe the image briefly.",
)
LIST = "Which objects are in this image?"
BESIDE = (
    "{} can be seen too.",
    "There is {} as well.",
    "The photo also shows {}.",
    "Next to this there is {}.",
)
FURTHER = 3  # objects that a long description names beside its caption
PEOPLE = re.compile(
    r"\b(baby|babies|batter|bride|catcher|couple|crowd|cyclist|family|father|groom|mother|pitcher"
    r"|skateboarder|snowboarder|someone|toddler|wife|husband|hands?)s?\b"
)
PLURAL = {"skis", "scissors", "broccoli", "luggage"}


@dataclass(frozen=True)
class Photo:
    """A photo's reference captions, the COCO objects in it, and those that its features show,
    surest first.
    """

    captions: tuple[str, ...]
    objects: tuple[str, ...]
    visible: tuple[str, ...] = ()


def sentence(text: str) -> str:
    """One clean sentence: lower case but for its first letter, a full stop at the end."""
    text = re.sub(r"\s+", " ", text.strip().lower()).rstrip(" .!,;") + "."
    return text[0].upper() + text[1:]


def a(name: str) -> str:
    """The object with its article."""
    return name if name in PLURAL else ("an " if name[0] in "aeiou" else "a ") + name


def listed(names: list[str]) -> str:
    """The objects as one phrase."""
    words = [a(name) for name in names]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def mentioned(text: str, names: tuple[str, ...]) -> set[str]:
    """Objects that a text plainly names (by COCO name or by words common in captions)."""
    spoken = {
        "person": (
            r"(man|men|woman|women|person|people|boy|girl|child|children|lady|guy|player|rider|kid"
            r"|skier|surfer)s?"
        ),
        "dining table": r"(table|desk)s?",
        "couch": r"(couch|sofa)(es|s)?",
        "tv": r"(tv|television|monitor)s?",
        "motorcycle": r"(motorcycle|motorbike|scooter)s?",
        "bicycle": r"(bicycle|bike)s?",
        "airplane": r"(air)?(plane|craft|jet)s?",
        "cell phone": r"(cell ?)?phones?",
        "sports ball": r"balls?",
        "laptop": r"(laptop|computer)s?",
        "skis": r"skis?",
        "refrigerator": r"(refrigerator|fridge)s?",
        "tennis racket": r"(tennis )?(racket|racquet)s?",
        "tie": r"ties?",
        "donut": r"(donut|doughnut)s?",
        "baseball bat": r"(baseball )?bats?",
        "oven": r"(oven|stove)s?",
        "chair": r"(chair|stool)s?",
        "knife": r"(knife|knives)",
        "bus": r"bus(es)?",
        "bench": r"bench(es)?",
        "sheep": r"(sheep|lambs?|goats?)",
        "cow": r"(cows?|cattle|bulls?)",
    }
    return {
        n for n in names if re.search(rf"\b{spoken.get(n, re.escape(n) + 's?')}\b", text.lower())
    }


def plainest(photo: Photo) -> list[str]:
    """The captions that name the fewest objects the features do not show: others teach
    to invent.
    """
    hidden = tuple(name for name in photo.objects if name not in photo.visible)
    faults = {caption: len(mentioned(caption, hidden)) for caption in photo.captions}
    return [caption for caption in photo.captions if faults[caption] == min(faults.values())]


def short_text(photo: Photo, chance: random.Random) -> str:
    """One caption; the photo must have one."""
    return sentence(chance.choice(plainest(photo)))


def long_text(photo: Photo, chance: random.Random) -> str:
    """One caption, and at most one sentence on visible objects that it does not name.

    Two captions of a photo say the same in other words: who learns them repeats itself.
    """
    text = short_text(photo, chance)
    said = mentioned(text, photo.visible) | ({"person"} if PEOPLE.search(text.lower()) else set())
    rest = [name for name in photo.visible if name not in said][:FURTHER]
    if not rest:
        return text
    chance.shuffle(rest)
    return f"{text} {sentence(chance.choice(BESIDE).format(listed(rest)))}"


def agreed(captions: tuple[str, ...], objects: tuple[str, ...]) -> tuple[str, ...]:
    """Objects that at least two captions name, most often named first: people saw these."""
    counts = {name: sum(name in mentioned(c, (name,)) for c in captions) for name in objects}
    return tuple(sorted((n for n in objects if counts[n] > 1), key=lambda n: (-counts[n], n)))


def listing(photo: Photo) -> str:
    """The visible objects, surest first."""
    return sentence(", ".join(photo.visible or ("nothing",)))


def ask(name: str) -> str:
    """The yes/no question of POPE about one object."""
    return f"Is there {a(name)} in the image?"
