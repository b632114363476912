"""A loaded model as `run.Serve`: one batch under method after method, what they share made once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

import lvlm_fix as lf
from lvlm_eval.compare import CONTROLS
from lvlm_eval.ended import Said, Unread
from lvlm_eval.left_out import LeftOut
from lvlm_eval.run import Plan, Serve, Texts, resumable, run
from lvlm_eval.yes_no import odds_of
from lvlm_fix.ask.asked import Asked, asked_by
from lvlm_fix.core.at import closure
from lvlm_fix.errors import InputError, SettingError
from lvlm_fix.families import family_of
from lvlm_fix.method import Method
from lvlm_fix.models import end_tokens, prepare, revision_of
from lvlm_fix.tools.photos import Broken
from lvlm_fix.watches import ClsRows

__all__ = [
    "asked_of", "carry_out", "expand", "methods_of", "seen_anew", "seen_once", "serving",
]  # fmt: skip


ASK = "ask"
"""The part of a spec that is no method: how the texts are checked."""
PLAIN = Image.new("RGB", (224, 224))


def expand(specs: Sequence[str]) -> list[str]:
    """Methods with a range written out: "random-heads:seed=0..2" is three; "all" is every method
    but random heads, and those that need a file of vectors.
    """
    out: list[str] = []
    for spec in specs:
        if spec == "all":
            out += ["none", *(name for name in lf.METHODS.ready() if name not in CONTROLS)]
            continue
        match = re.search(r"=(\d+)\.\.(\d+)(?=$|[,+])", spec)
        if match is None:
            out.append(spec)
            continue
        first, last = int(match[1]), int(match[2])
        if last < first:
            raise SettingError(f"a range must run upwards, got {match[0][1:]} in {spec!r}")
        out += expand(
            [f"{spec[: match.start() + 1]}{n}{spec[match.end() :]}" for n in range(first, last + 1)]
        )
    return list(dict.fromkeys(out))


def methods_of(spec: str, settings: Mapping[str, str]) -> tuple[Method, ...]:
    """Methods of "random-heads:seed=3,strength=1.5+var": settings in the name come before those of
    --set. "ask" among them is none: `asked_of` reads it.
    """
    names, given = _read(spec, settings)
    own = {key: value for key, value in given.items() if not key.startswith(f"{ASK}.")}
    return lf.parse_methods("+".join(name for name in names if name != ASK), own)


def asked_of(spec: str, settings: Mapping[str, str]) -> Asked | None:
    """How the texts of "vcd+ask:use=drop,threshold=1" are checked; None where they are not."""
    names, given = _read(spec, settings)
    if ASK not in names:
        return None
    return asked_by({key[4:]: value for key, value in given.items() if key.startswith(f"{ASK}.")})


def _read(spec: str, settings: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The names in a spec, and all settings."""
    names: list[str] = []
    given = dict(settings)
    for part in spec.split("+"):
        name, _, inline = part.partition(":")
        names.append(name)
        for pair in filter(
            None, re.split(r",(?=[\w-]+=)", inline)
        ):  # not the commas of "layers=[0,1]"
            key, equals, value = pair.partition("=")
            if not equals:
                raise SettingError(
                    f"write a method's own settings as name:setting=value, got {part!r}"
                )
            given[f"{name}.{key}"] = value
    return names, given


def serving(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    methods: Mapping[str, tuple[Method, ...]],
    max_new_tokens: int,
    asked: Mapping[str, Asked | None] | None = None,
    *,
    yes_no: bool = False,
) -> Serve:
    """Greedy texts of a model under the methods that `methods` names (an empty tuple: the
    unmodified model), checked as `asked` says; with `yes_no`, their log-odds of Yes against No. A
    photo that cannot be read has no texts, and the others of its batch have theirs.
    """

    depth = len(family_of(model).layers)
    ends = end_tokens(model)
    tokenizer: Any = processor.tokenizer  # type: ignore[attr-defined]: each has one

    @contextmanager
    def serve(paths: Sequence[Path], prompts: Sequence[str]) -> Generator[Texts]:
        inputs, broken = _prepared(model, processor, paths, prompts)
        if inputs is None:
            yield lambda _: [Unread(broken[path]) for path in paths]
            return
        start = inputs["input_ids"].shape[1]

        @torch.no_grad()
        def texts(spec: str) -> list[Said | Unread]:
            options: dict[str, Any] = {"do_sample": False, "max_new_tokens": max_new_tokens}
            check = asked[spec] if asked else None
            if check is not None:
                options["custom_generate"] = check
            elif yes_no:
                options |= {"output_scores": True, "return_dict_in_generate": True}
            watches = (w for method in methods[spec] for w in method.watches(depth))
            watched = any(isinstance(watch, ClsRows) for watch in closure(watches))
            seeing = seen_anew(model) if watched else nullcontext()
            with seeing, lf.fix(model, methods[spec]) if methods[spec] else nullcontext():
                generate: Any = model.generate  # a method that decodes has put its own there
                output = generate(**inputs, **options)
            ids = getattr(output, "sequences", output)[:, start:].tolist()
            scores = getattr(output, "scores", None)  # not every way of decoding has them
            odds = odds_of(scores[0], tokenizer) if scores else [None] * len(ids)
            if check is not None:  # a checked text may be shorter than what was written
                ended = [one.ended for one in check.checked]
            else:
                ended = [not ends.isdisjoint(row) for row in ids]
            rows = zip(
                processor.batch_decode(ids, skip_special_tokens=True), ended, odds, strict=True
            )
            said = iter(
                [Said(text.strip(), "end" if end else "limit", each) for text, end, each in rows]
            )
            return [Unread(broken[path]) if path in broken else next(said) for path in paths]

        with seen_once(model):
            yield texts

    return serve


def _prepared(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    paths: Sequence[Path],
    prompts: Sequence[str],
) -> tuple[Any, dict[Path, str]]:
    """Inputs of the photos that can be read (None: of none), and why the others cannot."""
    photos = Broken()
    opened = dict(photos.opened((path, path) for path in dict.fromkeys(paths)))
    broken = dict(photos.why)

    def made(pairs: Sequence[tuple[Any, str]]) -> Any:
        return prepare(model, processor, [photo for photo, _ in pairs], [ask for _, ask in pairs])

    def rows() -> list[tuple[Any, str]]:
        pairs = zip(paths, prompts, strict=True)
        return [(opened[path], ask) for path, ask in pairs if path not in broken]

    if not rows():
        return None, broken
    try:
        return made(rows()), broken
    except InputError:
        made([(PLAIN, ask) for ask in prompts])  # a fault of a prompt is no photo's
        for path, photo in opened.items():
            try:
                made([(photo, prompts[0])])
            except InputError as error:  # such as a shape that the model does not take
                broken[path] = f"{str(path)!r}: {error}"
        if broken == photos.why:
            raise
        return made(rows()) if rows() else None, broken


def carry_out(plan: Plan, out: Path, revision: str | None = None) -> LeftOut | None:
    """Load a plan's model and do what is left of the plan in folder `out`, this process its share.
    What was left out; None of a process that is not the one to tell of it.

    Raises what `run` raises, and `SettingError` for a method that cannot be, before the model is
    loaded.
    """
    methods = {spec: methods_of(spec, plan.settings) for spec in plan.methods}
    asking = {spec: asked_of(spec, plan.settings) for spec in plan.methods}
    state = PartialState(
        cpu=not torch.cuda.is_available()
    )  # else processes on CPUs miss each other
    model, processor = lf.load(plan.model, revision=revision, device=str(state.device))
    plan = dataclasses.replace(plan, model_revision=revision_of(model))
    with resumable(out):
        left_out = run(
            plan,
            serving(
                model, processor, methods, plan.max_new_tokens, asking, yes_no=plan.task == "pope"
            ),
            out,
            rank=state.process_index,
            world=state.num_processes,
            wait=state.wait_for_everyone,
        )
    return left_out if state.is_main_process else None


@contextmanager
def seen_once(model: PreTrainedModel) -> Generator[None]:
    """While the block lasts, the vision tower sees a photo once: asked again, the same tensors come
    back.

    Photos that are several rows of one batch are seen once, too, where the model keeps a row for
    each photo.
    """
    inner: Any = model.base_model
    plain: Callable[..., Any] = inner.get_image_features
    seen: list[tuple[dict[int | str, Any], Any]] = []

    @wraps(plain)  # generate asks for its signature
    def features(*args: Any, **named: Any) -> Any:  # each family has its own arguments
        given: dict[int | str, Any] = {**dict(enumerate(args)), **named}
        for earlier, found in seen:
            if _same(earlier, given):
                return dataclasses.replace(found)  # a copy: beams widen theirs in place
        found = _by_photo(plain, args, named) or plain(*args, **named)
        seen.append((given, found))
        return dataclasses.replace(found)

    inner.get_image_features = features
    try:
        yield
    finally:
        del inner.get_image_features


@contextmanager
def seen_anew(model: PreTrainedModel) -> Generator[None]:
    """Within `seen_once`: while this block lasts, every photo passes the vision tower, for methods
    that watch it.
    """
    shadowed = model.base_model.__dict__.pop("get_image_features")
    try:
        yield
    finally:
        model.base_model.__dict__["get_image_features"] = shadowed


def _by_photo(plain: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What `plain` gives, from one row per photo; None where rows do not repeat or are
    not photos.
    """
    tensors = [value for value in (*args, *named.values()) if isinstance(value, Tensor)]
    rows = len(tensors[0]) if tensors else 0
    if any(len(tensor) != rows for tensor in tensors):
        return None
    firsts: list[int] = []
    which: list[int] = []  # of `firsts`, by row
    for row in range(rows):
        earlier = (
            n
            for n, first in enumerate(firsts)
            if all(torch.equal(t[first], t[row]) for t in tensors)
        )
        which.append(next(earlier, len(firsts)))
        if which[-1] == len(firsts):
            firsts.append(row)
    if len(firsts) == rows:
        return None

    def cut(value: Any) -> Any:
        return value[firsts] if isinstance(value, Tensor) else value

    found = plain(*map(cut, args), **{name: cut(value) for name, value in named.items()})
    pooled = found.pooler_output
    if len(pooled) != len(firsts):
        return None
    found.pooler_output = (
        pooled[which] if isinstance(pooled, Tensor) else [pooled[n] for n in which]
    )
    return found


def _same(one: Mapping[int | str, Any], other: Mapping[int | str, Any]) -> bool:
    """Whether two calls have the same arguments: tensors to the bit, plain values by equality."""

    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, Tensor):
            return isinstance(b, Tensor) and torch.equal(a, b)
        return a is b or (isinstance(a, int | float | str) and bool(a == b))

    return one.keys() == other.keys() and all(
        equal(value, other[name]) for name, value in one.items()
    )
