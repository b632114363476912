"""`asked`: generate a text, and ask the model about every object that it names.

`model.generate(**inputs, custom_generate=lf.asked(use="rewrite"))`; see docs/ask.md for the uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.streamers import BaseStreamer

from lvlm_fix.ask.asker import Answers, Asker
from lvlm_fix.ask.checked import Checked
from lvlm_fix.ask.rewrite import Rewriter
from lvlm_fix.ask.sentences import drop
from lvlm_fix.ask.wording import Wording
from lvlm_fix.ask.words import behind_blank
from lvlm_fix.core.decoding import decoding_of
from lvlm_fix.errors import SettingError
from lvlm_fix.models import processor_of
from lvlm_fix.objects import Spot, coco
from lvlm_fix.objects.lists import named
from lvlm_fix.objects.spots import Find, listed
from lvlm_fix.private import decode, special_tokens

__all__ = ["USES", "Asked", "Checked", "asked", "asked_by"]

USES = ("mark", "drop", "rewrite")


def asked(
    threshold: float = 0.0,
    use: str = "rewrite",
    *,
    processor: ProcessorMixin | None = None,
    wording: Wording | None = None,
    find: Find = coco,
    tries: int = 3,
    streamer: BaseStreamer | None = None,
) -> Asked:
    """What to give `generate` as `custom_generate`.

    Args:
        threshold: an object counts as there if its log-odds of Yes against No reach this value.
        use: "mark" leaves the text as it is and keeps the answers in `.checked`; "drop" removes
            sentences and list items that rest on a doubtful object; "rewrite" checks each
            sentence when it ends, goes back to a doubtful word and forbids it.
        processor: the model's processor; None: load it from where the model came from.
        find: text -> its object words; `lf.listed(words)` for a list of your own.
        tries: how often a sentence is written again before its doubtful part is dropped.
        streamer: gets every sentence that passed ("rewrite", one prompt). A streamer given to
            `generate` does not reach this decoding.

    Raises `SettingError`.
    """
    return Asked(threshold, use, processor, wording, find, tries, streamer)


def asked_by(settings: Mapping[str, str], processor: ProcessorMixin | None = None) -> Asked:
    """`asked` with settings written on a command line. Raises `SettingError`."""
    kinds: dict[str, type[float] | type[int] | type[str]] = {
        "use": str, "threshold": float, "tries": int, "objects": str,
    }  # fmt: skip
    values: dict[str, Any] = {}
    for name, text in settings.items():
        if name not in kinds:
            raise SettingError(f"ask has no setting {name!r}; it has: {', '.join(kinds)}")
        try:
            values[name] = kinds[name](text)
        except ValueError:
            raise SettingError(f"ask.{name} must be a number, got {text!r}") from None
    words = named(values.pop("objects", ""))
    return asked(**values, processor=processor, find=listed(words) if words else coco)


class Asked:
    """Decoding with questions; `.checked` holds the results of the last call."""

    def __init__(
        self,
        threshold: float,
        use: str,
        processor: ProcessorMixin | None,
        wording: Wording | None,
        find: Find,
        tries: int,
        streamer: BaseStreamer | None,
    ) -> None:
        if use not in USES:
            raise SettingError(f"use must be one of {', '.join(USES)}, got {use!r}")
        if tries < 0:
            raise SettingError(f"tries must be >= 0, got {tries}")
        if streamer is not None and use != "rewrite":
            raise SettingError(f"a streamer goes with use 'rewrite', got {use!r}")
        self.threshold, self.use, self.tries = threshold, use, tries
        self.checked: list[Checked] = []
        self._processor, self._wording = processor, wording
        self._find, self._streamer = find, streamer
        self._asker: Asker | None = None

    def streaming(self, streamer: BaseStreamer | None) -> Asked:
        """The same settings and asker, for another text with a streamer of its own."""
        made = Asked(
            self.threshold, self.use, self._processor, self._wording, self._find, self.tries,
            streamer,
        )  # fmt: skip
        made._asker = self._asker
        return made

    def asker(self, model: PreTrainedModel) -> Asker:
        """The asker of this model; made once."""
        if self._asker is None or self._asker.model is not model:
            self._asker = Asker(model, self._processor or processor_of(model), self._wording)
        return self._asker

    @torch.no_grad()
    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: Callable[[Tensor, Tensor], Tensor],
        stopping_criteria: Callable[[Tensor, Any], Tensor],
        generation_config: GenerationConfig,
        **given: Any,  # what `generate` made of its keywords: named by transformers, not by us
    ) -> Any:
        asker = self.asker(model)
        pad, ends = special_tokens(generation_config)
        if self.use == "rewrite":
            rewriter = Rewriter(
                asker, self._find, self._judge, logits_processor, stopping_criteria,
                generation_config, self.tries, self._streamer,
            )  # fmt: skip
            texts = rewriter.run(input_ids, given)
            rows, odds = [text.ids for text in texts], [text.odds for text in texts]
        else:
            rows = _stock(model, input_ids, logits_processor, stopping_criteria,
                          generation_config, given)  # fmt: skip
            about = given | {"input_ids": input_ids}
            odds = self._answers(asker, about, rows, len(input_ids) // len(rows))
        said = [self._text(asker, row) for row in rows]
        ended = [not ends.isdisjoint(row) for row in rows]
        if self.use == "drop":
            rows = [
                self._dropped(asker, row, text, found, ends)
                for row, text, found in zip(rows, said, odds, strict=True)
            ]
        self.checked = [
            Checked(text := self._text(asker, row), before, tuple(self._find(text)), found,
                    self.threshold, end)
            for row, before, found, end in zip(rows, said, odds, ended, strict=True)
        ]  # fmt: skip
        out = _joined(input_ids, rows, pad)
        if generation_config.return_dict_in_generate:
            return GenerateDecoderOnlyOutput(sequences=out)  # type: ignore[arg-type]
        return out

    def _judge(self, answers: Answers, spot: Spot) -> bool:
        return answers[spot.object] < self.threshold

    def _text(self, asker: Asker, row: Iterable[int]) -> str:
        return asker.tokenizer.decode(list(row), skip_special_tokens=True).strip()

    def _answers(
        self, asker: Asker, given: Mapping[str, Any], rows: list[list[int]], beams: int
    ) -> list[Answers]:
        """Log-odds of the objects of each finished text; each has `beams` rows in the cache."""
        objects: list[tuple[str, ...]] = [()] * len(given["input_ids"])
        for number, row in enumerate(rows):
            found = self._find(self._text(asker, row))
            objects[number * beams] = tuple(spot.object for spot in found)
        return asker.ask(given, objects)[::beams]

    def _dropped(
        self, asker: Asker, row: list[int], text: str, odds: Answers, ends: frozenset[int]
    ) -> list[int]:
        """The tokens of a text without what is doubtful."""
        kept = drop(text, self._find(text), lambda spot: self._judge(odds, spot))
        if kept == text:
            return row
        end = next(([token] for token in row if token in ends), list[int]())
        return (behind_blank(asker.tokenizer, kept) if kept else []) + end


def _stock(
    model: PreTrainedModel, ids: Tensor, scores: Any, stop: Any, config: GenerationConfig,
    given: dict[str, Any],
) -> list[list[int]]:  # fmt: skip
    """The new tokens of the stock decoding, greedy, sampled or by beams; or of the method's that
    decodes.
    """
    own = decoding_of(model) or decode
    out = own(model, ids, generation_config=config, logits_processor=scores,
              stopping_criteria=stop, **given)  # fmt: skip
    out = out if isinstance(out, Tensor) else out.sequences
    return out[:, ids.shape[1] :].tolist()


def _joined(ids: Tensor, rows: list[list[int]], pad: int) -> Tensor:
    """Prompts and new tokens in one tensor."""
    width = max(map(len, rows))
    new = torch.tensor([row + [pad] * (width - len(row)) for row in rows], dtype=ids.dtype)
    prompts = ids[:: len(ids) // len(rows)]  # beams have a row each
    return torch.cat((prompts, new.reshape(len(rows), width).to(ids.device)), 1)
