"""Photos, truth and questions as the two tasks read them: `python -m lvlm_eval.lmms.data OUT ...`.

One folder a task, in the form that `datasets` calls an image folder: photos (links to yours) and
`metadata.jsonl`. POPE's columns are those of lmms-lab/POPE.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lvlm_eval.records import Record, write
from lvlm_eval.run import draw
from lvlm_fix.errors import DataError

__all__ = ["make"]


def make(
    out: Annotated[Path, typer.Argument(help="a new folder; chair/ and pope/ are made in it")],
    data: Annotated[Path, typer.Option(help="a folder of photos, or a COCO folder")],
    truth: Annotated[Path | None, typer.Option(help="an objects file (JSON)")] = None,
    split: Annotated[str | None, typer.Option(help="a list of ids in DATA/splits.json")] = None,
    limit: Annotated[int | None, typer.Option(help="only so many photos")] = None,
    seed: Annotated[int, typer.Option(help="of the photos and the questions")] = 0,
) -> None:
    """Write the folders of the tasks lvlm_chair and lvlm_pope."""
    if out.exists():
        raise DataError(f"{str(out)!r} is there already; name a new folder")
    samples, photos, known = draw("chair", data, None, truth, [], None, split, limit, seed)
    ids = [record["image_id"] for record in samples[""]]
    rows: dict[str, list[Record]] = {"chair": [], "pope": []}
    for key in ids:
        rows["chair"].append({"image_id": key, "objects": sorted(known[key])})
    asked, _, _ = draw("pope", data, None, truth, [], None, split, limit, seed)
    for category, records in asked.items():
        for record in records:
            rows["pope"].append(
                {
                    "image_id": record["image_id"],
                    "question_id": f"{category}-{record['question_id']}",
                    "question": record["question"],
                    "answer": record["label"],
                    "image_source": record["image"],
                    "category": category,
                }
            )
    for task, records in rows.items():
        folder = out / task / "test"
        folder.mkdir(parents=True)
        for key in {record["image_id"] for record in records}:
            (folder / photos[key].name).symlink_to(photos[key].resolve())
        named = ({"file_name": photos[r["image_id"]].name} | r for r in records)
        write(folder / "metadata.jsonl", named)


if __name__ == "__main__":
    typer.run(make)
