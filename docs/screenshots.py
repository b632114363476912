"""The pictures of the demo in docs/demo: `python docs/screenshots.py`, with Debian's chromium.

It starts the demo on `tiny`, does what a visitor does, and writes each picture when it is whole.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from lvlm_demo.app import serve
from PIL import Image
from playwright.sync_api import sync_playwright

from lvlm_fix.images import sample_photos

FOLDER = Path(__file__).parent / "demo"
COLOURS = 256
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}


def described(page: Any, address: str) -> None:
    """VHR beside PAI on the photo of a cup, and where the model looked for a word."""
    page.goto(address)
    photo = next(path for path in sample_photos() if path.stem == "coffee")
    page.set_input_files("#photo input[type=file]", photo)
    page.wait_for_selector("#photo img", state="attached")
    page.click("#against input")
    page.click("#against ul[role=listbox] >> text=pai")
    page.click("#describe")
    page.wait_for_selector("#after button.w")
    page.locator("#after button.w").nth(4).click()
    page.wait_for_selector("#where img.heat")


def keep(page: Any, name: str) -> None:
    """The whole page as a PNG of 256 colours."""
    with tempfile.TemporaryDirectory() as folder:
        page.screenshot(path=Path(folder) / "whole.png", full_page=True)
        small = Image.open(Path(folder) / "whole.png").convert("RGB").quantize(COLOURS)
        small.save(Path(folder) / "small.png", optimize=True)
        shutil.copy(Path(folder) / "small.png", FOLDER / f"{name}.part")
    (FOLDER / f"{name}.part").replace(FOLDER / f"{name}.png")
    print(FOLDER / f"{name}.png")


def main() -> None:
    """Light, dark, a phone, and a case's file on its own."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("there is no chromium: apt-get install chromium")
    FOLDER.mkdir(exist_ok=True)
    _, address, close = serve(port=7861, wait=False)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, look in LOOKS.items():
            page = browser.new_page(**look)
            page.set_default_timeout(600_000)
            described(page, address)
            keep(page, name)
            if name == "light":
                with page.expect_download() as download:
                    page.click("#save")
                download.value.save_as(Path(folder) / "case.html")
            page.close()
        page = browser.new_page(viewport={"width": 1280, "height": 560})
        page.goto((Path(folder) / "case.html").as_uri())
        keep(page, "case")
        browser.close()
    close()


if __name__ == "__main__":
    main()
