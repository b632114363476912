"""Photos, truth and questions as the two tasks read them: `lvlm-fix eval lmms OUT ...`.

One folder a task, in the form that `datasets` calls an image folder: photos (links to yours) and
`metadata.jsonl`. POPE's columns are those of lmms-lab/POPE.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from lvlm_eval.options import Data, Images, Limit, Seed, Split, TruthFile
from lvlm_eval.records import Record, write
from lvlm_eval.run import all_there, draw
from lvlm_fix.errors import DataError

__all__ = ["make"]


def make(
    out: Annotated[Path, typer.Argument(help="a new folder; chair/ and pope/ are made in it")],
    data: Data,
    images: Images = None,
    truth: TruthFile = None,
    split: Split = None,
    limit: Limit = None,
    seed: Seed = 0,
) -> None:
    """Write photos, truth and questions for lmms-eval's tasks lvlm_chair and lvlm_pope.

    Example: lvlm-fix eval lmms lvlm_fix_data --data coco --split test --limit 100
    """
    if out.exists():
        raise DataError(f"{str(out)!r} exists already; name a new folder")
    samples, photos, known = draw("chair", data, images, truth, [], None, split, limit, seed)
    ids = [record["image_id"] for record in samples[""]]
    all_there(ids, photos)
    rows: dict[str, list[Record]] = {"chair": [], "pope": []}
    for key in ids:
        rows["chair"].append({"image_id": key, "objects": sorted(known[key])})
    asked, _, _ = draw("pope", data, images, truth, [], None, split, limit, seed)
    for category, records in asked.items():
        for record in records:
            rows["pope"].append(
                {
                    "image_id": record["image_id"],
                    "question_id": len(rows["pope"]) + 1,
                    "question": record["question"],
                    "answer": record["label"],
                    "image_source": record["image"],
                    "category": category,
                }
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as made:
        for task, records in rows.items():
            folder = Path(made) / "whole" / task / "test"
            folder.mkdir(parents=True)
            for key in {record["image_id"] for record in records}:
                (folder / photos[key].name).symlink_to(photos[key].resolve())
            named = ({"file_name": photos[r["image_id"]].name} | r for r in records)
            write(folder / "metadata.jsonl", named)
        (Path(made) / "whole").rename(out)
