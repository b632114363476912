"""What this project measures on a GPU: on a bare machine, and within a given time.

    python -m lvlm_fix.gpucheck --out DIR [--minutes 8] [--device cpu]

Writes `DIR/gpucheck.json` after each row; the file is whole at any moment. The most important item
comes first. An item that fails does not end the others. The process ends when its time is over. On
a CPU, a miniature of it runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from lvlm_fix.files import write_whole

__all__ = ["main"]

SPARE = 3.0  # seconds before the end of the time


class Results:
    """A document that is written whole after each change."""

    def __init__(self, file: Path, seconds: float) -> None:
        self.file, self._start, self.writing = file, time.monotonic(), threading.RLock()
        self.document: dict[str, Any] = {"items": {}, "failures": {}, "not_done": [], "took": {}}
        self._seconds = seconds
        file.parent.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Seconds."""
        return self._seconds - SPARE - (time.monotonic() - self._start)

    def save(self) -> None:
        """Write it; a reader finds the old file or the new one."""
        with self.writing:
            self.document["seconds"] = round(time.monotonic() - self._start, 1)
            write_whole(self.file, json.dumps(self.document, indent=1) + "\n")


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m lvlm_fix.gpucheck", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--commit", default="", help="what is measured, for the record")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    results = Results(given.out / "gpucheck.json", 60 * given.minutes)
    import torch
    import transformers

    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpucheck: torch sees no GPU here; --device cpu runs a miniature")
    from lvlm_fix.tools.gpu_items import FULL, MINIATURE, items

    transformers.logging.set_verbosity_error()
    card = torch.cuda.get_device_name() if given.device == "cuda" else platform.processor()
    results.document["machine"] = {
        "device": given.device, "card": card, "torch": torch.__version__,
        "transformers": transformers.__version__, "commit": given.commit,
    }  # fmt: skip
    chosen = items(FULL if given.device == "cuda" else MINIATURE, given.device)
    results.document["not_done"] = list(chosen)
    results.save()
    end = threading.Timer(max(results.left() + SPARE, 0), _stop, (results,))
    end.daemon = True
    end.start()
    for name, item in chosen.items():
        if results.left() < 0:
            break
        _run(results, name, item)
    end.cancel()
    results.save()
    print(f"{results.file}: {len(results.document['items'])} items")
    for name, error in results.document["failures"].items():
        print(f"failed: {name}: {error.strip().splitlines()[-1]}")
    print(f"not done: {', '.join(results.document['not_done']) or 'none'}")


def _run(results: Results, name: str, item: Any) -> None:
    """One item, row by row."""
    import torch

    rows, start = results.document["items"].setdefault(name, {}), time.monotonic()
    print(f"{name} ({results.left():.0f} s left)", flush=True)
    try:
        with torch.no_grad():
            for key, row in item(results.left):
                rows[key] = row
                results.save()
        results.document["not_done"].remove(name)
    except Exception:
        results.document["failures"][name] = traceback.format_exc()
    results.document["took"][name] = round(time.monotonic() - start, 1)
    results.save()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _stop(results: Results) -> None:
    """The time is over: write what was found, whatever is running."""
    with results.writing:  # nobody else may be in the middle of it when the process ends
        try:
            results.save()
            print("gpucheck: the time is over", flush=True)
        finally:
            os._exit(3)


if __name__ == "__main__":
    main()
