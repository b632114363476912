"""Methods from other packages, and the method that CONTRIBUTING shows how to add."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lvlm_fix as lf
from lvlm_fix.tools import cli
from lvlm_fix.tools.miniature import miniature

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
METHOD, PROBE, TEST = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
TOML = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.S)[0]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a throw-away package: a module, and a folder with its metadata."""

    def install(package: str, source: str, points: str) -> None:
        (tmp_path / f"{package}.py").write_text(source)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[lvlm_fix.methods]\n{points}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, package, raising=False)

    return install


def test_the_example_of_contributing_passes_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("cfg_of_the_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names: dict[str, Any] = module.__dict__ | {"torch": torch, "PROBES": {}}
    module.__dict__.update(names)
    exec(compile(METHOD, "cfg.py", "exec"), module.__dict__)
    exec(PROBE, module.__dict__)
    exec(TEST + "\ntest_guidance_by_hand()", module.__dict__)
    ((neutral, acting),) = module.__dict__["PROBES"].values()
    for family in ("llava", "qwen2_5_vl"):
        model, inputs = miniature(family)
        with torch.no_grad():
            plain = model(**inputs).logits
            with lf.fix(model, neutral):
                assert torch.equal(model(**inputs).logits, plain)
            with lf.fix(model, acting) as handle:
                changed = model(**inputs).logits
                assert handle.report()[0].rows_edited == 2
            assert not torch.equal(changed, plain) and changed.isfinite().all()
            assert torch.equal(model(**inputs).logits, plain)


def test_a_method_of_another_package_is_found_when_asked_for(
    installed: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cfg" not in lf.METHODS
    installed("my_package", METHOD, TOML.partition("\n")[2].replace(chr(34), ""))
    assert "cfg" in list(lf.METHODS) and lf.METHODS["vhr"] is lf.VHR
    assert "my_package" not in sys.modules  # names alone load nothing
    (method,) = lf.parse_methods("cfg", {"cfg.strength": "2.5"})
    assert method.settings() == {"strength": 2.5}
    with pytest.raises(lf.SettingError, match="cfg has no setting 'loud'; it has: strength"):
        lf.parse_methods("cfg", {"cfg.loud": "1"})
    model, inputs = miniature("llava")
    plain = model.generate(
        **inputs,
        max_new_tokens=3,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    with lf.fix(model, "vhr+cfg") as handle:
        out = model.generate(
            **inputs,
            max_new_tokens=3,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        assert [report.method for report in handle.report()] == ["vhr", "cfg"]
    assert not torch.equal(out.logits[0], plain.logits[0])
    monkeypatch.setattr(sys, "argv", ["lvlm-fix", "methods", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    (row,) = [row for row in json.loads(capsys.readouterr().out)["methods"] if row["name"] == "cfg"]
    assert row == {
        "name": "cfg", "paper": "arXiv 2306.17806", "edits": ["next_token_logits"],
        "needs": "A second branch without the image.",
        "departs": "The image, not the whole prompt, is what the second branch lacks (ours).",
        "control": False, "cost_per_token": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "points", "message"),
    [
        (
            "1 / 0",
            "cfg = broken:CFG",
            r"package 'broken': its method 'cfg' cannot be loaded .* ZeroDivisionError",
        ),
        (
            "",
            "cfg = broken:CFG",
            r"package 'broken': .* AttributeError: module 'broken' has no attribute 'CFG'",
        ),
        (
            "CFG = 3",
            "cfg = broken:CFG",
            "package 'broken': broken:CFG is not a subclass of lvlm_fix.Method",
        ),
        (
            METHOD,
            "guidance = broken:CFG",
            "package 'broken': broken:CFG is called 'cfg', its entry point 'guidance'",
        ),
        (
            METHOD.replace("low=0", "low=9"),
            "cfg = broken:CFG",
            "SettingError: strength must be >= 9",
        ),
    ],
)
def test_a_broken_package_is_named(installed: Any, source: str, points: str, message: str) -> None:
    installed("broken", source, points)
    with pytest.raises(lf.PluginError, match=message):
        dict(lf.METHODS)
    assert lf.parse_methods("vhr") == (lf.VHR(),)  # the others go on


def test_a_name_that_is_taken_is_refused(
    installed: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("one", METHOD, "cfg = one:CFG")
    installed("other", METHOD, "cfg = other:CFG")
    with pytest.raises(
        lf.PluginError, match=r"'cfg', a name that package '(one|other)' has; rename it"
    ):
        lf.parse_methods("cfg")
    monkeypatch.setattr(sys, "argv", ["lvlm-fix", "methods"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_built_in_name_is_refused(installed: Any) -> None:
    installed("one", METHOD, "vhr = one:CFG")
    with pytest.raises(
        lf.PluginError, match="package 'one' brings a method 'vhr', a name that lvlm-fix itself has"
    ):
        list(lf.METHODS)
