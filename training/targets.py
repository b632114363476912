"""What the model is taught to say: texts built from reference captions and object lists. Pure and seeded."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

__all__ = ["LONG", "SHORT", "Photo", "ask", "long_text", "sentence", "short_text"]

LONG = ("Please describe this image in detail.", "Describe this image in detail.", "What is shown in this image?")
SHORT = ("Describe this image in one sentence.", "Write a short caption for this image.", "Describe the image briefly.")
MORE = ("There is also {}.", "The image also shows {}.", "{} can also be seen.", "In the scene there is also {}.")
FIRST = ("The image shows {}.", "There is {} in the image.", "A photo of {}.")
PLURAL = {"skis", "scissors", "broccoli", "luggage"}


@dataclass(frozen=True)
class Photo:
    """A photo's reference captions and the COCO objects in it."""

    captions: tuple[str, ...]
    objects: tuple[str, ...]


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
        "person": r"(man|men|woman|women|person|people|boy|girl|child|children|lady|guy|player|rider|kid|skier|surfer)s?",  # noqa: E501 - one pattern
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
    return {n for n in names if re.search(rf"\b{spoken.get(n, re.escape(n) + 's?')}\b", text.lower())}


def short_text(photo: Photo, chance: random.Random) -> str:
    """One caption, or the objects in a sentence where there is no caption."""
    if photo.captions:
        return sentence(chance.choice(photo.captions))
    return sentence(chance.choice(FIRST).format(listed(list(photo.objects)[:3] or ["scene"])))


def long_text(photo: Photo, chance: random.Random) -> str:
    """A caption, another one only where it names new objects, and the remaining objects in words."""
    text = short_text(photo, chance)
    said = mentioned(text, photo.objects)
    others = sorted(photo.captions, key=lambda _: chance.random())
    for other in others:
        new = mentioned(other, photo.objects) - said
        if new and sentence(other) not in text:
            text, said = f"{text} {sentence(other)}", said | new
            break
    left = [name for name in photo.objects if name not in said]
    if left:
        chance.shuffle(left)
        text = f"{text} {sentence(chance.choice(MORE).format(listed(left[:5])))}"
    return text


def ask(name: str) -> str:
    """The yes/no question of POPE about one object."""
    return f"Is there {a(name)} in the image?"
