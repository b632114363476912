"""What an installed wheel must do, without pytest and away from the source: see wheel.sh."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HOME, BIN = Path(sys.argv[1]), Path(sys.executable).parent
WITHOUT = "import sys; sys.modules['gradio'] = None; from lvlm_fix.tools.cli import main; main()"


def said(*words: str, code: int = 0) -> str:
    """What a command writes; it must end with this code."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{words} ended with {done.returncode}: {done.stderr}"
    return done.stdout + done.stderr


def main() -> None:
    for name in ("lvlm_fix", "lvlm_eval", "lvlm_demo"):
        place = said(sys.executable, "-c", f"import {name}; print({name}.__file__)")
        assert place.startswith(str(HOME)), f"{name} is not the wheel's: {place}"
    assert (HOME / "lvlm_fix" / "py.typed").is_file()
    command, photo = str(BIN / "lvlm-fix"), str(HOME / "lvlm_fix" / "photos" / "coffee.jpg")
    text = said(command, "caption", photo, "--method", "vhr", "--max-new-tokens", "8", "--json")
    assert "vhr" in text
    Path("captions.json").write_text(json.dumps([{"image_id": 1, "caption": "A dog and a cup."}]))
    Path("truth.json").write_text(json.dumps({"1": ["dog"]}))
    files = ("--captions", "captions.json", "--truth", "truth.json")
    assert "50" in said(command, "eval", "score", "chair", *files)
    assert "--port" in said(command, "demo", "--help")
    assert "[demo]" in said(sys.executable, "-c", WITHOUT, "demo", code=2)


if __name__ == "__main__":
    main()
