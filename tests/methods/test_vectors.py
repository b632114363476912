"""Vectors in files: what is read, how its layers count, what is refused, and how they are made."""

from __future__ import annotations

import json
import struct
from hashlib import sha256
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import lvlm_fix as lf
from lvlm_fix.images import sample_photos
from lvlm_fix.models import DESCRIBE, prepare
from lvlm_fix.tools.effects import Labelled
from lvlm_fix.tools.making import difference, direction, make
from lvlm_fix.tools.nullu import Pair
from lvlm_fix.vectors.vectors import Vectors

ROWS = {1: torch.tensor([1.0, 2.0, 3.0]), 2: torch.tensor([-1.0, 0.5, 0.0])}


def equal(found: Vectors, wanted: dict[int, Tensor]) -> bool:
    return list(found.rows) == list(wanted) and all(
        torch.equal(found.rows[layer], row) for layer, row in wanted.items()
    )


def stored(path: Path, tensors: dict[str, Tensor], **about: str) -> Path:
    save_file(tensors, str(path), about)
    return path


@pytest.mark.parametrize("start", ["layer.", "direction.", ""])
def test_safetensors_of_a_vector_a_layer_are_read(start: str, tmp_path: Path) -> None:
    keys = {f"{start}{layer}": row for layer, row in ROWS.items()}
    path = stored(tmp_path / "v.safetensors", keys)
    assert equal(Vectors.load(path, "decoder"), ROWS)
    shifted = {layer - 1: row for layer, row in ROWS.items()}
    assert equal(Vectors.load(path, "hidden_states"), shifted)  # entry 1 is what layer 0 gives
    with pytest.raises(lf.DataError, match=r"v\.safetensors.*set counting to decoder"):
        Vectors.load(path)
    with pytest.raises(lf.DataError, match="counting is set to 'blocks'"):
        Vectors.load(path, "blocks")
    said = stored(tmp_path / "said.safetensors", keys, counting="hidden_states")
    assert equal(Vectors.load(said), shifted)
    with pytest.raises(lf.DataError, match="counted by hidden_states, and counting is set to dec"):
        Vectors.load(said, "decoder")


def test_one_tensor_of_layers_and_what_was_saved_are_read(tmp_path: Path) -> None:
    table = {"all": torch.stack(list(ROWS.values()))}
    path = stored(tmp_path / "v.safetensors", table, first_layer="1", counting="decoder")
    assert equal(Vectors.load(path), ROWS)
    with pytest.raises(lf.DataError, match="first_layer"):
        Vectors.load(stored(tmp_path / "w.safetensors", table), "decoder")
    Vectors(ROWS, about={"model": "tiny"}).save(tmp_path / "own.safetensors")
    own = Vectors.load(tmp_path / "own.safetensors")
    assert equal(own, ROWS) and own.about["model"] == "tiny"


@pytest.mark.parametrize(
    ("tensors", "about", "match"),
    [
        ({"layer.1": ROWS[1], "bias": ROWS[2]}, {}, "key 'bias' is not understood"),
        ({"layer.1": ROWS[1], "2": ROWS[2]}, {}, "several kinds: 2, layer.1"),
        ({"layer.1": ROWS[1], "layer.01": ROWS[2]}, {}, "for the same layer: layer.01, layer.1"),
        ({"layer.1": ROWS[1]}, {"mode": "project"}, "mode is 'project'"),
        ({"layer.1": ROWS[1]}, {"place": "mlp"}, "place is 'mlp'"),
        ({"layer.1": ROWS[1]}, {"format": "other"}, "format is 'other'"),
        ({"layer.1": ROWS[1]}, {"counting": "blocks"}, "counting is 'blocks'"),
        ({"layer.0": ROWS[1]}, {"counting": "hidden_states"}, "entry 0 of hidden_states"),
        ({"layer.1": ROWS[1] / 0}, {}, "layer 1 is not one row of finite"),
        ({"layer.1": ROWS[1].long()}, {}, "layer 1 is not one row of finite"),
        ({"layer.1": ROWS[1][:, None], "2": ROWS[2]}, {}, "several kinds"),
        ({"layer.1": ROWS[1][:, None], "layer.2": ROWS[2]}, {}, "layer 1 is not one row"),
        ({"layer.1": ROWS[1], "layer.3": ROWS[2][:2]}, {}, "layer 3 is 2 wide"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(
    tensors: dict[str, Tensor], about: dict[str, str], match: str, tmp_path: Path
) -> None:
    path = stored(tmp_path / "odd.safetensors", tensors, **about)
    counting = "file" if "counting" in about else "decoder"
    with pytest.raises(lf.DataError, match=match) as error:
        lf.Steer(vectors=str(path), counting=counting)
    assert "odd.safetensors" in str(error.value)


def test_no_vectors_are_refused() -> None:
    with pytest.raises(lf.DataError, match="holds no vectors"):
        Vectors({})


def test_pickles_and_damaged_files_are_refused(tmp_path: Path) -> None:
    torch.save(ROWS, tmp_path / "v.safetensors")  # a pickle, whatever its name
    (tmp_path / "v.bin").write_bytes(b"\x80\x04.")
    for name in ("v.safetensors", "v.bin"):
        with pytest.raises(lf.DataError, match="a pickle is never read"):
            Vectors.load(tmp_path / name)
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00")
    for name in ("cut.safetensors", "absent.safetensors"):
        with pytest.raises(lf.DataError, match=name):
            Vectors.load(tmp_path / name)


def text(words: str) -> bytes:
    return struct.pack("<Q", len(words)) + words.encode()


def gguf(fields: dict[str, str | int], tensors: dict[str, Tensor], kind: int = 0) -> bytes:
    """A gguf file, written by its specification."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields))
    for key, value in fields.items():
        out += text(key)
        if isinstance(value, str):
            out += struct.pack("<I", 8) + text(value)
        else:
            out += struct.pack("<II", 4, value)
    offset, data = 0, b""
    for name, row in tensors.items():
        out += text(name) + struct.pack("<IQIQ", 1, len(row), kind, offset)
        part = row.numpy().astype("<f4").tobytes()
        data += part + b"\0" * (-len(part) % 32)
        offset = len(data)
    return out + b"\0" * (-len(out) % 32) + data


CONTROL: dict[str, str | int] = {
    "general.architecture": "controlvector", "controlvector.model_hint": "llama",
    "controlvector.layer_count": 2,
}  # fmt: skip
DIRECTIONS = {f"direction.{layer}": row for layer, row in ROWS.items()}


def test_gguf_control_vectors_are_read_and_other_uses_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    path.write_bytes(gguf(CONTROL, DIRECTIONS))
    found = Vectors.load(path)
    assert equal(found, ROWS) and found.about["controlvector.model_hint"] == "llama"
    with pytest.raises(lf.DataError, match="counted by decoder"):
        Vectors.load(path, "hidden_states")
    odd: list[tuple[bytes, str]] = [
        (gguf(CONTROL | {"controlvector.mode": "project"}, DIRECTIONS), "key 'controlvector.mode'"),
        (gguf(CONTROL | {"general.architecture": "llama"}, DIRECTIONS), "general.architecture"),
        (gguf(CONTROL, {"direction.0": ROWS[1]}), "direction.0 does not exist"),
        (gguf(CONTROL, {"token_embd.weight": ROWS[1]}), "token_embd.weight"),
        (gguf(CONTROL, DIRECTIONS, kind=1), "not one row of float32"),
        (gguf(CONTROL, DIRECTIONS)[:-40], "runs past the end of the file"),
        (gguf(CONTROL, DIRECTIONS)[:60], "damaged|runs past the end of the file"),
    ]
    for data, match in odd:
        path.write_bytes(data)
        with pytest.raises(lf.DataError, match=match) as error:
            Vectors.load(path)
        assert "v.gguf" in str(error.value)


def test_gguf_as_the_public_writer_writes_it(tmp_path: Path) -> None:
    writing = pytest.importorskip("gguf", reason="the public writer is not installed")
    writer = writing.GGUFWriter(tmp_path / "v.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 2)
    for name, row in DIRECTIONS.items():
        writer.add_tensor(name, row.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert equal(Vectors.load(tmp_path / "v.gguf"), ROWS)


def folder_of(path: Path, manifest: dict[str, Any]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "manifest.json").write_text(json.dumps(manifest))
    save_file({"direction": ROWS[1]}, str(path / "tensors.safetensors"))
    names = ("manifest.json", "tensors.safetensors")
    sums = {name: sha256((path / name).read_bytes()).hexdigest() for name in names}
    (path / "checksums.json").write_text(json.dumps({"algorithm": "sha256", "files": sums}))
    return path


def test_folders_of_repsteer_are_read_where_the_place_is_the_layers_output(tmp_path: Path) -> None:
    site = {"stream": "language", "component": "resid_post", "layer": 3, "unit": None,
            "io": "output", "tensor_path": []}  # fmt: skip
    good = {"artifact_type": "direction", "site": site, "model": {"id": "llava"}}
    found = Vectors.load(folder_of(tmp_path / "v", good))
    assert equal(found, {3: ROWS[1]}) and found.about == {"id": "llava"}
    for change, match in (
        ({"artifact_type": "probe"}, "artifact_type 'probe'"),
        ({"site": site | {"stream": "vision"}}, "site.stream is 'vision'"),
        ({"site": site | {"component": "mlp_out"}}, "site.component is 'mlp_out'"),
        ({"site": site | {"io": "input"}}, "site.io is 'input'"),
        ({"site": site | {"unit": 4}}, "site.unit is 4"),
        ({"site": site | {"heads": 4}}, "site.heads is not understood"),
        ({"site": site | {"layer": None}}, "site.layer is None"),
        ({"site": {}}, "there is no 'layer'"),
    ):
        with pytest.raises(lf.DataError, match=match):
            Vectors.load(folder_of(tmp_path / "v", good | change))
    (folder_of(tmp_path / "v", good) / "manifest.json").write_text(json.dumps(good) + "\n")
    with pytest.raises(lf.DataError, match=r"manifest\.json is not the file"):
        Vectors.load(tmp_path / "v")


def test_directions_by_hand() -> None:
    rows = torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]], [[5.0, 3.0]]])  # three texts, one layer
    torch.testing.assert_close(direction(rows, "mean"), torch.tensor([[3.0, 1.0]]))
    apart = rows[:2]  # mean (2, 0); about it (−1, 0) and (1, 0): the first component is (±1, 0)
    found = direction(apart, "vti")
    left = torch.linalg.svd((apart - apart.mean(0)).flatten(1))[0][:, 0]
    side = 1.0 if left[left.abs().argmax()] > 0 else -1.0
    right = torch.linalg.svd((apart - apart.mean(0)).flatten(1))[2][0, 0]
    torch.testing.assert_close(found, torch.tensor([[2.0 + side * float(right), 0.0]]))
    assert abs(float(found[0, 0]) - 2) == pytest.approx(1)
    for rows, kind in ((torch.zeros(2, 1, 2), "mean"), (torch.ones(2, 1, 2), "vti")):
        with pytest.raises(lf.DataError, match=r"the same to the model|only one direction"):
            direction(rows, kind)


def test_a_difference_is_that_of_captions_cut_behind_the_words(tiny: Any) -> None:
    model, processor = tiny
    photo = lf.open_image(sample_photos()[0])
    depth = len(model.get_decoder().layers)

    def end(words: str) -> Tensor:
        inputs = prepare(model, processor, [photo], [DESCRIBE])
        ids = processor.tokenizer(words, add_special_tokens=False, return_tensors="pt")["input_ids"]
        whole = torch.cat((inputs["input_ids"], ids), 1)
        more = dict(inputs) | {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in inputs:
                more[name] = torch.nn.functional.pad(inputs[name], (0, ids.shape[1]))
        with torch.no_grad():
            states = model(**more, output_hidden_states=True).hidden_states
        return torch.stack([state[0, -1] for state in states[1:depth]])

    labelled = Labelled(photo, "a cat on a bed with a dog", ("cat", "dog"), ("bed",))
    found = difference(model, processor, labelled, DESCRIBE)
    assert found is not None and len(found) == depth
    right = (end("a cat") + end("a cat on a bed with a dog")) / 2
    torch.testing.assert_close(found[:-1], right - end("a cat on a bed"), atol=1e-4, rtol=1e-4)
    pair = Pair(photo, "a cat", "a dog on a bed")
    found = difference(model, processor, pair, DESCRIBE)
    assert found is not None
    wanted = end("a cat") - end("a dog on a bed")
    torch.testing.assert_close(found[:-1], wanted, atol=1e-4, rtol=1e-4)
    none = Labelled(photo, "a cat on a bed", ("cat",), ())
    assert difference(model, processor, none, DESCRIBE) is None
    with pytest.raises(lf.InputError, match="of 2, 1 have both"):
        make(model, processor, [labelled, none], kind="vti")


def test_vectors_are_made_shown_and_steer(lvlm: Any, tmp_path: Path) -> None:
    lines = []
    for number, path in enumerate(sample_photos()[:3]):
        copy(path, tmp_path / f"{number}.jpg")
        lines.append(
            json.dumps({"image": number, "text": "a cat on a bed", "grounded": ["cat"],
                        "invented": ["bed"]})
        )  # fmt: skip
    words, out = tmp_path / "words.jsonl", tmp_path / "v.safetensors"
    words.write_text("\n".join(lines) + "\n")
    ask = ("vectors", "make", "--images", tmp_path, "--words", words, "--out", out)
    code, told, _ = lvlm(*ask, "--limit", 2, "--seed", 4, "--kind", "vti", "--json")
    made = json.loads(told)
    assert code == 0 and made["texts"] == "2" and made["seed"] == "4" and made["photos"] == "2"
    assert made["model"] == "tiny" and made["counting"] == "decoder"
    assert made["sha256"] == sha256(words.read_bytes()).hexdigest()
    code, told, _ = lvlm("vectors", "show", out, "--json")
    shown = json.loads(told)
    assert code == 0 and len(shown["norms"]) == made["layers"] and shown["about"]["kind"] == "vti"
    assert "length" in lvlm("vectors", "show", out)[1]
    for name in ("steer", "vti"):
        setting = f"{name}.vectors={out}"
        photo = tmp_path / "0.jpg"
        code, told, _ = lvlm(
            "caption", photo, "--method", name, "--set", setting, "--max-new-tokens", 3, "--json"
        )
        assert (
            code == 0 and json.loads(told)["items"][0]["outputs"][1]["acted"][name]["rows_edited"]
        )
    for extra, why in (((), "name one"), (("--pairs", words, "--words", words), "name one")):
        assert why in lvlm(*ask[:4], "--out", out, *extra)[2]
    assert "cannot read" in lvlm("vectors", "show", words)[2]


def test_a_control_vector_is_written_as_its_specification_has_it(tmp_path: Path) -> None:
    rows = {n: torch.randn(5) for n in range(4)}
    path = tmp_path / "v.gguf"
    about = {"model": "tiny", "kind": "mean"}
    Vectors(rows, about=about).save(path)
    found = Vectors.load(path)
    assert list(found.rows) == [1, 2, 3]  # layer 0 has no place in the format
    assert all(torch.equal(found.rows[n], rows[n]) for n in found.rows)
    assert json.loads(found.about["general.description"]) == about
    # the same bytes as a file written by the specification alone
    fields: dict[str, str | int] = {
        "general.architecture": "controlvector", "controlvector.model_hint": "tiny",
        "general.description": json.dumps(about), "controlvector.layer_count": 3,
    }  # fmt: skip
    written = gguf(fields, {f"direction.{n}": rows[n] for n in (1, 2, 3)})
    assert path.read_bytes().rstrip(b"\0") == written.rstrip(b"\0")
    with pytest.raises(lf.DataError, match="begins at layer 1"):
        Vectors({0: rows[0]}).save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["v.gguf"]
