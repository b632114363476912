"""What is imported, and when: the package and the help of its command line load nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "matplotlib",
    "numpy",
    "PIL",
    "gradio",
    "pycocotools",
    "accelerate",
)


def loaded(code: str) -> list[str]:
    """The heavy modules that a fresh interpreter has loaded after some code."""
    shown = f"import sys\n{code}\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return eval(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "code",
    [
        "import lvlm_fix",
        "import lvlm_fix as lf; lf.__version__; lf.LvlmFixError",
        "import lvlm_fix.tools.cli",
        "from lvlm_fix.tools import cli\nsys.argv = ['lvlm-fix', '--help']\n"
        "try: cli.main()\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert loaded(code) == []


def test_a_name_is_loaded_when_it_is_used() -> None:
    assert "torch" in loaded("import lvlm_fix as lf; lf.fix; lf.VHR()")


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("pycocotools", ["eval", "--help"], "eval"),
        ("gradio", ["demo", "--port", "7999"], "demo"),
        ("greenlet", ["bench"], "bench"),
        ("uvicorn", ["serve", "tiny", "--method", "vhr"], "serve"),
    ],
)
def test_a_missing_extra_is_named(module: str, words: list[str], extra: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = ['lvlm-fix', *{words!r}];"
        "from lvlm_fix.tools import cli; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"pip install 'lvlm-fix[{extra}]'"), done.stderr
