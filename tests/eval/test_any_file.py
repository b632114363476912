"""Readers understand a file or raise the library's own errors, whatever its bytes; figures do not
depend on the order or the numbers of what is scored.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lvlm_eval import chair, pope
from lvlm_eval.chair.score import columns
from lvlm_eval.check import CAPTION_IDS, CAPTIONS, check
from lvlm_eval.coco import annotated_truth, read_ids, read_truth
from lvlm_eval.other_truth import read_voc, voc_files
from lvlm_eval.pope import Question
from lvlm_eval.records import by_id, read

import lvlm_fix as lf
from lvlm_fix import LvlmFixError

quick = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def _captions(path: Path) -> object:
    return by_id(read(path), CAPTION_IDS, CAPTIONS, path)


def _annotations(path: Path) -> object:
    folder = path.parent / "annotations"
    folder.mkdir(exist_ok=True)
    (folder / "instances_x.json").write_bytes(path.read_bytes())
    return annotated_truth(path.parent, cache=path.parent / "cache")


def _voc(path: Path) -> object:
    folder = path.parent / "Annotations"
    folder.mkdir(exist_ok=True)
    (folder / "000001.xml").write_bytes(path.read_bytes())
    return read_voc(voc_files(path.parent))


READERS: dict[str, Callable[[Path], object]] = {
    "captions": _captions,
    "questions": pope.read_questions,
    "answers": pope.read_answers,
    "truth": read_truth,
    "ids": lambda path: read_ids(str(path)),
    "annotations": _annotations,
    "voc": _voc,
    "picture": lf.open_image,
    "check": lambda path: check([path]),
}
VALID = [
    b'{"image_id": 1, "caption": "a dog"}\n{"image_id": 2, "caption": "a cat"}\n',
    b'{"question_id": 1, "image": "a_1.jpg", "text": "Is there a dog?", "label": "yes"}\n',
    b'{"imgToEval": {"1": {"image_id": 1, "caption": "a dog"}}}',
    b'{"1": ["dog"], "2": []}',
    b"question_id,answer\n1,yes\n2,no\n",
    b"[3, 1, 2]",
    b"ImageID,LabelName,Confidence\n1,Dog,1\n2,Cat,0\n",
    b"<annotation><object><name>dog</name></object></annotation>",
    b'{"images": [{"id": 1}], "categories": [{"id": 1, "name": "dog"}], '
    b'"annotations": [{"id": 1, "image_id": 1, "category_id": 1}]}',
]
scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
words = st.sampled_from(
    ["image_id", "question_id", "caption", "text", "label", "image", "imgToEval", "sentences", "1",
     "annotations", "categories", "images", "id", "name", "category_id", "objects", "LabelName"]
)  # fmt: skip
anything = st.recursive(
    scalar,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5),
    max_leaves=12,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid file with a stretch of it cut out, and other bytes in its place."""
    whole = draw(st.sampled_from(VALID))
    start, length = draw(st.integers(0, len(whole))), draw(st.integers(0, 12))
    return whole[:start] + draw(st.binary(max_size=6)) + whole[start + length :]


contents = st.binary(max_size=60) | mutated() | anything.map(lambda x: json.dumps(x).encode())


@pytest.mark.parametrize("reader", READERS)
@quick
@given(content=contents, name=st.sampled_from(["f.json", "f.csv", "f.json.gz", "f.jsonl.xz"]))
def test_a_reader_raises_only_errors_of_the_library(reader: str, content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        with contextlib.suppress(LvlmFixError):
            READERS[reader](path)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"image_id": ' + b"9" * 5000 + b', "caption": "a dog"}',
        b'{"image_id": Infinity, "caption": "a dog"}',
        b'{"1": 3}',
        b'{"imgToEval": {"1": [1]}}',
        b"a,b\n" + b"x" * 200_000 + b",y\n",
        b"image_id,image_id\n1,2\n\x00\n",
        b'{"\xc2\xb2": "a dog"}',
    ],
    ids=["deep", "long number", "infinite", "id to number", "list", "long cell", "zero", "square"],
)
@pytest.mark.parametrize("reader", READERS)
def test_files_that_break_parsers(reader: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(content)
    if reader == "check":
        (row,) = check([path])
        assert "error" in row
        return
    with pytest.raises(LvlmFixError):
        READERS[reader](path)


caption = st.lists(
    st.sampled_from(["a", "dog", "cat", "hot dog", "sofa", "on", "bus.", "people"]), max_size=8
).map(" ".join)
truths = st.frozensets(st.sampled_from(["dog", "cat", "person", "couch", "bus"]), max_size=4)
photos = st.lists(st.tuples(caption, truths), min_size=2, max_size=8)


@quick
@given(photos=photos, shift=st.integers(1, 10**6), at=st.integers(1, 7))
def test_chair_does_not_depend_on_order_numbers_or_parts(
    photos: list[tuple[str, frozenset[str]]], shift: int, at: int
) -> None:
    def sums(rows: list[tuple[str, frozenset[str]]], first: int = 0) -> np.ndarray:
        texts = {first + n: text for n, (text, _) in enumerate(rows)}
        truth = {first + n: found for n, (_, found) in enumerate(rows)}
        return columns(chair.judge(texts, truth)).sum(0)

    whole = sums(photos)
    np.testing.assert_allclose(sums(photos[::-1], shift), whole)
    if at < len(photos):
        np.testing.assert_allclose(sums(photos[:at]) + sums(photos[at:]), whole)


said = st.sampled_from(["yes", "No", "NO", "**No**", "hm", "", "Yes and no", "not there"])
rows = st.lists(st.tuples(said, st.sampled_from(["yes", "no"])), min_size=2, max_size=8)


@quick
@given(rows=rows, shift=st.integers(1, 10**6), at=st.integers(1, 7))
def test_pope_does_not_depend_on_order_numbers_or_parts(
    rows: list[tuple[str, str]], shift: int, at: int
) -> None:
    def sums(rows: list[tuple[str, str]], first: int = 0) -> np.ndarray:
        asked = {
            first + n: Question(first + n, f"{n // 2}.jpg", "Is there a dog?", label)
            for n, (_, label) in enumerate(rows)
        }
        answers = {first + n: answer for n, (answer, _) in enumerate(rows)}
        return pope.columns(asked, answers).sum(0)

    whole = sums(rows)
    np.testing.assert_allclose(sums(rows[::-1], shift), whole)
    if at < len(rows):
        np.testing.assert_allclose(sums(rows[:at]) + sums(rows[at:]), whole)
