"""The command line, `lvlm-fix`. With `--json`, standard output holds one JSON document and nothing
else.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from lvlm_fix.errors import DataError, ImageError, InputError, LvlmFixError, SettingError
from lvlm_fix.prompts import DESCRIBE
from lvlm_fix.tools import asking, checking, vectoring

__all__ = ["app", "main", "settings_of"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
heads = typer.Typer(no_args_is_help=True, help="Score attention heads, and look at the scores.")
app.add_typer(heads, name="heads")
app.add_typer(asking.app, name="ask")
app.add_typer(vectoring.app, name="vectors")
app.command("check")(checking.check)
out, err = Console(), Console(stderr=True)

COMPLETING, TYPED = "_LVLM_FIX_COMPLETE", "_TYPER_COMPLETE_ARGS"
ROOMS = {
    "eval": "Measure hallucination: run, score, compare, report.",
    "demo": "Look at one photo on a page: before, after, and where the model looked.",
    "reproduce": "Run a published table, and show its figures beside ours.",
}
EXTRAS = {  # what an extra brings -> the extra
    "greenlet": "bench", "gradio": "demo", "matplotlib": "eval", "optuna": "eval",
    "pycocotools": "eval", "statsmodels": "eval",
    "pydantic": "serve", "starlette": "serve", "uvicorn": "serve",
}  # fmt: skip
Model = Annotated[
    str, typer.Option(help='a hub name, a folder, or "tiny", the embedded small test model')
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")]


def main() -> None:
    """Run the command line; an expected error is one line on standard error and exit code 2.

    Rooms above the library bring commands of their own; only the one that is asked for is loaded.
    """
    words = sys.argv[1:]
    if COMPLETING in os.environ:  # a shell asks what may follow the words that are typed
        words = (os.environ.get("COMP_WORDS") or os.environ.get(TYPED) or "").split()[1:]
    asked = next((word for word in words if not word.startswith("-")), "")
    try:
        for command in entry_points(group="lvlm_fix.commands"):
            if command.name == asked:
                app.add_typer(command.load(), name=command.name)
            else:
                about = ROOMS.get(command.name, "A command of another package.")
                app.add_typer(typer.Typer(help=about), name=command.name, help=about)
        app(prog_name="lvlm-fix")  # however it was started: completion goes by this name
    except LvlmFixError as error:
        _stop(str(error))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        _stop(f"this needs {missing}: pip install 'lvlm-fix[{EXTRAS[missing]}]'")


def _stop(why: str) -> NoReturn:
    """One line on standard error, and exit code 2."""
    print(f"lvlm-fix: {why}", file=sys.stderr)
    raise SystemExit(2) from None


def emit(document: dict[str, Any]) -> None:
    """The one JSON document on standard output."""
    print(json.dumps(document, ensure_ascii=False))


def settings_of(pairs: Sequence[str]) -> dict[str, str]:
    """`method.setting=value` pairs of `--set`; `@FILE` stands for the pairs in a file of
    `eval tune`.
    """
    out: dict[str, str] = {}
    for pair in pairs:
        if pair.startswith("@"):
            out |= _settings_in(Path(pair[1:]))
        elif "=" not in pair or "." not in pair.partition("=")[0]:
            raise SettingError(f"--set takes method.setting=value or @FILE, got {pair!r}")
        else:
            key, _, value = pair.partition("=")
            out[key] = value
    return out


def _settings_in(path: Path) -> dict[str, str]:
    """The pairs of a settings file: JSON, "method.setting" -> value."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingError(f"--set @{path} cannot be read: {error}") from None
    if not isinstance(found, dict) or not all("." in key for key in found):
        raise SettingError(f"--set @{path}: not a settings file; it maps method.setting to a value")
    return {key: str(value) for key, value in found.items()}


def ask_settings(
    settings: dict[str, str], use: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The settings of `--ask`, and those of the methods. Raises `SettingError` without `use`."""
    asking = {key[4:]: value for key, value in settings.items() if key.startswith("ask.")}
    if asking and use is None:
        raise SettingError(f"--set ask.{next(iter(asking))} goes with --ask mark, drop or rewrite")
    return asking, {k: value for k, value in settings.items() if not k.startswith("ask.")}


@app.command()
def caption(
    images: Annotated[list[Path], typer.Argument(help="photos", metavar="IMAGE...")],
    model: Model = "tiny",
    method: Annotated[str, typer.Option(help="methods joined by +, in order")] = "var+vhr",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="method.setting=value, may be repeated")
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
            "--ask", help="check every object that is named: mark, drop or rewrite; see docs/ask.md"
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
    failures = []
    for path in images:
        try:
            image = lf.open_image(path)
        except ImageError as error:
            failures.append(str(error))
            items.append({"image": str(path), "error": str(error), "outputs": []})
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
    for failure in failures:
        print(f"lvlm-fix: {failure}", file=sys.stderr)
    if failures:
        raise SystemExit(2)


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
        f"{asked} object words asked about; in brackets the chance that a doubtful one is there, "
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


@app.command()
def methods(as_json: AsJson = False) -> None:
    """List the methods: papers, the places they edit, what they need and where they depart from the
    paper (--json), and which are controls.

    Example: lvlm-fix methods --json
    """
    from lvlm_fix.methods import METHODS
    from lvlm_fix.tools.listing import listed

    kinds = dict(METHODS)  # those of other packages are loaded here
    rows = [listed(kind) | {"name": name} for name, kind in kinds.items()]
    none: dict[str, Any] = {"name": "none", "paper": "", "edits": []}
    rows.insert(0, none | {"needs": "", "departs": "", "control": False})
    if as_json:
        return emit({"methods": rows})
    table = Table("method", "paper", "edits", "settings")
    for row in rows:
        kind = kinds.get(row["name"])
        given = "" if kind is None else ", ".join(f"{k}={v}" for k, v in kind().settings().items())
        paper = row["paper"] + (" (control)" if row["control"] else "")
        table.add_row(row["name"], paper.strip(), ", ".join(row["edits"]), given)
    out.print(table)


@app.command()
def families(as_json: AsJson = False) -> None:
    """List the model families and what was found, on tiny random models, to work with them.

    Example: lvlm-fix families --json
    """
    from lvlm_fix.tools.probing import read_probed

    rows = read_probed()
    if as_json:
        return emit({"families": rows})
    names = sorted({name for row in rows for name in row["methods"]})
    table = Table("family", *names)
    for row in rows:
        table.add_row(row["family"], *(row["methods"].get(name, "unknown") for name in names))
    out.print(table)


@app.command()
def bench(
    model: Annotated[
        str,
        typer.Option(
            help='llava-1.5-7b, llava-1.5-7b-scaled, qwen2.5-vl-7b, "tiny", a hub name or a folder'
        ),
    ] = "llava-1.5-7b-scaled",
    method: Annotated[
        list[str] | None, typer.Option(help='may be repeated: "var+vhr", "literal:vhr"')
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="method.setting=value, may be repeated")
    ] = None,
    batch: Annotated[str, typer.Option(help="batch sizes, as 1,4,16")] = "1",
    tokens: Annotated[int, typer.Option(help="tokens decoded after the first one")] = 24,
    repeats: Annotated[
        int, typer.Option(help="rounds at batch 1; half as many, at least 2, at others")
    ] = 2,
    image_tokens: Annotated[
        str | None,
        typer.Option(help="measure extra memory instead, at these lengths: 576,1152,2880"),
    ] = None,
    ask: Annotated[
        int | None,
        typer.Option(help="measure instead what it costs to ask about this many objects"),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    compile_: Annotated[
        bool, typer.Option("--compile", help="static cache and a compiled decoding step")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What methods cost: time and memory as ratios to the unmodified model, interleaved in the same
    run.

    Example: lvlm-fix bench --model tiny --method vhr --batch 1,4 --tokens 16
    """
    from dataclasses import asdict

    import torch
    from rich.progress import Progress

    from lvlm_fix.tools import bench as benching
    from lvlm_fix.tools.geometries import subject

    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in kinds:
        raise SettingError(f"--dtype takes {', '.join(kinds)}, got {dtype!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingError("--device cuda: torch sees no GPU here")
    plan = benching.Plan(
        methods=tuple(method or benching.DEFAULT),
        settings=settings_of(set_ or []),
        batches=_counts("--batch", batch),
        tokens=tokens,
        repeats=repeats,
        compile=compile_,
    )
    counts = () if image_tokens is None else _counts("--image-tokens", image_tokens)
    for name in plan.methods:
        benching.check_name(name, plan.settings)
    measured = subject(model, dtype=kinds[dtype], device=device)
    where = benching.machine(measured)
    if ask is not None:
        from lvlm_fix.tools.bench_ask import asking as measure

        cost = measure(measured, ask, tokens, repeats)
        if as_json:
            return emit(cost | {"machine": where})
        return print(
            f"asking about {ask} objects adds {_spread(tuple(cost['extra']))} of the time of a text"
            f" of {tokens} tokens ({cost['ask_seconds']:.2f} s to {cost['plain_seconds']:.2f} s, n"
            f" = {repeats}; {where['name']}, {where['threads']} threads, {model}, {where['dtype']})"
        )
    found: list[benching.Row] = []
    rows: list[dict[str, Any]] = []
    each = 1 + len(plan.methods)
    total = len(counts) * each or benching.steps(plan)
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task(f"measuring {model}", total=total)

        def tell(done: int) -> None:
            progress.update(bar, completed=done)
            if not err.is_terminal and done % each == 0:
                err.print(f"measured {done} of {total}")

        if counts:
            rows = benching.lengths(measured, plan, counts, tell)
        else:
            found = benching.bench(measured, plan, tell)
    if as_json:
        return emit({"rows": rows or [asdict(row) for row in found], "machine": where})
    if counts:
        cells = [
            (
                str(row["image_tokens"]),
                row["method"],
                f"{row['extra_mib']:.1f}",
                f"{row['unmodified_mib']:.0f}",
            )
            for row in rows
        ]
        _table(("image tokens", "method", "extra MiB", "unmodified MiB"), cells)
    else:
        names = [row.method if row.acted else f"{row.method} (did nothing)" for row in found]
        times = [
            (name, str(row.batch), _spread(row.prefill_ratio), _spread(row.again_ratio),
             _spread(row.decode_ratio), str(row.rounds))
            for name, row in zip(names, found, strict=True)
        ]  # fmt: skip
        costs = [
            (name, str(row.batch), f"{row.no_image_ratio[0]:.3f}", f"{row.tokens_per_second:.1f}",
             f"{row.tokens_per_second_ratio[0]:.3f}", f"{row.memory_ratio:.3f}")
            for name, row in zip(names, found, strict=True)
        ]  # fmt: skip
        _table(("method", "batch", "first prefill", "next prefill", "decode", "n"), times)
        print()
        _table(("method", "batch", "prefill without image", "tokens/s", "ratio", "memory"), costs)
    for row in found:
        if row.method == "none":
            print(
                f"\nUnmodified, batch {row.batch}: prefill {row.prefill_seconds:.2f} s, "
                f"{row.decode_seconds * 1000:.1f} ms a step, {row.peak_mib:.0f} MiB; "
                f"text is {row.no_image_share:.3f} of the prompt."
            )
    print(
        f"\n{where['name']}, {where['threads']} threads, {model}, {where['dtype']},"
        f" {where['attention']}, torch {where['torch']}, transformers"
        f" {where['transformers']}.{' Ratios: median (quartiles).' if found else ''}"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Markdown, ready for a page."""
    for line in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(line)} |")


def _counts(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers joined by commas."""
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise SettingError(f"{option} takes whole numbers joined by commas, got {text!r}")
    return tuple(map(int, text.split(",")))


def _spread(ratio: tuple[float, float, float]) -> str:
    middle, low, high = ratio
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"


@app.command()
def export(
    model: Annotated[str, typer.Argument(help='a hub name, a folder, or "tiny"')],
    folder: Annotated[
        Path | None, typer.Argument(help="the new checkpoint", metavar="OUT", show_default=False)
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--heads", help="a table made by `heads score`")
    ] = None,
    strength: Annotated[float, typer.Option(help="factor on the chosen heads' outputs")] = 1.5,
    layers: Annotated[
        str | None, typer.Option(help="layers to act in, as 1,4,5; default: VHR's")
    ] = None,
    count: Annotated[
        int, typer.Option(help="how many heads; 0: those above their layer's median")
    ] = 0,
    revision: Annotated[str | None, typer.Option(help="commit of the model")] = None,
    check: Annotated[
        Path | None, typer.Option(help="compare this export with MODEL, and write nothing")
    ] = None,
    method_: Annotated[
        str, typer.Option("--method", help="vhr (a gain of heads), or nullu (--pairs, --images)")
    ] = "vhr",
    pairs: Annotated[
        Path | None, typer.Option(help='nullu: JSON lines with "image", "value", "h_value"')
    ] = None,
    images: Annotated[Path | None, typer.Option(help="nullu: the pairs' folder of photos")] = None,
    rank: Annotated[int, typer.Option(help="nullu: directions taken out of a layer")] = 4,
    as_json: AsJson = False,
) -> None:
    """Fold a static gain of chosen heads into a plain checkpoint, or take directions of invention
    out of one (nullu); with --check, prove that a gain equals MODEL fixed.

    Example: lvlm-fix export tiny exported --heads heads.json --strength 2
    """
    from lvlm_fix.methods import VHR
    from lvlm_fix.tools import export as exporting
    from lvlm_fix.tools.export_check import check as compared

    if check is not None:
        equality = compared(check, model, revision)
        if as_json:
            emit(equality.as_dict())
        else:
            out.print(
                f"{'equal' if equality.holds else 'NOT equal'}: {equality.photos} photos, logits"
                f" differ by at most {equality.logits_difference:.1e}, {equality.texts_equal} texts"
                " are the same, the weights are"
                f" {'as written' if equality.digest_equal else 'NOT those that were written'}"
            )
        raise SystemExit(0 if equality.holds else 1)
    if method_ not in ("vhr", "nullu"):
        raise SettingError(f"--method takes vhr or nullu, got {method_!r}")
    if method_ == "nullu":
        from lvlm_fix.tools import nullu

        if folder is None or pairs is None or images is None:
            raise InputError(
                "export --method nullu takes MODEL, OUT, --pairs FILE and --images DIR"
            )
        record = nullu.export(model, folder, pairs, images, rank, revision)
        if as_json:
            return emit({"out": str(folder)} | record)
        return print(
            f"{rank} directions out of {len(record['layers'])} layers, by {record['pairs']} pairs "
            f"-> {folder}",
            file=sys.stderr,
        )
    if folder is None or table is None:
        raise InputError("export takes MODEL, OUT and --heads TABLE; or --check OUT and MODEL")
    numbers = None if layers is None else _counts("--layers", layers)
    method = VHR(strength=strength, table=str(table), top=count, layers=numbers)
    record = exporting.export(model, folder, table, method, revision)
    if as_json:
        return emit({"out": str(folder)} | record)
    chosen = sum(map(len, record["heads"].values()))
    print(
        f"{chosen} heads in {len(record['heads'])} layers times {strength:g} -> {folder}",
        file=sys.stderr,
    )


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help='a hub name, a folder, or "tiny"')] = "tiny",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help='methods joined by +; may be repeated, each is a name such as "tiny+vhr"'
        ),
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(
            help='every name once more, texts checked: mark, drop or rewrite, as "tiny+ask:drop"'
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="method.setting=value, may be repeated")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port; 0 takes a free one", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(help="what clients must send as their key", envvar="LVLM_FIX_API_KEY"),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="longest text, tokens", min=1)] = 4096,
    max_pixels: Annotated[int, typer.Option(help="largest picture, pixels", min=1)] = 25_000_000,
    max_size: Annotated[int, typer.Option(help="largest request, bytes", min=1)] = 20 * 2**20,
    queue: Annotated[int, typer.Option(help="requests at work or waiting", min=1)] = 256,
    continuous_batching: Annotated[
        bool, typer.Option("--continuous-batching", hidden=True)
    ] = False,
) -> None:
    """Serve MODEL over an OpenAI-style endpoint: plain, by --method, and each checked by --ask.

    Example: lvlm-fix serve tiny --method vhr --method var+vhr --ask rewrite --port 8000
    """
    import lvlm_fix as lf
    from lvlm_fix.ask.asked import asked_by
    from lvlm_fix.ask.calibration import shipped

    if continuous_batching:
        raise SettingError(
            "--continuous-batching: no method acts there, since it goes another way through the "
            "model; leave it out"
        )
    if api_key is not None and not re.fullmatch(r"[!-~]+", api_key):
        raise SettingError("--api-key takes ASCII letters, digits and signs, and at least one")
    asking, own = ask_settings(settings_of(set_ or []), ask[0] if ask else None)
    for use in ask or []:
        asked_by(asking | {"use": use})
    chosen = {name: lf.parse_methods(name, own) for name in method or []}
    try:
        from lvlm_fix.tools.serve import Server, listen
    except ModuleNotFoundError as error:
        raise InputError(
            f"the server needs {error.name}, which is missing: pip install 'lvlm-fix[serve]'"
        ) from error
    from lvlm_fix.tools.serve_worker import Choice, Limits, Worker

    limits = Limits(size=max_size, pixels=max_pixels, tokens=max_tokens, queue=queue)
    worker = Worker(*lf.load(model), limits)
    plain = Path(model).name if Path(model).is_dir() else model
    acting = {f"{plain}+{name}": methods for name, methods in chosen.items() if methods}
    choices = {name: Choice(methods) for name, methods in ({plain: ()} | acting).items()}
    for use in ask or []:
        check = asked_by(asking | {"use": use}, worker.processor)
        for name, methods in ({plain: ()} | acting).items():
            choices[f"{name}+ask:{use}"] = Choice(methods, check, shipped(model))
    worker.try_out(choices.values())

    def ready(at: int) -> None:
        names = ", ".join(choices)
        print(f"lvlm-fix serves {names} on http://{host}:{at}/v1", file=sys.stderr, flush=True)
        if api_key is None and host not in ("127.0.0.1", "localhost", "::1"):
            print(
                "lvlm-fix: anyone who reaches this address may ask; see --api-key", file=sys.stderr
            )

    listen(Server(worker, choices, api_key), host, port, ready)


@heads.command("score")
def heads_score(
    images: Annotated[Path, typer.Option(help="a folder of photos")],
    out_: Annotated[Path, typer.Option("--out", help="the table to write (JSON)")],
    model: Model = "tiny",
    metric: Annotated[
        str,
        typer.Option(
            help=(
                "vhd, image-centric, spin, retrieval-picture, retrieval-prompt; over words:"
                " knock-out-grounded, "
                "knock-out-invented, ad-hh, act"
            )
        ),
    ] = "vhd",
    words: Annotated[
        Path | None,
        typer.Option(
            help='for scores over words: JSON lines with "image", "text", "grounded", "invented"'
        ),
    ] = None,
    prompt: Annotated[str, typer.Option(help="what to ask")] = DESCRIBE,
    limit: Annotated[int | None, typer.Option(help="only the first photos by name")] = None,
) -> None:
    """Score every head on a folder of photos, or on labelled texts about them; save mean, deviation
    and n.

    Example: lvlm-fix heads score --images photos/ --metric vhd --out heads.json
    """
    import lvlm_fix as lf
    from lvlm_fix.images import SUFFIXES
    from lvlm_fix.tools.effects import EFFECTS, read_labelled
    from lvlm_fix.tools.scoring import score_words

    if not images.is_dir():
        raise DataError(f"--images takes a folder of photos, got {str(images)!r}")
    if (metric in EFFECTS) != (words is not None):
        raise SettingError(
            f"--words goes with the scores over words ({', '.join(EFFECTS)}), got --metric {metric}"
        )
    if words is not None:
        labelled = list(islice(read_labelled(words, images), limit))
        loaded, processor = lf.load(model)
        texts = track(labelled, "scoring heads", console=err)
        table = score_words(loaded, processor, texts, metric=metric, prompt=prompt, name=model)
        table.save(out_)
        return print(f"{table.n} of {len(labelled)} texts -> {out_}", file=sys.stderr)
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)[:limit]
    if not paths:
        raise DataError(f"there are no photos ({', '.join(SUFFIXES)}) in {str(images)!r}")
    loaded, processor = lf.load(model)
    photos = (lf.open_image(path) for path in track(paths, "scoring heads", console=err))
    table = lf.score_heads(loaded, processor, photos, metric=metric, prompt=prompt, name=model)
    table.save(out_)
    print(f"{table.n} photos -> {out_}", file=sys.stderr)


@heads.command("curves")
def heads_curves(
    images: Annotated[Path, typer.Option(help="a folder of photos, named <id>.jpg")],
    truth: Annotated[Path, typer.Option(help="objects file: image id -> objects")],
    out_: Annotated[Path, typer.Option("--out", help="the curves to write (JSON)")],
    model: Model = "tiny",
    ids: Annotated[str | None, typer.Option(help="file.json:name, a list of ids")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first photos by id")] = None,
    prompt: Annotated[str, typer.Option(help="what to ask")] = DESCRIBE,
    max_new_tokens: Annotated[int, typer.Option(help="longest text, tokens")] = 128,
) -> None:
    """Measure how much attention each head gives the text written so far, at right and at invented
    object words: what AdaIAT goes by.

    Example: lvlm-fix heads curves --images photos/ --truth objects.json --out curves.json
    """
    import lvlm_fix as lf
    from lvlm_fix.tools.asking import photos_of, truth_of
    from lvlm_fix.tools.curving import measure_curves

    paths, known = photos_of(images, ids)[:limit], truth_of(truth)
    if missing := [key for key, _ in paths if key not in known]:
        raise DataError(f"the objects of photo {missing[0]} are unknown; see --truth")
    loaded, processor = lf.load(model)
    photos = (
        (lf.open_image(path), known[key]) for key, path in track(paths, "measuring", console=err)
    )
    curves = measure_curves(
        loaded, processor, photos, prompt=prompt, name=model, max_new_tokens=max_new_tokens
    )
    curves.save(out_)
    print(
        f"{curves.n_real} right and {curves.n_invented} invented words in {curves.photos} texts "
        f"-> {out_}",
        file=sys.stderr,
    )


@heads.command("show")
def heads_show(
    table: Annotated[Path, typer.Argument(help="a table made by `heads score`")],
    png: Annotated[Path | None, typer.Option(help="write a heat map here")] = None,
    top: Annotated[int, typer.Option(help="how many heads to list")] = 10,
) -> None:
    """Show a head table: the highest scores, and a heat map.

    Example: lvlm-fix heads show heads.json --top 5 --png heads.png
    """
    from lvlm_fix.heads.table import HeadTable

    scores = HeadTable.load(table)
    out.print(
        f"{scores.metric} of {scores.model}, n = {scores.n} images, prompt {scores.prompt!r}",
        markup=False,
    )
    shown = Table("layer", "head", "mean", "deviation")
    for layer, head in scores.top(top):
        shown.add_row(
            str(layer),
            str(head),
            f"{scores.mean[layer, head]:.4g}",
            f"{scores.deviation[layer, head]:.4g}",
        )
    out.print(shown)
    if png is not None:
        scores.draw(png)
        print(f"heat map -> {png}", file=sys.stderr)


@heads.command("compare")
def heads_compare(
    one: Annotated[Path, typer.Argument(help="a table made by `heads score`", metavar="A.json")],
    other: Annotated[Path, typer.Argument(help="another of the same model", metavar="B.json")],
    top: Annotated[
        int, typer.Option(help="how many of the highest heads to look for in both")
    ] = 10,
    as_json: AsJson = False,
) -> None:
    """Compare two head tables: rank correlation over all heads, and the highest heads that both
    share.

    Example: lvlm-fix heads compare heads.json other.json --top 12
    """
    from lvlm_fix.heads.table import HeadTable, compare

    tables = [HeadTable.load(one), HeadTable.load(other)]
    found = compare(*tables, top=top)
    if as_json:
        return emit({"tables": [str(table) for table in tables]} | found)
    rank = (
        "undefined: one table has one value only"
        if found["spearman"] is None
        else f"{found['spearman']:.3f}"
    )
    out.print(f"{tables[0]} against {tables[1]}", markup=False)
    out.print(f"Spearman's rank correlation over {found['heads']} heads: {rank}")
    shared = ", ".join(f"{layer}.{head}" for layer, head in found["shared"])
    out.print(f"of the top {top}, {found['overlap']:.0%} in both: {shared or 'none'}", markup=False)


if __name__ == "__main__":
    main()
