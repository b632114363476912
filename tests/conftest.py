"""Fixtures; and every annotated shape in the library is checked while the tests run."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook
from schema import held

os.environ["HF_HUB_OFFLINE"] = "1"
hook = install_import_hook("lvlm_fix", "checker.check")
hook.__enter__()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other libraries, at import
    import transformers
    from transformers.utils import logging

logging.set_verbosity_error()
SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first, so that no worker is left alone with it."""
    items.sort(key=lambda item: item.path.name != "test_routes.py")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos and published figures, beside the repository."""
    if not (SHARED / "coco").is_dir():
        pytest.skip("needs ../shared/coco (real photos and annotations), which is not here")
    return SHARED


@pytest.fixture(scope="session")
def tiny() -> tuple[transformers.PreTrainedModel, transformers.ProcessorMixin]:
    """The embedded model."""
    import lvlm_fix as lf

    return lf.load("tiny")


@pytest.fixture
def photos() -> list[Path]:
    import lvlm_fix

    return sorted((Path(lvlm_fix.__file__).parent / "photos").glob("*.jpg"))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Each test begins from one seed, and leaves torch's modes as it found them."""
    transformers.set_seed(0)
    yield
    left = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    torch.set_grad_enabled(True)
    assert left == (True, False), "this test left gradients off, or inference mode on"


@pytest.fixture
def lvlm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """The command line: words -> exit code, standard output, standard error."""
    from lvlm_fix.tools import cli

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lvlm-fix", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        if "--json" in words and captured.out:
            held(words, captured.out)
        return int(stop.value.code or 0), captured.out, captured.err

    return run
