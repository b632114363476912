"""The settings of every method as controls, and what the page holds as a request."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

import lvlm_fix as lf
from lvlm_demo import present
from lvlm_demo.engine import Asked
from lvlm_fix.errors import SettingError

__all__ = ["Settings"]


class Settings:
    """A group of controls for every method, built from its settings' declared ranges."""

    def __init__(self, shown: Sequence[str]) -> None:
        self.groups: list[gr.Group] = []
        self.fields: list[tuple[str, str]] = []  # method and setting, one a control
        self.controls: list[Any] = []
        for key in lf.METHODS.ready():
            kind = lf.METHODS[key]
            with gr.Group(visible=key in shown, elem_id=f"settings-{key}") as group:
                gr.HTML(f"<p class=method><b>{key}</b> {kind.paper}</p>")
                for name in present.adjustable(kind):
                    self.fields.append((key, name))
                    self.controls.append(_control(kind, kind.__dataclass_fields__[name]))
            self.groups.append(group)

    def visible(self, *names: Sequence[str] | None) -> list[Any]:
        """Updates of the groups: shown are the methods that either side names."""
        chosen = {name for side in names for name in side or ()}
        return [gr.update(visible=key in chosen) for key in lf.METHODS.ready()]

    def set_to(self, methods: Sequence[lf.Method]) -> list[Any]:
        """Updates of the controls: the settings of these methods, all others as they are."""
        given = {method.method_name(): method for method in methods}
        return [
            gr.update(value=getattr(given[key], name)) if key in given else gr.skip()
            for key, name in self.fields
        ]

    def asked(self, values: Sequence[Any]) -> Asked:
        """What the page holds, as a request. Raises `SettingError` and `UnknownNameError`."""
        photo, prompt, model, left, right, tokens, *settings = values
        given: dict[str, dict[str, Any]] = defaultdict(dict)
        for (method, setting), value in zip(self.fields, settings, strict=True):
            default = lf.METHODS[method].__dataclass_fields__[setting].default
            whole = isinstance(default, int) and isinstance(value, float)
            given[method][setting] = int(value) if whole else value
        sides = list[tuple[lf.Method, ...]]()
        for names in (left, right):
            for key in names or ():
                if key not in lf.METHODS:
                    raise SettingError(f"there is no method {key!r}")
            sides.append(tuple(lf.METHODS[key](**given[key]) for key in names or ()))
        return Asked(
            Path(photo["path"]) if photo else None,
            str(prompt or ""),
            str(model or "").strip() or "tiny",
            sides[1],
            int(tokens),
            sides[0],
        )


def _control(kind: type[lf.Method], field: dataclasses.Field[Any]) -> Any:
    """The control of one setting."""
    options: Sequence[str] = field.metadata["options"]
    default: Any = field.default
    given: dict[str, Any] = {
        "label": field.name,
        "info": field.metadata["doc"],
        "elem_id": f"{kind.method_name()}-{field.name}",
    }
    if options:
        return gr.Dropdown(list(options), value=default, **given)
    if isinstance(default, bool):
        return gr.Checkbox(default, **given)
    low, high, step = present.slider_range(default, field.metadata["low"], field.metadata["high"])
    return gr.Slider(low, high, value=default, step=step, **given)
