"""What the pages promise: commands that exist, options that exist, and one page per method."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from lvlm_demo.cli import app as demo
from lvlm_eval.cli import app as evaluation
from lvlm_eval.reproduce import app as reproduce
from typer.main import get_command

from lvlm_fix.methods import METHODS
from lvlm_fix.tools.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = {"eval": evaluation, "demo": demo, "reproduce": reproduce}


def commands(text: str) -> list[list[str]]:
    """The words of every `lvlm-fix` command in the shell blocks of a page."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines = [re.split(r"\s[|&;]", line)[0] for line in lines if line.startswith("lvlm-fix ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_of_a_page_exist(page: Path) -> None:
    for words in commands(page.read_text()):
        found = get_command(ROOMS.get(words[0], app))
        rest = words[1:] if words[0] in ROOMS else words
        while rest and rest[0] in getattr(found, "commands", {}):
            found, rest = found.commands[rest[0]], rest[1:]
        known = {name for option in found.params for name in option.opts} | {"--help"}
        given = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert given <= known, f"{words}: there is no {given - known}"
        alone = getattr(found, "invoke_without_command", True)
        assert rest or alone, f"{words}: no such command"


def test_every_method_has_a_page_with_every_setting() -> None:
    pytest.importorskip("mkdocs", reason="the pages are made by mkdocs: the extra [docs]")
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
    assert spec is not None and spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    for name, kind in METHODS.items():
        text = pages.page(name)
        assert text.startswith(f"# {name}\n")
        assert all(f"| `{setting}` |" in text for setting in kind().settings()), name


def test_no_line_of_prose_or_code_is_longer_than_100_columns() -> None:
    """Nor of a table."""
    hidden = {part for part in (".venv", ".matrix", "site", "build") if (ROOT / part).exists()}
    for page in sorted(ROOT.rglob("*")):
        named = page.relative_to(ROOT)
        if page.suffix not in (".md", ".py", ".toml", ".yml", ".sh") or hidden & set(named.parts):
            continue
        for number, line in enumerate(page.read_text().splitlines(), 1):
            assert len(line) <= 100, f"{named}:{number}"


README = (ROOT / "README.md").read_text()


def test_the_readme_is_short_and_has_a_word_for_every_method() -> None:
    assert len(README.splitlines()) <= 130
    assert not [name for name in METHODS if f"`{name}`" not in README]


def test_a_table_of_the_readme_names_the_model_of_its_figures() -> None:
    heads = re.findall(r"^\|(.*)\n\| ?-", README, flags=re.MULTILINE)
    assert heads and all(re.search(r"`tiny`|`small`", head) for head in heads)
    assert "not LLaVA-1.5-7B" in README and README.index("pip install") < README.index("make test")


def test_the_python_of_the_readme_runs(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (lines,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "photo.jpg").write_bytes(photos[1].read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(lines, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "The image shows" in printed and "method='pai'" in printed
