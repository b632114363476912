"""The command `bench`: what methods cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from lvlm_fix.errors import SettingError
from lvlm_fix.tools.options import AsJson, counts_in, emit, err, ranged, settings_of

__all__ = ["bench"]


def bench(
    model: Annotated[
        str,
        typer.Option(
            help='llava-1.5-7b, llava-1.5-7b-scaled, qwen2.5-vl-7b, "tiny", a hub name or a folder'
        ),
    ] = "llava-1.5-7b-scaled",
    method: Annotated[
        list[str] | None, typer.Option(help='repeatable: "var+vhr", "literal:vhr"')
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="method.setting=value, repeatable")
    ] = None,
    batch: Annotated[str, typer.Option(help="batch sizes, as 1,4,16")] = "1",
    tokens: Annotated[int, typer.Option(help="tokens decoded after the first one")] = 24,
    repeats: Annotated[
        int, typer.Option(help="rounds at batch 1; half as many, at least 2, at others")
    ] = 2,
    image_tokens: Annotated[
        str | None,
        typer.Option(help="instead: measure extra memory at these lengths, as 576,1152,2880"),
    ] = None,
    ask: Annotated[
        int | None,
        typer.Option(help="instead: measure what it costs to ask about this many objects"),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    compile_: Annotated[
        bool, typer.Option("--compile", help="use a static cache and a compiled decoding step")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure what methods cost in time and memory, as ratios to the unmodified model.

    The model runs under all methods in turns, within one run.

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
        batches=counts_in("--batch", batch),
        tokens=tokens,
        repeats=repeats,
        compile=compile_,
    )
    counts = () if image_tokens is None else counts_in("--image-tokens", image_tokens)
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
            f"asking about {ask} objects adds {ranged(tuple(cost['extra']))} of the time of a text"
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
            (name, str(row.batch), ranged(row.prefill_ratio), ranged(row.again_ratio),
             ranged(row.decode_ratio), str(row.rounds))
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
