"""The subcommands `lvlm-fix eval ...`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

from lvlm_eval import chair, pope
from lvlm_eval.check import CAPTION_IDS, CAPTIONS, check
from lvlm_eval.coco import choose, one_half, read_ids, truth_of
from lvlm_eval.compare import Run, compare, load, of_captions
from lvlm_eval.ended import cut_in
from lvlm_eval.grounded import grounding_command
from lvlm_eval.left_out import end
from lvlm_eval.lmms.data import make
from lvlm_eval.options import (
    AsJson,
    BatchSize,
    Data,
    DialectName,
    Ids,
    Images,
    Limit,
    Model,
    Prompt,
    Revision,
    RuleName,
    Seed,
    Split,
    SynonymsFile,
    TruthFile,
)
from lvlm_eval.records import by_id, read, write
from lvlm_eval.report import COUNTS, cell, render
from lvlm_eval.run import Plan, Task, draw
from lvlm_eval.serve import carry_out, expand
from lvlm_eval.table import table
from lvlm_eval.tuning import tune_command
from lvlm_fix.errors import SettingError
from lvlm_fix.files import can_be_written, write_whole
from lvlm_fix.models import DESCRIBE
from lvlm_fix.objects.extract import Dialect
from lvlm_fix.tools.cli import settings_of

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Measure hallucination: run, score, compare, report.")
scores = typer.Typer(no_args_is_help=True, help="Score captions or answers that you have already.")
app.add_typer(scores, name="score")


@scores.command("chair")
def score_chair(
    captions: Annotated[
        Path, typer.Option(help="JSON lines or a JSON list with image_id and caption")
    ],
    truth: Annotated[
        Path, typer.Option(help="objects file: image id -> objects; or a COCO folder")
    ],
    dialect: DialectName = "published",
    words: Annotated[
        Path | None, typer.Option(help="write the captions with their words, for `heads score`")
    ] = None,
    synonyms: SynonymsFile = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Score captions by CHAIR.

    Example: lvlm-fix eval score chair --captions captions.jsonl --truth objects.json
    """
    records = read(captions)
    texts, cut = by_id(records, CAPTION_IDS, CAPTIONS, captions), cut_in(records, captions)
    known = truth_of(truth, None if truth.is_dir() else truth, _dialect(dialect), synonyms)
    if half := one_half(truth):
        print(f"lvlm-fix: {half}", file=sys.stderr)
    if silent := len(known.keys() - texts.keys()):
        print(
            f"lvlm-fix: {silent} of {len(known)} photos of the truth have no caption and are left"
            " out",
            file=sys.stderr,
        )
    judged = chair.judge(texts, known, _dialect(dialect))
    if unjudged := sum(one.unjudged for one in judged):
        print(
            f"lvlm-fix: {unjudged} mentions name objects that nobody looked for in their photos;"
            " they count nowhere",
            file=sys.stderr,
        )
    if words is not None:
        write(words, map(chair.labelled, judged))
    _show(chair.score(judged, seed) | _cut(cut, len(texts)), as_json)


@scores.command("pope")
def score_pope(
    questions: Annotated[Path, typer.Option(help="questions of one split in the published format")],
    answers: Annotated[Path, typer.Option(help="JSON lines with question_id and text or answer")],
    rule: RuleName = "published",
    corrections: Annotated[
        Path | None,
        typer.Option(
            help="RePOPE's file; its labels count, and questions that it leaves out are disputed"
        ),
    ] = None,
    skip_unknown: Annotated[
        bool, typer.Option(help="ignore answers that belong to no question (RePOPE drops some)")
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Score answers by POPE. Questions without an answer are left out; standard error counts them.

    Example: lvlm-fix eval score pope --questions questions.jsonl --answers answers.jsonl
    """
    asked = pope.read_questions(questions)
    given = pope.read_answers(answers, asked)
    records = dict(zip(given, read(answers), strict=True))
    if skip_unknown:
        given = {key: text for key, text in given.items() if key in asked}
    disputed: dict[str, int] = {}
    if corrections is not None:
        asked, apart = pope.corrected(asked, pope.read_questions(corrections).values())
        disputed = {"disputed": len(apart & given.keys())}
        given = {key: text for key, text in given.items() if key not in apart}
    cut = cut_in([records[key] for key in given], answers)
    rows = pope.columns(asked, given, _rule(rule))
    if unanswered := len(asked) - len(given):
        print(
            f"lvlm-fix: {unanswered} of {len(asked)} questions have no answer and are left out",
            file=sys.stderr,
        )
    if (misread := pope.doubtful(given.values())) and rule == "published":
        print(
            f"lvlm-fix: {misread} of {len(given)} answers begin with a yes or no that the published"
            " rule reads the other way: see --rule strict",
            file=sys.stderr,
        )
    _show(
        pope.score(rows, seed) | {"doubtful": misread} | disputed | _cut(cut, len(given)), as_json
    )


@app.command("check")
def check_command(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="captions, questions, answers, objects, pictures; COCO or photo folders",
            metavar="FILE...",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Say what files are, what was understood, and what is odd. Exit 2 if one is not understood.

    Example: lvlm-fix eval check captions.jsonl objects.json photos/
    """
    rows = check(files)
    if as_json:
        print(json.dumps({"files": rows}))
    else:
        for row in rows:
            print(row.get("error") or f"{row['file']}: {row['kind']}, {row['rows']} rows")
            for odd in row["odd"]:
                print(f"  odd: {odd}")
    if any("error" in row for row in rows):
        raise SystemExit(2)


@app.command()
def questions(
    truth: Annotated[Path, typer.Option(help="objects file, or a COCO folder")],
    split: Annotated[str, typer.Option(help="random, popular or adversarial")],
    out: Annotated[Path, typer.Option(help="the question file to write", callback=can_be_written)],
    ids: Annotated[
        str | None, typer.Option(help="file.json or file.json:name; default: every photo")
    ] = None,
    limit: Limit = None,
    per_photo: Annotated[
        int, typer.Option(help="yes questions per photo, and as many no questions")
    ] = 3,
    synonyms: SynonymsFile = None,
    seed: Seed = 0,
) -> None:
    """Generate POPE questions.

    Example: lvlm-fix eval questions --truth objects.json --split popular --out popular.jsonl
    """
    known = truth_of(truth, None if truth.is_dir() else truth, synonyms=synonyms)
    chosen = choose(read_ids(ids) if ids else known, limit, seed)
    records = pope.generate(known, chosen, split, seed=seed, per_photo=per_photo)
    write(out, records)
    print(f"{len(records)} questions about {len(chosen)} photos -> {out}", file=sys.stderr)


@app.command("run")
def run_command(
    task: Annotated[str, typer.Argument(help="chair or pope")],
    data: Data,
    out: Annotated[Path, typer.Option(help="run folder; give the same command again to resume")],
    method: Annotated[
        list[str],
        typer.Option(help='repeatable; "none", "var+vhr", "random-heads:seed=0..19", "all"'),
    ],
    model: Model = "tiny",
    revision: Revision = None,
    images: Images = None,
    truth: TruthFile = None,
    questions: Annotated[
        list[Path] | None, typer.Option(help="POPE files; default: three splits, generated")
    ] = None,
    ids: Ids = None,
    split: Split = None,
    limit: Limit = None,
    batch_size: BatchSize = 8,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="longest text, tokens; default 128, for POPE 8")
    ] = None,
    prompt: Prompt = DESCRIBE,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="method.setting=value, repeatable")
    ] = None,
    ask: Annotated[
        str | None,
        typer.Option(help="run every method again and check its texts: mark, drop or rewrite"),
    ] = None,
    seed: Seed = 0,
    synonyms: SynonymsFile = None,
    as_json: AsJson = False,
) -> None:
    """Caption or question every photo under every method, in one resumable run.

    Photos that cannot be read are left out and named at the end; the exit status is then 3.

    Example: lvlm-fix eval run chair --data coco --method none --method vhr --out runs/chair
    """
    if task not in get_args(Task):
        raise SettingError(f"run takes chair or pope, got {task!r}")
    samples, photos, known = draw(
        task, data, images, truth, questions or [], ids, split, limit, seed, synonyms
    )
    method = expand(method)
    if ask:
        method += [f"{spec}+ask:use={ask}" for spec in method]
    settings = _settings(set_ or [], method)
    plan = Plan(
        task="chair" if task == "chair" else "pope",
        model=model,
        methods=tuple(method),
        samples=samples,
        photos=photos,
        truth=known,
        prompt=prompt if task == "chair" else "",
        settings=settings,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens or (128 if task == "chair" else 8),
        seed=seed,
    )
    gone = carry_out(plan, out, revision)
    if gone is None:
        return
    if as_json:
        document = {"run": str(out), "methods": method, "photos": len(plan.image_ids())}
        print(json.dumps(document | {"left_out": {str(key): why for key, why in gone.items()}}))
    end(gone, len(plan.image_ids()))


app.command("tune")(tune_command)
app.command("lmms")(make)


@app.command("compare")
def compare_command(
    run: Annotated[Path | None, typer.Argument(help="a finished run folder", metavar="RUN")] = None,
    captions: Annotated[
        list[str] | None,
        typer.Option(
            help="name=FILE in place of RUN, repeatable; the first is the unmodified model"
        ),
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="with --captions: objects file")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="plot recall against CHAIR_I: PNG, SVG or PDF")
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="every figure, in wide tables")] = False,
    dialect: DialectName = "published",
    rule: RuleName = "published",
    seed: Seed = 0,
    synonyms: SynonymsFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare every method of a run with the unmodified model.

    Photos are compared in pairs, at equal length, and beside trivial controls of equal recall.

    Example: lvlm-fix eval compare runs/chair --picture chair.png
    """
    from lvlm_eval import shown

    found = _compared(run, captions or [], truth, _dialect(dialect), synonyms)
    if picture is not None and not found.captions:
        raise SettingError("--picture shows captions; this run holds answers")
    result = compare(found, _dialect(dialect), _rule(rule), seed)
    if picture is not None:
        shown.picture(result, picture)
        print(f"picture -> {picture}", file=sys.stderr)
    if as_json:
        print(json.dumps(result))
        return
    if found.captions and not wide:
        shown.show(result, Console())
        return
    for title, part in [
        *result.get("splits", {}).items(),
        ("all" if "splits" in result else "", result),
    ]:
        _table(title or "figures", part["methods"])
        for name in ("differences", "length_matched"):
            if part.get(name):
                _table(
                    f"{title} {name.replace('_', ' ')}, points, p after Holm".strip(), part[name]
                )
        if "auc" in part:
            _aucs(f"{title} AUC of Yes against No, p after Holm".strip(), part["auc"])
        if part["control"]:
            _table(
                f"{title} in the mean [least, greatest] of its control, p by rank".strip(),
                part["control"],
            )


def _aucs(title: str, found: Mapping[str, Any]) -> None:
    table = Table("", "AUC", "points against the unmodified model", title=title)
    for method, row in found.items():
        change = row.get("difference")
        said = "" if change is None else f"{cell('auc', change['difference'], change['ci'])}"
        said += f" p {change['p_holm']:.3f}" if change else ""
        table.add_row(method, cell("auc", row["value"], row["ci"]), said)
    Console().print(table)


def _compared(
    run: Path | None,
    captions: list[str],
    truth: Path | None,
    dialect: Dialect,
    synonyms: Path | None,
) -> Run:
    """A run folder, or captions that the caller has already."""
    if run is not None and not captions and truth is None:
        return load(run)
    if run is not None or len(captions) < 2 or truth is None:
        raise SettingError(
            "compare takes a run folder, or --captions name=FILE at least twice with --truth"
        )
    files = dict[str, Path]()
    for pair in captions:
        name, equals, path = pair.partition("=")
        if not equals or name in files:
            raise SettingError(f"--captions takes name=FILE, each name once; got {pair!r}")
        files[name] = Path(path)
    known = truth_of(truth, None if truth.is_dir() else truth, dialect, synonyms)
    return of_captions(files, known)


@app.command("table")
def table_command(
    runs: Annotated[
        list[Path],
        typer.Argument(help="a finished run of chair, of pope, or one of each", metavar="RUN..."),
    ],
) -> None:
    """Print the figures of a chair run and a pope run as one Markdown table.

    Example: lvlm-fix eval table runs/chair runs/pope
    """
    print(table(*map(load, runs)))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="a finished run folder", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="the page to write", callback=can_be_written)],
    dialect: DialectName = "published",
    rule: RuleName = "published",
) -> None:
    """Write one self-contained HTML page about a run.

    Example: lvlm-fix eval report runs/chair --out chair.html
    """
    page = render(load(run), _dialect(dialect), _rule(rule))
    write_whole(out, page)
    print(f"report -> {out}", file=sys.stderr)


app.command("grounding")(grounding_command)


def _settings(pairs: list[str], methods: list[str]) -> dict[str, str]:
    given = settings_of(pairs)
    named = {part.partition(":")[0] for spec in methods for part in spec.split("+")}
    for key, value in given.items():
        if key.partition(".")[0] not in named:
            raise SettingError(
                f"--set {key}={value} is for a method that does not run; the methods are"
                f" {', '.join(sorted(named))}"
            )
    return given


def _cut(cut: int | None, n: int) -> dict[str, int]:
    """The texts that were cut at the token limit, where the records say it; warned of."""
    if cut:
        print(f"lvlm-fix: {cut} of {n} texts were cut at the token limit", file=sys.stderr)
    return {} if cut is None else {"cut": cut}


def _dialect(name: str) -> Dialect:
    if name not in ("published", "strict"):
        raise SettingError(f"dialect must be published or strict, got {name!r}")
    return name


def _rule(name: str) -> pope.Rule:
    if name not in ("published", "strict"):
        raise SettingError(f"rule must be published or strict, got {name!r}")
    return name


def _show(figures: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(figures))
        return
    table = Table("figure", "value", "95 % interval")
    for name, value in figures.items():
        if name != "ci":
            ends = figures["ci"].get(name)
            shown = cell(name, value, ends).partition(" ")
            table.add_row(name + ("" if name in COUNTS else ", %"), shown[0], shown[2])
    Console().print(table)


def _table(title: str, methods: Mapping[str, Mapping[str, Any]]) -> None:
    names = [name for name in next(iter(methods.values())) if name != "ci"]
    table = Table("", *names, title=title)
    for method, figures in methods.items():
        row: list[str] = []
        for name in names:
            found = figures[name]
            if not isinstance(found, dict):
                row.append(cell(name, found, figures["ci"].get(name)))
            elif "draws" in found:
                row.append(
                    f"{cell(name, found['value'])} in {cell(name, found['mean'], found['range'])} p"
                    f" {found['p']:.3f}"
                )
            else:
                row.append(
                    f"{cell(name, found['difference'], found['ci'])} p {found['p_holm']:.3f}"
                )
        table.add_row(method, *row)
    Console().print(table)
