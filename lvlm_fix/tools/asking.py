"""The subcommands `lvlm-fix ask ...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from lvlm_fix.errors import DataError, SettingError
from lvlm_fix.files import can_be_written, write_whole

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Ask a model about what it says it sees.")
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")]
# what hardly any photo shows: answers about these are about things that are not there
ABSENT = "submarine,volcano,dinosaur,castle,penguin,lighthouse,camel,harp,igloo,spaceship"


@app.callback()
def group() -> None:
    """Ask a model about what it says it sees."""


@app.command()
def calibrate(
    images: Annotated[Path, typer.Option(help="a folder of photos, named <id>.jpg")],
    out: Annotated[
        Path, typer.Option(help="the calibration to write (JSON)", callback=can_be_written)
    ],
    truth: Annotated[
        Path | None,
        typer.Option(help="objects file: image id -> objects; without one, only a threshold"),
    ] = None,
    model: Annotated[str, typer.Option(help='a hub name, a folder, or "tiny"')] = "tiny",
    ids: Annotated[str | None, typer.Option(help="file.json:name, a list of ids")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first photos by id")] = None,
    batch_size: Annotated[int, typer.Option(help="photos at a time")] = 8,
    max_new_tokens: Annotated[int, typer.Option(help="longest text, tokens")] = 128,
    absent: Annotated[
        str, typer.Option(help="without --truth: objects that are in none of the photos")
    ] = ABSENT,
    as_json: AsJson = False,
) -> None:
    """Measure what this model's Yes is worth: from log-odds to the chance that an object is there.

    The model describes each photo and is asked about what it named. Without --truth, it is asked
    about things that are not there; you get the log-odds that 95 % of these answers stay below.

    Example: lvlm-fix ask calibrate --images photos/ --truth objects.json --out calibration.json
    """
    photos = photos_of(images, ids)[:limit]
    if batch_size < 1:
        raise SettingError(f"batch-size must be >= 1, got {batch_size}")
    known = None if truth is None else truth_of(truth)
    import numpy as np

    import lvlm_fix as lf
    from lvlm_fix.ask.calibration import Asked
    from lvlm_fix.ask.calibration import calibrate as fit
    from lvlm_fix.models import DESCRIBE
    from lvlm_fix.tools.photos import Broken

    loaded, processor = lf.load(model)
    asker = lf.Asker(loaded, processor)
    check = lf.asked(use="mark", processor=processor)
    found: list[Asked] = []
    broken = Broken()
    starts = range(0, len(photos), batch_size)
    for start in track(starts, "asking", console=Console(stderr=True)):
        some = photos[start : start + batch_size]
        read = list(broken.opened(some))
        if not read:
            continue
        opened = [image for _, image in read]
        if known is None:
            words = [word.strip() for word in absent.split(",") if word.strip()]
            answers = asker.look(opened, [words] * len(opened))
        else:
            lf.answer(loaded, processor, opened, [DESCRIBE] * len(opened),
                      max_new_tokens=max_new_tokens, custom_generate=check)  # fmt: skip
            answers = [one.odds for one in check.checked]
        for (key, _), odds in zip(read, answers, strict=True):
            here = () if known is None else known.get(key)
            if here is None:
                raise DataError(f"the objects of photo {key} are unknown; see --truth")
            found += [(key, value, name in here) for name, value in odds.items()]
    document: dict[str, Any]
    if known is None:
        document = {
            "model": model, "question": asker.wording.question,
            "photos": len(photos) - len(broken.why),
            "answers": len(found), "threshold": float(np.quantile([v for _, v, _ in found], 0.95)),
        }  # fmt: skip
        write_whole(out, json.dumps(document, indent=1) + "\n")
    else:
        curve = fit(found, model, asker.wording.question)
        curve.save(out)
        document = json.loads(out.read_text()) | {"threshold": round(curve.threshold(), 3)}
    if as_json:
        print(json.dumps(document))
    else:
        for name, value in document.items():
            Console().print(f"{name}: {value}", markup=False)
        print(f"{len(found)} answers about {document['photos']} photos -> {out}", file=sys.stderr)
    broken.end()


@app.command()
def objects(
    captions: Annotated[
        list[Path],
        typer.Argument(
            help="COCO captions (JSON), or texts with one caption a line", metavar="CAPTIONS..."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="the list to write, one word a line", callback=can_be_written)
    ],
    ids: Annotated[str | None, typer.Option(help="file.json:name, photos of COCO captions")] = None,
    count: Annotated[int, typer.Option(help="how many words", min=1)] = 80,
) -> None:
    """Make a list of objects to ask about: the commonest nouns in captions.

    Use it with `--set guide.objects=@FILE` or `--set ask.objects=@FILE`.

    Example: lvlm-fix ask objects captions_train2014.json --out words.txt --count 80
    """
    from lvlm_fix.objects.nouns import commonest

    wanted = None if ids is None else ids_of(ids)
    texts = dict.fromkeys(text for path in captions for text in captions_of(path, wanted))
    words = commonest(texts, count)
    if not words:
        raise DataError(f"no nouns were found in {len(texts)} captions")
    about = f"# the {len(words)} commonest nouns of {len(texts)} captions, `lvlm-fix ask objects`"
    write_whole(out, "\n".join([about, *words]) + "\n")
    print(f"{len(words)} words of {len(texts)} captions -> {out}", file=sys.stderr)


def captions_of(path: Path, ids: set[int] | None) -> list[str]:
    """The captions of a file, those of some photos alone where COCO's format names the photos."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return text.splitlines()
        return [
            str(one["caption"])
            for one in json.loads(text)["annotations"]
            if ids is None or one["image_id"] in ids
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} holds no captions: {error!r}") from None


def photos_of(folder: Path, ids: str | None) -> list[tuple[int, Path]]:
    """Id and path of the photos of a folder, those in a list alone where one is given."""
    from lvlm_fix.images import NUMBERED

    if not folder.is_dir():
        raise DataError(f"--images takes a folder of photos, got {str(folder)!r}")
    found = {
        int(match[1]): path
        for path in folder.iterdir()
        if not path.name.startswith(".") and (match := NUMBERED.fullmatch(path.name))
    }
    if ids is not None:
        wanted = ids_of(ids)
        found = {key: path for key, path in found.items() if key in wanted}
    if not found:
        raise DataError(f"there are no photos named <id>.jpg to ask about in {str(folder)!r}")
    return sorted(found.items())


def ids_of(ids: str) -> set[int]:
    """The ids of "file.json" or "file.json:name"."""
    name, _, part = ids.partition(":")
    try:
        listed = json.loads(Path(name).read_text())
        return {int(key) for key in (listed[part] if part else listed)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"--ids takes file.json:name, a list of ids, got {ids!r}: {error}"
        ) from None


def truth_of(path: Path) -> dict[int, frozenset[str]]:
    """Image id -> objects."""
    try:
        document = json.loads(path.read_text())
        return {int(key): frozenset(names) for key, names in document.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} holds no objects by image id: {error}") from None
