"""`lvlm-fix reproduce TABLE`: run a published table, and show both sets of figures side by side."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lvlm_eval.left_out import end
from lvlm_eval.options import AsJson, Images, TruthFile
from lvlm_eval.published import TABLES, PublishedTable
from lvlm_fix.errors import SettingError

__all__ = ["app"]

app = typer.Typer()
SHOWN = {"chair": ("chair_s", "chair_i", "recall", "length"), "pope": ("f1", "yes_ratio")}


@app.callback(invoke_without_command=True, context_settings={"allow_interspersed_args": True})
def reproduce(
    table: Annotated[
        str, typer.Argument(help="the table to run; leave it out to list them all", metavar="TABLE")
    ] = "",
    data: Annotated[
        Path, typer.Option(help="COCO folder; what is missing of val2014 and POPE is fetched")
    ] = Path("coco"),
    out: Annotated[
        Path | None,
        typer.Option(help="run folder; default: runs/TABLE; a run that is there resumes"),
    ] = None,
    images: Images = None,
    truth: TruthFile = None,
    limit: Annotated[
        int | None,
        typer.Option(help="use fewer photos than the table does; the figures then say so"),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="samples at a time")] = 8,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what the run would do and cost")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a published table of CHAIR or POPE, and show its figures beside ours.

    Every difference of protocol is named.

    Example: lvlm-fix reproduce vhr-chair --data coco --dry-run
    """
    if not table:
        if as_json:
            print(json.dumps({"tables": {name: found.about for name, found in TABLES.items()}}))
            return
        for name, found in TABLES.items():
            print(f"{name:14}{found.about}")
        return
    if table not in TABLES:
        raise SettingError(f"there is no table {table!r}; there are {', '.join(TABLES)}")
    wanted = TABLES[table]
    folder = out or Path("runs") / table
    if dry_run:
        _announce(table, wanted, limit, as_json)
        return
    found = _run(wanted, data, folder, images, truth, limit, batch_size)
    result = _beside(table, wanted, found)
    if as_json:
        print(json.dumps(result))
    else:
        _show(wanted, result)
    end(found.left_out, len(found.record["image_ids"]) + len(found.left_out))


def _announce(name: str, wanted: PublishedTable, limit: int | None, as_json: bool) -> None:
    photos = min(limit or wanted.photos, wanted.photos)
    texts = len(wanted.rows) * (18 * photos if wanted.task == "pope" else photos)
    plan = {
        "table": name,
        "about": wanted.about,
        "source": wanted.source,
        "model": wanted.model,
        "revision": wanted.revision,
        "gigabytes": wanted.gigabytes,
        "rows": list(wanted.rows),
        "texts": texts,
        "tokens_at_most": texts * wanted.max_new_tokens,
        "differs": list(wanted.differs),
    }
    if as_json:
        print(json.dumps(plan))
        return
    print(f"{wanted.about} ({wanted.source})")
    print(f"model: {wanted.model}, {wanted.gigabytes:g} GB, revision {wanted.revision or 'own'}")
    print(f"rows: {', '.join(wanted.rows)}")
    print(f"texts: {texts}, of at most {wanted.max_new_tokens} tokens")
    for line in wanted.differs:
        print(f"differs: {line}")


def _run(
    wanted: PublishedTable,
    data: Path,
    out: Path,
    images: Path | None,
    truth: Path | None,
    limit: int | None,
    batch_size: int,
) -> Any:
    """The finished run of a table."""
    from lvlm_eval.compare import load
    from lvlm_eval.fetch import fetch_annotations, fetch_photos, fetch_questions, val2014
    from lvlm_eval.pope import read_questions
    from lvlm_eval.records import write_json
    from lvlm_eval.run import Plan, draw
    from lvlm_eval.serve import carry_out

    out.mkdir(parents=True, exist_ok=True)
    questions: list[Path] = []
    ids: str | None = None
    if wanted.split:
        limit = min(limit or wanted.photos, wanted.photos)
    elif wanted.task == "pope":
        questions = fetch_questions(data)
        asked = {item.image_id for path in questions for item in read_questions(path).values()}
        if images is None:
            fetch_photos(data, sorted(asked))
    else:
        if truth is None or images is None:
            fetch_annotations(data)
        chosen = val2014(data, wanted.photos, 0)
        if images is None:
            fetch_photos(data, chosen)
        write_json(out / "ids.json", {"drawn": chosen})
        ids = f"{out / 'ids.json'}:drawn"
    samples, photos, known = draw(
        wanted.task, data, images, truth, questions, ids, wanted.split, limit, 0
    )
    plan = Plan(
        task="chair" if wanted.task == "chair" else "pope",
        model=wanted.model, methods=tuple(wanted.rows), samples=samples, photos=photos,
        truth=known, prompt=wanted.prompt if wanted.task == "chair" else "",
        batch_size=batch_size, max_new_tokens=wanted.max_new_tokens, seed=0,
    )  # fmt: skip
    carry_out(plan, out, wanted.revision)
    return load(out)


def _beside(name: str, wanted: PublishedTable, found: Any) -> dict[str, Any]:
    """Per row the published figures, ours, and our differences from the unmodified model."""
    from lvlm_eval.compare import compare

    result = compare(found, fair=False)
    return {
        "table": name,
        "source": wanted.source,
        "model": wanted.model,
        "photos": len(found.record["image_ids"]),
        "commit": found.record["commit"],
        "rows": {
            spec: {
                "published": {k: v / (1 if k == "length" else 100) for k, v in figures.items()},
                "ours": result["methods"][spec],
            }
            for spec, figures in wanted.rows.items()
        },
        "differs": list(wanted.differs),
    }


def _show(wanted: PublishedTable, result: dict[str, Any]) -> None:
    from lvlm_eval.report import cell

    names = SHOWN[wanted.task]
    shown = Table("", *names, title=f"{wanted.about}; ours: {result['photos']} photos")
    for spec, row in result["rows"].items():
        theirs, ours = row["published"], row["ours"]
        if theirs:
            cells = (cell(name, theirs[name]) if name in theirs else "–" for name in names)
            shown.add_row(f"{spec}, published", *cells)
        shown.add_row(
            f"{spec}, ours", *(cell(name, ours[name], ours["ci"].get(name)) for name in names)
        )
    Console().print(shown)
    for line in wanted.differs:
        print(f"differs: {line}")
    if result["commit"]:
        print(f"commit {result['commit'][:12]}", file=sys.stderr)
