"""A case as one file: an HTML page that any browser shows and that the demo reads back.

It holds the photo (as the model saw it, without the camera's data), the request, and both texts
with their marks. Reading opens nothing that the file names: no model, no table, no other file.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import lvlm_fix as lf
from lvlm_demo import present
from lvlm_demo.engine import PROMPT, SIDE, TOKENS, Asked, Marks, Told
from lvlm_fix.errors import ImageError, InputError, LvlmFixError
from lvlm_fix.grounding import words_of

__all__ = ["BYTES", "Case", "Side", "of", "page", "read"]

BYTES = 20_000_000  # of a file that is read; ours
CHOICES = 3  # methods that act together
PICTURE = '<img alt="the photo" src="data:image/png;base64,'
Level = Literal["", "weakest", "weaker", "stronger", "strongest"]
OPEN, CLOSE = '<script type="application/json" id="lvlm-fix-case">', "</script>"
INK = """:root { color-scheme: light dark; --body-text-color: #0f172a; --font-mono: monospace;
  --body-text-color-subdued: #475569; --border-color-primary: #cbd5e1;
  --block-background-fill: #fff; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 72rem; margin: 1rem auto; padding: 0 1rem;
  color: var(--body-text-color); background: #f8fafc; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
main img { width: 100%; border-radius: 10px; }
@media (prefers-color-scheme: dark) { :root { --weak: 251 191 36; --wrong: #fecaca;
  --body-text-color: #f1f5f9; --body-text-color-subdued: #cbd5e1; --border-color-primary: #475569;
  --block-background-fill: #1e293b; } body { background: #0f172a; } }
"""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Side(_Strict):
    """What acted on one side, and the text that came of it."""

    methods: Annotated[list[str], Field(max_length=CHOICES)]
    text: Annotated[str, Field(max_length=20_000)]
    seconds: Annotated[float, Field(ge=0)]
    note: Annotated[str, Field(max_length=5_000)] = ""
    invented: list[int] | None = None
    marks: dict[str, list[tuple[Level, Annotated[str, Field(max_length=200)]]]] | None = None

    def told(self) -> Told:
        """The text as the page shows it. Raises `InputError` where marks do not fit its words."""
        words = len(words_of(range(1, len(self.text) + 1), self.text))
        marks = self.marks
        if any(not 0 <= number < words for number in self.invented or ()):
            raise InputError(f"invented: the text has {words} words")
        if marks and {key: len(row) for key, row in marks.items()} != dict.fromkeys(
            present.SIGNS, words
        ):
            raise InputError(f"marks: {', '.join(present.SIGNS)} must have {words} words each")
        invented = None if self.invented is None else frozenset(self.invented)
        kept = Marks({**marks}) if marks else None
        return Told(self.text, self.seconds, self.note, invented, kept)


class Case(_Strict):
    """All that the file holds."""

    format: Literal["lvlm-fix case 1"] = "lvlm-fix case 1"
    made_by: Annotated[str, Field(max_length=40)] = lf.__version__
    model: Annotated[str, Field(max_length=500)]  # said, never loaded
    prompt: Annotated[str, Field(min_length=1, max_length=PROMPT)]
    tokens: Annotated[int, Field(ge=1, le=TOKENS)]
    settings: dict[str, dict[str, bool | int | float | str]]
    left: Side
    right: Side
    photo: str = ""  # PNG in base64; in the file it is the page's picture

    def acting(self, side: Side) -> tuple[lf.Method, ...]:
        """The methods of a side with their settings. Raises `InputError`."""
        methods = list[lf.Method]()
        for name in side.methods:
            kind, given = lf.METHODS.get(name), self.settings.get(name, {})
            if kind is None:
                raise InputError(f"there is no method {name[:40]!r} here")
            for setting in given:
                if setting not in present.adjustable(kind):
                    raise InputError(f"{name} has no setting {setting[:40]!r} on this page")
            methods.append(kind(**given))
        return tuple(methods)

    def picture(self) -> bytes:
        """The photo's PNG. Raises `ImageError` unless it can be read and is within the limits."""
        try:
            png = base64.b64decode(self.photo, validate=True)
        except ValueError as error:
            raise ImageError("photo: it is not written in base64") from error
        opened = lf.open_image(png, pixels=SIDE * SIDE, formats=("PNG",))
        if max(opened.size) > SIDE:
            raise ImageError(f"photo: its longer side has more than {SIDE} pixels")
        return png


def _marks(one: Told) -> dict[str, Any]:
    """Level and tooltip of every word, by signal; the file's model checks them."""
    found = one.grounding
    return {} if found is None else {it: present.shades(found, it) for it in present.SIGNS}


def of(asked: Asked, photo: Image.Image, told: Sequence[Told]) -> Case:
    """What was asked and what came of it, ready to be written."""
    buffer = io.BytesIO()
    photo.save(buffer, "PNG", compress_level=3)
    settings = {
        method.method_name(): {
            name: getattr(method, name) for name in present.adjustable(type(method))
        }
        for method in (*asked.against, *asked.methods)
    }
    left, right = (
        Side(
            methods=[method.method_name() for method in methods],
            text=one.text,
            seconds=one.seconds,
            note=one.note,
            invented=None if one.invented is None else sorted(one.invented),
            marks=_marks(one) if one.grounding else None,
        )
        for methods, one in zip((asked.against, asked.methods), told, strict=True)
    )
    return Case(
        model=asked.model,
        prompt=asked.prompt,
        tokens=asked.tokens,
        settings=settings,
        left=left,
        right=right,
        photo=base64.b64encode(buffer.getvalue()).decode(),
    )


def page(case: Case) -> str:
    """The file: a page without scripts that run, with the case itself as JSON at its end."""
    columns = "".join(
        f"<section>{present.heading(side.methods)}"
        f"{present.telling(side.told(), 0, present.SIGNAL, still=True)}</section>"
        for side in (case.left, case.right)
    )
    settings = "".join(
        f"<li><b>{escape(name)}</b> "
        f"{escape(', '.join(f'{key}={value}' for key, value in given.items()))}</li>"
        for name, given in case.settings.items()
    )
    style = (files("lvlm_demo") / "style.css").read_text() + INK
    data = case.model_dump_json(exclude={"photo"}).replace("<", "\\u003c")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        " img-src data:; style-src 'unsafe-inline'\">"
        f"<title>lvlm-fix: a case</title><style>{style}</style></head><body>"
        f"<h1>{escape(case.prompt)}</h1><p>Model {escape(case.model)}, at most {case.tokens}"
        f" tokens, lvlm-fix {escape(case.made_by)}</p>"
        f'<main>{PICTURE}{case.photo}">{columns}</main>'
        f"{present.legend()}<ul>{settings}</ul>\n{OPEN}{data}{CLOSE}\n</body></html>\n"
    )


def read(data: bytes) -> Case:
    """A case from a file's bytes. Raises `InputError` that says what is wrong; opens nothing else.

    All is checked: methods and settings exist, marks fit the words, the photo can be read.
    """
    if len(data) > BYTES:
        raise InputError(f"this file is larger than {BYTES // 10**6} MB")
    try:
        before, begun, rest = data.decode().partition(OPEN)
        inner, ended, _ = rest.partition(CLOSE)
    except UnicodeDecodeError:
        before = begun = ended = inner = ""
    if not (begun and ended):
        raise InputError("this file is not a case: save one with “Save this case”")
    try:
        photo = before.partition(PICTURE)[2].partition('"')[0]
        case = Case.model_validate_json(inner).model_copy(update={"photo": photo})
        for side in (case.left, case.right):
            side.told()
            case.acting(side)
        case.picture()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"this case is damaged: {where or 'JSON'}: {first['msg']}") from error
    except LvlmFixError as error:
        raise InputError(f"this case cannot be opened: {error}") from error
    return case
