"""The command `caption`: a photo described by the model, and under a method."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from lvlm_fix.errors import ImageError, InputError, SettingError
from lvlm_fix.prompts import DESCRIBE
from lvlm_fix.tools.options import AsJson, Model, ask_settings, emit, out, settings_of

__all__ = ["caption"]


def caption(
    images: Annotated[list[Path], typer.Argument(help="photos", metavar="IMAGE...")],
    model: Model = "tiny",
    method: Annotated[str, typer.Option(help="methods joined by +, in order")] = "var+vhr",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="method.setting=value, repeatable")
    ] = None,
    prompt: Annotated[str, typer.Option(help="what to ask")] = DESCRIBE,
    max_new_tokens: Annotated[int, typer.Option(help="longest text, tokens")] = 128,
    grounding: Annotated[
        bool,
        typer.Option(
            "--words", "--grounding", help="mark the objects that the model itself does not see"
        ),
    ] = False,
    use: Annotated[
        str | None,
        typer.Option(
            "--ask",
            help="check every object the text names: mark, drop or rewrite; see docs/ask.md",
        ),
    ] = None,
    show: Annotated[
        Path | None, typer.Option(help="write a PNG: the last text, words coloured by grounding")
    ] = None,
    word: Annotated[
        str | None, typer.Option(help="with --show: lay this word's attention over the photo")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Describe photos twice: with the unmodified model, and with methods acting.

    Example: lvlm-fix caption photo.jpg --method vhr --set vhr.strength=2 --max-new-tokens 64
    """
    import lvlm_fix as lf
    from lvlm_fix.ask.asked import asked_by
    from lvlm_fix.ask.calibration import shipped
    from lvlm_fix.grounding import ground
    from lvlm_fix.models import answer_ids
    from lvlm_fix.tools.photos import Broken

    asking, own = ask_settings(settings_of(set_ or []), use)
    check = None if use is None else asked_by(asking | {"use": use})
    curve = shipped(model)
    methods = lf.parse_methods(method, own)
    if max_new_tokens < 1:
        raise SettingError(f"max-new-tokens must be >= 1, got {max_new_tokens}")
    if word is not None and show is None:
        raise SettingError("--word goes with --show OUT.png")
    if show is not None and len(images) != 1:
        raise SettingError(f"--show takes one photo, got {len(images)}")
    if not prompt.strip():
        raise InputError("the prompt is empty")
    if not any(path.is_file() for path in images):
        raise ImageError(f"there is no image file {str(images[0])!r}")
    loaded, processor = lf.load(model)
    items: list[dict[str, Any]] = []
    broken = Broken()
    for path in images:
        image = broken.open(path)
        if image is None:
            items.append({"image": str(path), "error": broken.why[path], "outputs": []})
            continue
        outputs = []
        for name, acting in (("none", ()), (method, methods)):
            start = time.perf_counter()
            ask = partial(
                answer_ids, loaded, processor, [image], [prompt], max_new_tokens=max_new_tokens,
                **({} if check is None else {"custom_generate": check}),
            )  # fmt: skip
            if not acting:
                (ids,), acted = ask(), None
            else:
                with lf.fix(loaded, acting) as handle:
                    (ids,) = ask()
                    acted = {report.method: report.as_dict() for report in handle.report()}
            seconds = round(time.perf_counter() - start, 3)
            (text,) = processor.batch_decode([ids], skip_special_tokens=True)
            output: dict[str, Any] = {"method": name, "text": text.strip(), "seconds": seconds}
            if check is not None:
                output["ask"] = check.checked[0].as_dict(curve)
                output["shown"] = check.checked[0].marked(curve)
            if grounding and output["text"]:
                output["grounding"] = ground(
                    loaded, processor, image, prompt, ids, curve=curve,
                    ask=True if check is None else check.asker(loaded),
                ).as_dict()  # fmt: skip
            outputs.append(output if acted is None else output | {"acted": acted})
        items.append({"image": str(path), "outputs": outputs})
        if not as_json:
            show_pair(path, outputs)
        if show is not None:
            from lvlm_fix.tools import show as shows

            found = ground(
                loaded, processor, image, prompt, ids, looks=word is not None, curve=curve
            )
            shows.draw(image, found, show, None if word is None else shows.place_of(found, word))
            print(f"picture -> {show}", file=sys.stderr)
    for output in (output for item in items for output in item["outputs"]):
        output.pop("shown", None)
    if as_json:
        emit({"model": model, "prompt": prompt, "items": items})
    broken.end()


def show_pair(path: Path, outputs: list[dict[str, Any]]) -> None:
    """The two texts side by side; words of one that the other lacks are underlined, weakly grounded
    ones get a "?".
    """
    table = Table(title=Text(str(path)), expand=True)
    for output in outputs:
        table.add_column(f"{output['method']}  ({output['seconds']:.2f} s)", ratio=1)
    before, after = (output.get("shown") or questioned(output) for output in outputs)
    table.add_row(marked(before, after), marked(after, before))
    out.print(table)
    if note := sureness(outputs[0]):
        out.print(note, style="dim")
    for name, acted in outputs[1].get("acted", {}).items():
        counts = ", ".join(f"{layer}: {n[0]}" for layer, n in acted["heads"].items())
        did = f"heads by layer {{{counts}}}" if counts else f"{acted['rows_edited']} rows edited"
        out.print(f"{name}: {acted['note'] or did}", style="dim", markup=False)


def questioned(output: dict[str, Any]) -> str:
    """The text of an output; where its words were measured, a doubtful one carries the chance that
    its object is there, or a question mark.
    """
    text = output["text"]
    for word in reversed(output.get("grounding", {}).get("words", [])):
        if word["weak"]:
            mark = "?" if word["chance"] is None else f"{100 * word['chance']:.0f} %"
            text = f"{text[: word['end']]}({mark}){text[word['end'] :]}"
    return text


def sureness(output: dict[str, Any]) -> str:
    """What the marks in a text are worth; empty where there are none."""
    if not ({"ask", "grounding"} & output.keys()):
        return ""
    found = output.get("grounding", {})
    if not (found.get("error") or output.get("ask", {}).get("calibrated")):
        return "ask: uncalibrated for this model, see `lvlm-fix ask calibrate`"
    if not found:
        return ""
    asked = sum(word["ask"] is not None for word in found["words"])
    value, low, high = found["error"]
    return (
        f"{asked} object words asked about; in brackets: the chance that a doubtful one is there, "
        f"mean error {value:.3f} [{low:.3f}, {high:.3f}] on photos like those of the calibration"
    )


def marked(text: str, other: str) -> Text:
    """`text` with the words that `other` lacks, in order, underlined and bold."""
    from difflib import SequenceMatcher

    words, others = text.split(), other.split()
    shown = Text()
    for kind, start, end, _, _ in SequenceMatcher(
        None, words, others, autojunk=False
    ).get_opcodes():
        for word in words[start:end]:
            shown.append(word, style="" if kind == "equal" else "bold underline").append(" ")
    return shown
