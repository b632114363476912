"""The page's layout: what is where. What is shown is made in `present`, the work is done in
`engine`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

import lvlm_fix as lf
from lvlm_demo import case, present
from lvlm_demo.controls import Settings
from lvlm_demo.engine import SAMPLES, TOKENS, Engine, Told, check_photo, open_photo
from lvlm_fix.errors import LvlmFixError
from lvlm_fix.grounding import Grounding
from lvlm_fix.models import DESCRIBE

__all__ = ["build", "serve"]

UPLOAD = "20mb"
QUEUE = 16  # visitors that may wait; ours
PICK = """element.addEventListener('click', event => {
  const picked = event.target.closest('[data-pick]');
  if (!picked) return;
  document.querySelectorAll('.w.picked').forEach(other => other.classList.remove('picked'));
  if (picked.classList.contains('w')) picked.classList.add('picked');
  trigger('click', {pick: picked.dataset.pick});
});"""
NAMES = """() => document.querySelectorAll('#samples .gallery-item').forEach((item, i) => {
  item.setAttribute('aria-label', `sample photo ${i + 1}`);
})"""
INK = {  # contrast of 4.5 at least, on every ground of the page
    "body_text_color_subdued": "#475569",
    "body_text_color_subdued_dark": "#cbd5e1",
    "block_info_text_color": "#475569",
    "block_info_text_color_dark": "#cbd5e1",
    "button_primary_background_fill": "#0f766e",
    "button_primary_background_fill_dark": "#0f766e",
    "button_primary_background_fill_hover": "#115e59",
    "button_primary_background_fill_hover_dark": "#115e59",
    "button_primary_text_color": "white",
    "button_primary_text_color_dark": "white",
    "input_placeholder_color": "#475569",
    "input_placeholder_color_dark": "#cbd5e1",
}
MONO = ["ui-monospace", "monospace"]  # the system's own fonts: none is fetched
HEAD = '<meta name="referrer" content="no-referrer">'
log = logging.getLogger("lvlm_demo")


class Visitors:
    """Who asked for something that is not done yet: page -> the event that stops it."""

    def __init__(self) -> None:
        self._stops: dict[str, threading.Event] = defaultdict(threading.Event)

    def begin(self, request: gr.Request) -> threading.Event:
        """A new event for this page; what it asked for before is stopped."""
        self.stop(request)
        self._stops[str(request.session_hash)] = event = threading.Event()
        return event

    def stop(self, request: gr.Request) -> None:
        """Stop what this page asked for; also called when it is closed or reloaded."""
        event = self._stops.pop(str(request.session_hash), None)
        if event is not None:
            event.set()


def build(engine: Engine, model: str = "tiny", free_model: bool = True) -> gr.Blocks:
    """The page; with `free_model` visitors may name another model."""
    visitors = Visitors()
    folder = files("lvlm_fix") / "photos"
    with gr.Blocks(title="lvlm-fix", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        shown = gr.State(
            None, time_to_live=3600
        )  # the two texts with their grounding, and the photo
        picked = gr.State(None)
        gr.HTML(present.TITLE)
        with gr.Row(elem_classes="page"):
            with gr.Column(scale=4, min_width=300, elem_classes="asking"):
                photo = gr.Image(
                    type="filepath", image_mode=None, sources=["upload", "webcam", "clipboard"],
                    label="Photo",
                    height=260, buttons=[], elem_id="photo",
                )  # fmt: skip
                gr.Examples(
                    [[str(folder / name)] for name in SAMPLES],
                    [photo],
                    label="Samples",
                    elem_id="samples",
                )
                prompt = gr.Textbox(
                    DESCRIBE, label="Prompt", lines=2, max_lines=4, elem_id="prompt"
                )
                against = gr.Dropdown(
                    lf.METHODS.ready(), value=[], multiselect=True, max_choices=case.CHOICES,
                    elem_id="against",
                    label="Left: methods, or none for the unmodified model",
                )  # fmt: skip
                methods = gr.Dropdown(
                    lf.METHODS.ready(), value=["vhr"], multiselect=True, max_choices=case.CHOICES,
                    elem_id="methods",
                    label="Right: methods, in the order they act",
                )  # fmt: skip
                settings = Settings(["vhr"])
                tokens = gr.Slider(
                    8, TOKENS, value=64, step=8, label="Longest text, tokens", elem_id="tokens"
                )
                with gr.Accordion("More", open=False):
                    name = gr.Textbox(
                        model, label="Model: a name on the hub, a folder, or “tiny”",
                        interactive=free_model,
                        max_lines=1, elem_id="model",
                    )  # fmt: skip
                for chosen in (against, methods):
                    chosen.input(settings.visible, [against, methods], settings.groups, queue=False)
            with gr.Column(scale=8, min_width=300), gr.Tabs():
                with gr.Tab("Side by side"):
                    with gr.Row(elem_classes="acts"):
                        describe = gr.Button("Describe", variant="primary", elem_id="describe")
                        stop = gr.Button("Stop", elem_id="stop")
                        line = gr.HTML(present.status(""), elem_id="status")
                    with gr.Row():
                        with gr.Column(min_width=260, elem_classes="side"):
                            left = gr.HTML(present.heading([]), elem_id="left")
                            before = gr.HTML(
                                present.telling(Told(""), 0, present.SIGNAL),
                                elem_id="before",
                                js_on_load=PICK,
                            )
                        with gr.Column(min_width=260, elem_classes="side"):
                            right = gr.HTML(present.heading(["vhr"]), elem_id="right")
                            after = gr.HTML(
                                present.telling(Told(""), 1, present.SIGNAL),
                                elem_id="after",
                                js_on_load=PICK,
                            )
                    with gr.Row(elem_classes="legend-row"):
                        gr.HTML(present.legend(), elem_id="legend")
                        signal = gr.Radio(
                            [(label, key) for key, label in present.SIGNS.items()],
                            value=present.SIGNAL,
                            elem_id="signal",
                            label="Shade words by",
                        )  # fmt: skip
                    with gr.Row(elem_classes="looks"):
                        where = gr.HTML(present.hint(), elem_id="where")
                        map_ = gr.HTML("", elem_id="heads", js_on_load=PICK)
                    with gr.Row(elem_classes="acts"):
                        save = gr.DownloadButton(
                            "Save this case", interactive=False, elem_id="save"
                        )
                        load = gr.UploadButton(
                            "Open a case", file_types=[".html"], elem_id="open-case"
                        )
                        line_case = gr.HTML(present.CASE, elem_id="status-case")
                with gr.Tab("All methods"):
                    with gr.Row(elem_classes="acts"):
                        compare = gr.Button(
                            "Compare all methods", variant="primary", elem_id="compare"
                        )
                        stop_compare = gr.Button("Stop")
                        line_compare = gr.HTML(present.status(""))
                    cards = gr.HTML(present.EVERY, elem_id="cards")
                with gr.Tab("Yes or no"):
                    question = gr.Textbox(
                        "Is there a dog in the image?",
                        label="A question about the photo, as POPE asks", max_lines=2,
                        elem_id="question",
                    )  # fmt: skip
                    with gr.Row(elem_classes="acts"):
                        ask = gr.Button("Ask", variant="primary", elem_id="ask")
                        stop_ask = gr.Button("Stop")
                        line_ask = gr.HTML(present.status(""), elem_id="status-ask")
                    given = gr.HTML("", elem_id="answers")

        inputs = [photo, prompt, name, against, methods, tokens, *settings.controls]
        work: dict[str, Any] = {
            "concurrency_id": "model",
            "concurrency_limit": 1,
        }  # the others wait in the queue
        work |= {"preprocess": False, "show_progress": "hidden"}
        headings = [left, right]

        def on_describe(request: gr.Request, shade: str, *values: Any) -> Iterator[Any]:
            nothing = gr.update(value=None, interactive=False)
            blank = (present.hint(), "", None, None, nothing, present.CASE)
            sides, doing = (Told(""), Told("")), ""
            names = [present.heading(values[place] or []) for place in (3, 4)]
            stopping = visitors.begin(request)
            yield (
                present.status("waiting for the model", busy=True),
                *names,
                *_texts(sides, shade, True),
                *blank,
            )
            try:
                asked = settings.asked(values)
                for sides, doing in engine.describe(asked, stopping):
                    going = bool(doing) and doing != "Stopped"
                    texts = _texts(sides, shade, going)
                    yield present.status(doing, busy=going), *names, *texts, *blank
                if doing == "Stopped":
                    return  # half a case is not kept
                opened, texts = open_photo(asked.photo), _texts(sides, shade, False)
                file = gr.update(
                    value=_cached(case.page(case.of(asked, opened, sides)).encode(), "case.html"),
                    interactive=True,
                )
                yield (
                    present.status(doing), *names, *texts, *blank[:3], (opened, *sides), file,
                    present.CASE,
                )  # fmt: skip
            except Exception as error:
                said = present.status(_said(error), error=True)
                yield said, *names, *_texts(sides, shade, False), *blank
            finally:
                stopping.set()

        def on_compare(request: gr.Request, *values: Any) -> Iterator[Any]:
            names, stopping = ["none", *lf.METHODS.ready()], visitors.begin(request)
            yield present.status("waiting for the model", busy=True), ""
            done: list[Told] = []
            try:
                choices = [lf.parse_methods(key) for key in names]
                for done in engine.one_by_one(settings.asked(values), choices, stopping):
                    doing = f"{len(done)} of {len(names)}"
                    yield present.status(doing, busy=True), present.compared(names, done, True)
                stopped = "Stopped" if stopping.is_set() else ""
                yield present.status(stopped), present.compared(names, done, False)
            except Exception as error:
                yield (
                    present.status(_said(error), error=True),
                    present.compared(names, done, False) if done else "",
                )
            finally:
                stopping.set()

        def on_ask(request: gr.Request, asking: str, *values: Any) -> Iterator[Any]:
            stopping = visitors.begin(request)
            yield present.status("waiting for the model", busy=True), ""
            try:
                asked = dataclasses.replace(settings.asked(values), prompt=asking, tokens=8)
                done, choices = list[Told](), [asked.against, asked.methods]
                names = [
                    "+".join(one.method_name() for one in methods) or "unmodified"
                    for methods in choices
                ]
                for done in engine.one_by_one(asked, choices, stopping):
                    yield (
                        present.status("answering", busy=True),
                        present.answers(asking, names, done),
                    )
                yield present.status(""), present.answers(asking, names, done)
            except Exception as error:
                yield present.status(_said(error), error=True), ""
            finally:
                stopping.set()

        screen = [line, *headings, before, after, where, map_, picked, shown, save, line_case]
        describe.click(on_describe, [signal, *inputs], screen, **work)
        compare.click(on_compare, inputs, [line_compare, cards], **work)
        gr.on([ask.click, question.submit], on_ask, [question, *inputs], [line_ask, given], **work)
        for button in (stop, stop_compare, stop_ask):
            button.click(visitors.stop, None, None, queue=False, show_progress="hidden")
        page.unload(visitors.stop)
        page.load(None, None, None, js=NAMES)  # the samples are pictures without a name

        def on_photo(path: dict[str, Any] | None) -> str:
            try:
                if path is not None:
                    check_photo(Path(path["path"]))
            except LvlmFixError as error:
                return present.status(str(error), error=True)
            return present.status("")

        photo.change(on_photo, photo, line, preprocess=False, show_progress="hidden")
        light: dict[str, Any] = {"queue": False, "show_progress": "hidden"}

        def on_signal(kept: Any, shade: str) -> tuple[str, str]:
            return _texts(kept[1:] if kept else (Told(""), Told("")), shade, False)

        signal.input(on_signal, [shown, signal], [before, after], **light)

        def on_pick(kept: Any, last: Any, event: gr.EventData) -> tuple[Any, ...]:
            kind, first, second = str(event.pick).split(":")
            if kept is None or (kind == "head" and last is None):
                return present.hint(), "", None
            side, word = (int(first), int(second)) if kind == "word" else last
            head = (int(first), int(second)) if kind == "head" else None
            found = kept[1 + side].grounding
            if not isinstance(found, Grounding):
                return present.hint(from_file=True), "", None
            return (
                present.looked(kept[0], found, word, head),
                present.head_map(found, word, head),
                (side, word),
            )

        for words in (before, after, map_):
            words.click(on_pick, [shown, picked], [where, map_, picked], **light)

        read = gr.State(())  # the methods of an opened case, until their settings are shown
        into = [photo, prompt, against, methods, tokens, read, *settings.groups, *screen]

        def on_open(file: dict[str, Any], shade: str) -> tuple[Any, ...]:
            try:
                found = case.read(Path(file["path"]).read_bytes())
            except Exception as error:
                return *[gr.skip()] * (len(into) - 1), present.status(_said(error), error=True)
            names = (found.left.methods, found.right.methods)
            sides = (found.left.told(), found.right.told())
            return (
                _cached(found.picture(), "photo.png"), found.prompt, *names, found.tokens,
                (*found.acting(found.left), *found.acting(found.right)), *settings.visible(*names),
                present.status(""), *map(present.heading, names), *_texts(sides, shade, False),
                present.hint(from_file=True), "", None, (None, *sides),
                gr.update(value=file["path"], interactive=True),
                present.status(f"opened; these texts are of the model “{found.model}”"),
            )  # fmt: skip

        # a control takes a value only once it is on the page
        load.upload(on_open, [load, signal], into, preprocess=False, show_progress="hidden").then(
            settings.set_to, read, settings.controls, show_progress="hidden"
        )
    return page


def _texts(sides: Sequence[Told], shade: str, going: bool) -> tuple[str, str]:
    writing = 1 if sides[0].seconds else 0
    return (
        present.telling(sides[0], 0, shade, going and writing == 0),
        present.telling(sides[1], 1, shade, going and writing == 1 and not sides[1].seconds),
    )


def _cached(data: bytes, name: str) -> str:
    """A file that the page may show or hand out, until the cache is cleared."""
    return save_bytes_to_cache(data, name, get_upload_folder())


def _said(error: Exception) -> str:
    """An expected error's own message; anything else is logged, and named."""
    if isinstance(error, LvlmFixError):
        return str(error)
    log.exception("the demo failed")
    return f"something went wrong ({type(error).__name__}); the server's log says more"


def serve(
    model: str = "tiny", host: str = "127.0.0.1", port: int = 7860, *, wait: bool = True
) -> tuple[Engine, str, Callable[[], None]]:
    """Start the page; returns the engine, its address and what closes it. With `wait`, only after
    an interrupt.
    """
    local = host in ("127.0.0.1", "localhost", "::1")
    engine = Engine(allowed=lambda name: local or name == model)
    page = build(engine, model, local)
    page.queue(max_size=QUEUE, api_open=False)
    font = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
    _, address, _ = page.launch(
        server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True,
        max_file_size=UPLOAD,
        footer_links=[], enable_monitoring=False, ssr_mode=False, state_session_capacity=64,
        head=HEAD,
        theme=gr.themes.Base(
            primary_hue="teal", neutral_hue="slate", font=font, font_mono=MONO
        ).set(**INK),
        css_paths=str(files("lvlm_demo") / "style.css"),
    )  # fmt: skip
    if wait:
        print(f"lvlm-fix demo: {address}  (Ctrl-C ends it)", flush=True)
        page.block_thread()
    return engine, address, page.close
