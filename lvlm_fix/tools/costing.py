"""What a token costs under each method; `python -m lvlm_fix.tools.costing` counts anew and writes
it down.

Counted on the embedded model, between texts of two lengths: rows that pass the first decoder layer,
and operations that are dispatched (views left out), both as multiples of the unmodified model's.
Rows say how many more passes a method makes on any model; operations say what it adds where each is
a launch, as on a GPU with one text. Neither is a time.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from lvlm_fix.attach import fix
from lvlm_fix.errors import LvlmFixError
from lvlm_fix.families import family_of
from lvlm_fix.images import open_image, sample_photos
from lvlm_fix.method import Method
from lvlm_fix.methods import METHODS, PTI
from lvlm_fix.models import DESCRIBE, load, prepare
from lvlm_fix.tools.costs import FILE, read_costs
from lvlm_fix.tools.counting import Counted
from lvlm_fix.vectors.steers import Steers
from lvlm_fix.vectors.vectors import Vectors

__all__ = ["counted"]

SHORT, LONG = 4, 8  # tokens of the two texts


@torch.no_grad()
def counted(
    model: PreTrainedModel, processor: ProcessorMixin, method: Method | None
) -> tuple[float, float]:
    """Rows and operations of one more token."""
    inputs = prepare(model, processor, [open_image(sample_photos()[0])], [DESCRIBE])
    run: Any = model
    rows, found = [0], list[tuple[int, int]]()

    def passed(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        rows[0] += hidden.shape[0] * hidden.shape[1]

    hook = family_of(model).layers[0].register_forward_pre_hook(passed, with_kwargs=True)
    try:
        for tokens in (SHORT, LONG):
            rows[0] = 0
            acting = nullcontext() if method is None else fix(model, method)
            with acting, Counted() as operations:
                run.generate(**inputs, do_sample=False, max_new_tokens=tokens,
                             min_new_tokens=tokens)  # fmt: skip
            found.append((rows[0], operations.found.total()))
    finally:
        hook.remove()
    (few, first), (many, second) = found
    return (many - few) / (LONG - SHORT), (second - first) / (LONG - SHORT)


def settled(kind: type[Method], model: PreTrainedModel) -> Method:
    """A method with its defaults; one that goes by vectors is given some, of any values."""
    config = model.config.get_text_config()
    if issubclass(kind, Steers):
        return kind(vectors=Vectors({0: torch.ones(config.hidden_size)}))
    if kind is PTI:
        width = config.hidden_size // config.num_attention_heads
        return PTI(vectors={0: torch.ones(2, 2, config.num_key_value_heads, width)})
    return kind()


def main() -> None:
    """Count the methods named on the command line, or all; the table is written after each."""
    model, processor = load("tiny", device="cpu")
    table = read_costs() if sys.argv[1:] else {}
    plain = counted(model, processor, None)
    for name in sys.argv[1:] or METHODS:
        try:
            found = counted(model, processor, settled(METHODS[name], model))
        except LvlmFixError as error:
            print(f"{name}: {error}")
            continue
        pairs = zip(("rows", "operations"), found, plain, strict=True)
        table[name] = {what: round(ours / theirs, 2) for what, ours, theirs in pairs}
        told = {"model": "tiny", "per_token": dict(sorted(table.items()))}
        FILE.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
