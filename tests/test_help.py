"""Every command's help shows an example, units and defaults; shells complete; JSON has schemas."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest
from schema import SCHEMAS, wrong
from test_docs import ROOMS
from typer.main import get_command
from typer.testing import CliRunner

from lvlm_fix.tools.cli import app

UNITS = re.compile(
    r"\b(tokens|photos|pixels|bytes|requests|heads|samples|captions|minutes|questions|directions|"
    r"factor|rounds|objects|port|words|lines|texts|log-odds)\b"
)


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that can be called, with its words."""
    inner = getattr(command, "commands", {})
    if not inner or getattr(command, "invoke_without_command", False):
        yield words, command
    for name, one in inner.items():
        yield from leaves(one, (*words, name))


ALL = {
    " ".join(words): command
    for room, group in {"": app, **ROOMS}.items()
    for words, command in leaves(get_command(group), (room,) if room else ())
}


def test_all_commands_are_looked_at() -> None:
    assert ALL.keys() >= {
        "caption", "heads score", "eval score chair", "eval tune", "demo", "demo picture", "check",
        "vectors make", "ask calibrate", "serve", "reproduce",
    }  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_the_help_has_an_example_of_options_that_exist_units_and_defaults(name: str) -> None:
    command = ALL[name]
    found = re.search(r"Example: lvlm-fix (.+)", command.help or "")
    assert found, f"{name}: no example"
    words = shlex.split(found[1])
    assert words[: len(name.split())] == name.split()
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    known = {option for param in command.params for option in param.opts}
    assert {word for word in words if word.startswith("--")} <= known
    for param in command.params:
        if param.name == "help" or getattr(param, "hidden", False):
            continue
        assert param.help, f"{name}: {param.name} has no help"
        hint = hints[param.name].__origin__ if param.name in hints else str
        if {int, float} & {hint, *get_args(hint)} and param.name not in ("seed", "top"):
            assert UNITS.search(param.help), f"{name}: {param.name}: {param.help!r} has no unit"
        if param.default not in (None, False, (), []) and param.param_type_name == "option":
            assert param.show_default, f"{name}: the default of {param.name} is not shown"


def test_a_default_is_shown_with_its_option() -> None:
    shown = CliRunner().invoke(app, ["caption", "--help"], env={"COLUMNS": "200"}).stdout
    assert "[default: 128]" in shown and "longest text, tokens" in shown
    assert "Example: lvlm-fix caption photo.jpg" in shown


def test_every_json_document_has_a_schema_and_every_schema_a_command() -> None:
    documented = {name for name, command in ALL.items()
                  if any("--json" in param.opts for param in command.params)}  # fmt: skip
    parts = {name for name in SCHEMAS if f"#/$defs/{name}" in str(SCHEMAS)} | {"share", "interval"}
    assert documented == SCHEMAS.keys() - parts


def test_what_a_schema_does_not_say_is_found() -> None:
    schema = SCHEMAS["eval run"]
    right: dict[str, Any] = {"run": "a", "methods": ["none"], "photos": 3, "left_out": {}}
    assert not wrong(right, schema)
    for changed, fault in (
        ({"photos": 3.5}, "$.photos is a float"), ({"photos": True}, "$.photos is a bool"),
        ({"methods": ["none", 1]}, "$.methods[1] is a int"), ({"more": 1}, "$ has 'more'"),
    ):  # fmt: skip
        assert wrong(right | changed, schema).startswith(fault)
    assert wrong({"run": "a", "methods": []}, schema) == "$ lacks 'photos'"


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [("lvlm-fix ca", "caption"), ("lvlm-fix eval sc", "score"), ("lvlm-fix eval score ch", "chair"),
     ("lvlm-fix serve --me", "--method"), ("lvlm-fix demo pi", "picture")],
)  # fmt: skip
def test_a_shell_completes_commands_of_every_room(
    typed: str, wanted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lvlm_fix.tools import cli

    monkeypatch.setenv("_LVLM_FIX_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    monkeypatch.setattr("sys.argv", ["lvlm-fix"])
    with pytest.raises(SystemExit):
        cli.main()
    assert wanted in capsys.readouterr().out.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lvlm_fix.tools import cli

    monkeypatch.setenv("_LVLM_FIX_COMPLETE", f"source_{shell}")
    monkeypatch.setattr("sys.argv", ["lvlm-fix"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "_LVLM_FIX_COMPLETE=complete_" in capsys.readouterr().out
