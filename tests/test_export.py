"""An exported checkpoint is the wrapped model, in an ordinary folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lvlm_fix as lf
from lvlm_fix.families import family_of
from lvlm_fix.tools import export as exporting
from lvlm_fix.tools import folding
from lvlm_fix.tools.export_check import check
from lvlm_fix.tools.miniature import miniature

OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}


def table_of(shape: tuple[int, int]) -> lf.HeadTable:
    """Heads that score more the further back they are, and one layer out of order."""
    mean = np.arange(np.prod(shape), dtype=float).reshape(shape)
    mean[-2] = mean[-2, ::-1]
    return lf.HeadTable("vhd", mean, np.zeros(shape), 3, "made-up", None, "Describe.", {})


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("heads") / "heads.json"
    table_of((6, 8)).save(path)
    return path


@pytest.fixture(scope="session")
def folder(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, exported once."""
    out = tmp_path_factory.mktemp("exported") / "model"
    exporting.export("tiny", out, saved, lf.VHR(strength=1.5, table=str(saved)))
    return out


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "llava_onevision", "internvl"])
@pytest.mark.parametrize("settings", [{}, {"top": 7}, {"layers": (0, 3)}])
def test_folding_equals_the_wrapped_model_with_grouped_queries_and_biases(
    family: str, settings: Any
) -> None:
    model, inputs = miniature(family)
    family_ = family_of(model)
    for module in family_.attentions:  # a bias behind the gain
        module.o_proj.bias = nn.Parameter(torch.randn(48))
    method = lf.VHR(strength=1.7, table=table_of((5, 6)), **settings)
    with torch.no_grad():
        plain = model(**inputs).logits
        with lf.fix(model, method):
            wanted, texts = model(**inputs).logits, model.generate(**inputs, **OPTIONS)
        heads = folding.given_heads(method, model)
        folding.fold(model, heads, method.strength)
        found = model(**inputs).logits
        assert torch.equal(model.generate(**inputs, **OPTIONS), texts)
    assert heads.sum() == settings.get("top", int(heads.sum())) and 0 < heads.sum() < heads.numel()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_a_table_picks_the_same_heads_as_while_generating() -> None:
    model, inputs = miniature("llava")
    method = lf.VHR(table=table_of((5, 6)), top=7)
    with torch.no_grad(), lf.fix(model, method) as handle:
        model(**inputs)
        (report,) = handle.report()
    heads = folding.given_heads(method, model)
    assert {layer: [n, n] for layer, n in enumerate(heads.sum(1).tolist()) if n} == {
        layer: counts for layer, counts in report.heads.items() if any(counts)
    }


def test_half_precision_is_kept_where_the_product_is_exact_and_only_there() -> None:
    for strength, wanted in ((2.0, torch.bfloat16), (1.7, torch.float32)):
        model, _ = miniature("llava")
        model.bfloat16()
        before = family_of(model).attentions[1].o_proj.weight.float()
        folding.fold(model, torch.ones(5, 6, dtype=torch.bool), strength)
        after = family_of(model).attentions[1].o_proj.weight
        assert after.dtype == wanted
        assert torch.equal(after.float(), before * strength)


def test_tied_quantised_and_unknown_projections_are_refused_and_nothing_changes() -> None:
    heads = torch.ones(5, 6, dtype=torch.bool)
    model, _ = miniature("llava")
    one, *_, last = family_of(model).attentions
    before = one.o_proj.weight.clone()
    last.o_proj.weight = family_of(model).attentions[2].o_proj.weight
    with pytest.raises(lf.ModelError, match=r"layer 2 is tied: .*layers\.2.* and .*layers\.4"):
        folding.fold(model, heads, 2.0)
    last.o_proj.weight = nn.Parameter(torch.zeros(48, 48, dtype=torch.int8), requires_grad=False)
    with pytest.raises(lf.ModelError, match="layer 4 is quantised"):
        folding.fold(model, heads, 2.0)
    last.mixed = last.o_proj
    del last.o_proj
    with pytest.raises(lf.ModelError, match="layer 4 was not found: LlamaAttention has q_proj"):
        folding.fold(model, heads, 2.0)
    assert torch.equal(one.o_proj.weight, before)


def test_the_command_writes_a_checkpoint_that_it_can_prove(
    lvlm: Any,
    folder: Path,
) -> None:
    record = json.loads((folder / "export.json").read_text())
    assert list(record["heads"]) == ["1", "3", "4", "5"] and record["heads"]["3"] == [4, 5, 6, 7]
    assert record["heads"]["4"] == [0, 1, 2, 3] and record["strength"] == 1.5
    card = (folder / "README.md").read_text()
    assert "| 4 | 0, 1, 2, 3 |" in card and record["sha256"]["model.safetensors"] in card
    code, out, _ = lvlm("export", "--check", folder, "tiny", "--json")
    found = json.loads(out)
    assert code == 0 and found["holds"] and found["photos"] == found["texts_equal"] == 4
    assert found["logits_difference"] <= 1e-5


def test_it_loads_with_plain_transformers_and_no_trace_of_this_package(folder: Path) -> None:
    code = (
        "import sys; from transformers import AutoModelForImageTextToText as m, AutoProcessor as"
        f" p\nmodel = m.from_pretrained({str(folder)!r});"
        f" p.from_pretrained({str(folder)!r})\nassert not any(name.startswith('lvlm') for name in"
        " sys.modules)\nprint(type(model).__name__, model.config._attn_implementation)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["LlavaForConditionalGeneration", "sdpa"]
    assert "lvlm" not in (folder / "config.json").read_text()


def test_a_changed_weight_or_another_strength_is_found_out(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "changed")
    path = tmp_path / "changed" / "export.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"strength": 1.6, "sha256": {"model.safetensors": "0"}}))
    equality = check(tmp_path / "changed", "tiny")
    assert not equality.holds and not equality.digest_equal and equality.logits_difference > 1e-3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny", "OUT", "--heads", "TABLE"], "exists already"),
        (["tiny", "new", "--heads", "absent.json"], "as a head table"),
        (
            ["tiny", "new", "--heads", "TABLE", "--layers", "1,x"],
            "--layers takes whole numbers joined by commas",
        ),
        (
            ["tiny", "new", "--heads", "TABLE", "--layers", "6"],
            "there is no layer 6; this model has 6",
        ),
        (["tiny", "new", "--heads", "TABLE", "--strength", "-1"], "strength must be >= 0, got -1"),
        (["tiny", "new"], "export takes MODEL, OUT and --heads TABLE"),
        (["--check", "absent", "tiny"], "'absent' holds no export"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    lvlm: Any,
    folder: Path,
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {"OUT": folder, "TABLE": saved}
    code, out, err = lvlm("export", *(named.get(word, word) for word in words))
    assert (code, out) == (2, "")
    assert message in err and err.count("lvlm-fix:") == 1
    assert not list(tmp_path.iterdir())
