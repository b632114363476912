"""CONTRIBUTING, followed step by step in a copy of this repository, leaves its tests green."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_plugins import METHOD, PROBE, TEST

ROOT = Path(__file__).resolve().parents[1]
README_LINE = (
    "- **Guidance.** [`cfg`](https://arxiv.org/abs/2306.17806) moves away from no image.\n"
)
PARTS = ("lvlm_fix", "eval", "demo", "docs", "tests", "notebooks", "training", ".github")
HEAD_OF_TEST = """import torch
from lvlm_fix.method import AtToken
from lvlm_fix.methods import CFG
from lvlm_fix.watches import Branch, NoImage

"""


def put(path: Path, before: str, text: str) -> None:
    """Write `text` in front of the first `before`."""
    old = path.read_text()
    assert before in old, f"{path} has no {before!r}"
    path.write_text(old.replace(before, text + before, 1))


def copied(source: str, target: str) -> None:
    """A copy; of weights, which nothing here writes to, a link."""
    if source.endswith(".safetensors"):
        os.symlink(source, target)
    else:
        shutil.copy(source, target)


@pytest.fixture
def followed(tmp_path: Path) -> Path:
    """A copy in which the steps were followed."""
    for part in PARTS:
        skipped = shutil.ignore_patterns("__pycache__", "artefacts")
        shutil.copytree(ROOT / part, tmp_path / part, ignore=skipped, copy_function=copied)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    package = tmp_path / "lvlm_fix"
    (package / "methods" / "cfg.py").write_text(METHOD)
    names = package / "methods" / "__init__.py"
    put(names, "from lvlm_fix.methods.damro", "from lvlm_fix.methods.cfg import CFG\n")
    put(names, '    "DAMRO",', '    "CFG",\n')
    put(names, "ADHH, DAMRO,", "CFG, ")
    probes = package / "tools" / "probing.py"
    put(probes, "from lvlm_fix.methods import", "from lvlm_fix.methods.cfg import CFG\n")
    put(probes, "\n\ndef ", "\n" + PROBE)
    (tmp_path / "tests" / "test_cfg.py").write_text(HEAD_OF_TEST + "\n" + TEST)
    put(tmp_path / "README.md", "- **Early layers.**", README_LINE)
    return tmp_path


def test_contributing_followed_literally_stays_green(followed: Path) -> None:
    paths = os.pathsep.join(str(followed / part) for part in ("", "eval", "demo"))
    env = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=followed, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout

    run("tests/test_texts.py", "cfg")
    files = ["contract", "next_token", "texts", "cfg", "docs", "costs", "cli", "situations"]
    said = run(
        "-m", "pytest", "-p", "no:cacheprovider", *(f"tests/test_{name}.py" for name in files),
        "-k", "cfg or readme or method or cost",
    )  # fmt: skip
    assert int(re.findall(r"(\d+) passed", said)[-1]) > 20, said[-500:]
