"""A stand-in for a model: texts that depend on the photo, the method and the batch it came in."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lvlm_eval.ended import Said
from lvlm_eval.run import Plan, Serve, Texts

TRUTH = {key: frozenset({"dog", "person"} if key % 2 else {"cat", "bus"}) for key in range(1, 24)}


def plan(methods: Sequence[str] = ("none", "vhr:strength=1.5"), **changes: object) -> Plan:
    """23 captions under two methods, in batches of 4."""
    photos = {key: Path(f"{key:012d}.jpg") for key in TRUTH}
    given = {
        "samples": {"": [{"image_id": key} for key in TRUTH]},
        "prompt": "Describe.",
        "batch_size": 4,
        "task": "chair",
    } | changes
    return Plan(model="stand-in", methods=tuple(methods), photos=photos, truth=TRUTH, **given)


def answering(pause: float = 0.0, calls: list[list[str]] | None = None) -> Serve:
    """Texts that wait `pause` seconds a batch, cut where 5 divides the id; keeps what was asked."""

    @contextmanager
    def serve(paths: Sequence[Path], prompts: Sequence[str]) -> Iterator[Texts]:
        names = [path.stem for path in paths]

        def texts(method: str) -> list[Said]:
            time.sleep(pause)
            if calls is not None:
                calls.append([method, *names])
            return [
                Said(
                    f"é {method}: a dog and a cat in {int(name)} of {'+'.join(names)}\n{prompt}",
                    "limit" if int(name) % 5 == 0 else "end",
                )
                for name, prompt in zip(names, prompts, strict=True)
            ]

        yield texts

    return serve
