"""The demo as a visitor meets it: a real headless Chromium, one server and one browser for all
tests, a page of its own for each.

Screenshots are kept in tests/artefacts.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lvlm_fix.methods import METHODS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARTEFACTS = Path(__file__).parents[1] / "artefacts"
OPEN = "#open-case input[type=file], input[accept='.html']"
WAIT = 240_000  # milliseconds; on an idle machine nothing here takes more than half a minute

pytestmark = [
    pytest.mark.xdist_group("page"),  # one server answers all of it
    pytest.mark.flaky(reruns=2),  # Gradio loads a page anew, and empty, when a stream of it breaks
    pytest.mark.skipif(
        CHROMIUM is None, reason="needs Debian's chromium (apt-get install chromium)"
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    """Address and process of a demo that listens on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "lvlm-fix"), "demo", "--port", str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert f"http://127.0.0.1:{port}" in line
            yield f"http://127.0.0.1:{port}/", process.pid
        finally:
            process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    ARTEFACTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Any, server: tuple[str, int], **options: Any) -> Any:
    page = browser.new_page(**({"viewport": {"width": 1280, "height": 900}} | options))
    page.set_default_timeout(WAIT)
    page.goto(server[0])
    page.wait_for_selector("#describe")
    return page


@pytest.fixture
def page(browser: Any, server: tuple[str, int], photos: list[Path]) -> Iterator[Any]:
    """A page with a photo."""
    page = opened(browser, server)
    upload(page, photos[1])
    yield page
    page.close()


def upload(page: Any, path: Path) -> None:
    if page.locator("#photo img").count():
        page.click("#photo button[aria-label='Remove Image'], #photo button[aria-label='Clear']")
        page.wait_for_selector("#photo img", state="detached")
    page.set_input_files("#photo input[type=file]", str(path))
    page.wait_for_selector("#photo img", state="attached")  # a file that is no photo shows nothing


def longest(page: Any, tokens: int) -> None:
    page.fill("#tokens input[type=number]", str(tokens))
    page.press("#tokens input[type=number]", "Tab")


def press(page: Any, button: str, status: str) -> None:
    """Press until `status` is written anew: a press while the last one is still being answered
    counts for nothing. An answer may be there before anything could be seen to be busy.
    """
    from playwright.sync_api import TimeoutError

    page.eval_on_selector_all(f"{status} .status", "all => all.forEach(it => it.dataset.old = 1)")
    for _ in range(WAIT // 5_000):
        page.click(button)
        with contextlib.suppress(TimeoutError):
            page.wait_for_selector(
                f"{status} .status:not([data-old])", state="attached", timeout=5_000
            )
            return
    raise AssertionError(f"{button} was pressed, and {status} stayed as it was")


def describe(page: Any) -> tuple[str, str]:
    """Press *Describe*, wait for two grounded texts."""
    press(page, "#describe", "#status")
    page.wait_for_selector("#status .busy", state="detached")
    page.wait_for_selector("#after button.w")
    return page.inner_text("#before .text p"), page.inner_text("#after .text p")


def ticks(pid: int) -> int:
    """Processor time of the server so far, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def comes_to_rest(pid: int) -> bool:
    """Whether the server stops computing within a few seconds: under a tenth of one processor."""
    for _ in range(20):
        start, before = time.monotonic(), ticks(pid)
        time.sleep(1)
        if (ticks(pid) - before) / os.sysconf("SC_CLK_TCK") < 0.1 * (time.monotonic() - start):
            return True
    return False


def test_a_photo_gets_two_texts_and_a_word_its_heat_map(page: Any, photos: list[Path]) -> None:
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(re.sub(r"^(\w+://[^/:]*).*", r"\1", request.url)))
    upload(page, photos[1])  # once more, so that its way is seen
    longest(page, 40)
    before, after = describe(page)
    assert len(before.split()) >= 5 and len(after.split()) >= 5
    assert page.locator("#before button.w").count() == len(before.split())
    assert (
        page.locator("#before .facts").inner_text().count("invented") == 1
    )  # a sample's objects are known
    assert page.locator("#where img.heat").count() == 0
    word = page.locator("#before button.w").nth(1)
    word.click()
    page.wait_for_selector("#where img.heat")
    assert word.inner_text().strip("✗") in page.inner_text("#where figcaption")
    assert page.locator("#heads .h").count() == 48 and page.locator("#heads .ringed").count() == 6
    page.click("#heads .h >> nth=3")
    page.wait_for_selector("#where figcaption:has-text('head 3 of layer 5')")
    page.screenshot(path=ARTEFACTS / "desktop-light.png", full_page=True)
    assert {host for host in hosts if host.startswith(("http", "ws"))} == {"http://127.0.0.1"}


def test_another_method_and_a_slider_change_the_text(page: Any) -> None:
    longest(page, 24)
    page.fill("#vhr-strength input[type=number]", "1")
    page.press("#vhr-strength input[type=number]", "Tab")
    before, after = describe(page)
    assert before == after  # at 1 VHR changes nothing
    page.fill("#vhr-strength input[type=number]", "9")
    page.press("#vhr-strength input[type=number]", "Tab")
    assert describe(page)[1] != before
    page.click("#methods button[aria-label='Clear all'], #methods .remove-all")
    page.click("#methods input")
    page.click("ul[role=listbox] >> text=pai")
    page.wait_for_selector("#settings-pai")
    assert not page.is_visible("#settings-vhr")
    assert describe(page)[0] == before


def test_two_methods_stand_side_by_side_and_the_case_goes_through_a_file(
    browser: Any, server: tuple[str, int], photos: list[Path], tmp_path: Path
) -> None:
    page, other = opened(browser, server), opened(browser, server)
    upload(page, photos[1])
    longest(page, 16)
    page.fill("#vhr-strength input[type=number]", "9")
    page.press("#vhr-strength input[type=number]", "Tab")
    page.click("#against input")
    page.click("#against ul[role=listbox] >> text=pai")
    page.fill("#pai-strength input[type=number]", "0.25")
    page.press("#pai-strength input[type=number]", "Tab")
    texts = describe(page)
    assert page.inner_text("#left h2") == "pai"
    assert page.inner_text("#right h2") == "vhr"
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "case.html")
    page.close()

    other.set_input_files(OPEN, tmp_path / "case.html")
    other.wait_for_selector("#status-case:has-text('of the model “tiny”')")
    assert other.locator("#photo img").count()
    for control, value in (("vhr-strength", "9"), ("pai-strength", "0.25"), ("tokens", "16")):
        other.wait_for_function(
            "([id, value]) => document.querySelector(`#${id} input[type=number]`)?.value == value",
            arg=[control, value],
        )
    assert other.inner_text("#left h2") == "pai"
    sides = tuple(other.inner_text(f"#{side} .text p") for side in ("before", "after"))
    assert sides == texts
    other.locator("#after button.w").nth(0).click()
    other.wait_for_selector("#where:has-text('keeps no heat maps')")
    assert describe(other) == texts  # the same pixels, the same settings
    (tmp_path / "wrong.html").write_text("no case")
    other.set_input_files(OPEN, tmp_path / "wrong.html")
    other.wait_for_selector("#status-case .error:has-text('is not a case')")
    assert tuple(other.inner_text(f"#{side} .text p") for side in ("before", "after")) == texts
    other.goto((tmp_path / "case.html").as_uri())  # and any browser shows it
    assert texts[0][:20] in other.inner_text("main")
    other.screenshot(path=ARTEFACTS / "case.png", full_page=True)
    other.close()


def test_a_question_is_answered_twice(page: Any) -> None:
    page.click("button[role=tab]:has-text('Yes or no')")
    answers = page.locator("#answers .answer")
    for _ in range(5):  # a box that is filled before its tab is all there forgets what it was told
        page.fill("#question textarea, #question input", "Is there a cup in the image?")
        page.press("#question textarea, #question input", "Tab")
        press(page, "#ask", "#status-ask")
        page.wait_for_selector("#status-ask .busy", state="detached")
        if answers.count() == 2:
            break
    assert answers.count() == 2, page.inner_html("#status-ask")
    for answer in page.locator("#answers .big").all_inner_texts():
        assert re.match(r"(?i)(yes|no)\b", answer)
    page.screenshot(path=ARTEFACTS / "yes-or-no.png", full_page=True)


def test_all_methods_are_compared_side_by_side(page: Any) -> None:
    page.click("button[role=tab]:has-text('All methods')")
    longest(page, 8)
    page.click("#compare")
    page.wait_for_function(
        "n => document.querySelectorAll('#cards .facts').length == n", arg=len(METHODS.ready()) + 1
    )
    assert page.locator("#cards .card h3").all_inner_texts() == ["none", *METHODS.ready()]
    page.screenshot(path=ARTEFACTS / "all-methods.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_a_phone(
    browser: Any, server: tuple[str, int], photos: list[Path], scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra [test]")
    page = opened(browser, server, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    upload(page, photos[1])
    longest(page, 24)
    describe(page)
    page.locator("#after button.w").nth(1).click()
    page.wait_for_selector("#where img.heat")
    found = axe.Axe().run(page).response["violations"]
    page.close()
    bad = [one for one in found if one["impact"] in ("serious", "critical")]
    assert not bad, [(one["id"], one["nodes"][0]["html"]) for one in bad]


def test_stop_stops(page: Any, server: tuple[str, int]) -> None:
    longest(page, 256)
    for _ in range(5):  # a text may end before it is stopped
        press(page, "#describe", "#status")
        page.click("#stop")
        page.wait_for_selector("#status .busy", state="detached")
        if "Stopped" in page.inner_text("#status"):
            break
    assert "Stopped" in page.inner_text("#status")
    assert comes_to_rest(server[1])
    longest(page, 8)
    assert describe(page)[0]  # the page goes on


def test_closing_the_page_leaves_no_work(
    browser: Any, server: tuple[str, int], photos: list[Path]
) -> None:
    page = opened(browser, server)
    upload(page, photos[0])
    longest(page, 256)
    page.click("#describe")
    page.wait_for_selector("#before .text p:not(.empty)")
    page.close()
    assert comes_to_rest(server[1])


def test_two_visitors_get_their_own_texts(
    browser: Any, page: Any, server: tuple[str, int], photos: list[Path]
) -> None:
    other = opened(browser, server, viewport={"width": 390, "height": 844}, color_scheme="dark")
    upload(other, photos[0])
    longest(page, 24)
    longest(other, 24)
    alone = describe(page)
    page.click("#describe")
    theirs = describe(other)
    page.wait_for_selector("#status .busy", state="detached")
    page.wait_for_selector("#after button.w")
    assert (page.inner_text("#before .text p"), page.inner_text("#after .text p")) == alone
    assert theirs[0] != alone[0]
    other.locator("#after button.w").nth(1).click()
    other.wait_for_selector("#where img.heat")
    assert (
        other.evaluate("document.documentElement.scrollWidth") <= 390
    )  # nothing runs over the side of a phone
    other.screenshot(path=ARTEFACTS / "phone-dark.png", full_page=True)
    other.close()


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that a visitor may bring."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.jpg").write_text("this is no photo")
    Image.new("RGB", (8200, 8000), "teal").save(folder / "huge.jpg", quality=20)
    Image.new("RGB", (8200, 6100), "teal").save(folder / "large.jpg", quality=20)  # 50 megapixels
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (64, 48), (255, 0, 0, 90)).save(folder / "clear.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (80, 40), "green").save(folder / "turned.jpg", exif=turned)
    return folder


def test_files_that_are_no_photo_are_named_and_the_page_goes_on(page: Any, bad: Path) -> None:
    longest(page, 8)
    for name, message in (
        ("text.jpg", "cannot be read as an image"),
        ("huge.jpg", "8200 × 8000 pixels"),
    ):
        upload(page, bad / name)
        page.wait_for_selector(f"#status .error:has-text('{message}')")
        press(page, "#describe", "#status")
        page.wait_for_selector(f"#status .error:has-text('{message}')")
    page.screenshot(path=ARTEFACTS / "error.png", full_page=True)
    for name in ("large.jpg", "moving.gif", "clear.png", "turned.jpg"):
        upload(page, bad / name)
        assert describe(page)[0]
    page.locator("#before button.w").nth(0).click()
    page.wait_for_selector("#where img.heat")
    width, height = page.evaluate(
        "() => { const i = document.querySelector('#where .stack img'); return [i.naturalWidth,"
        " i.naturalHeight]; }"
    )
    assert (width, height) == (40, 80)  # upright


def test_bad_prompts_and_models_are_named_and_the_page_goes_on(page: Any) -> None:
    longest(page, 8)
    page.click("button:has-text('More')")
    for field, value, message in (
        ("prompt", "word " * 10_000, "the prompt has 50,000 characters; at most 1,000"),
        ("prompt", " ", "the prompt is empty"),
        ("model", "no/such-model", "cannot load model"),
    ):
        box = page.locator(f"#{field} textarea, #{field} input").first
        kept = box.input_value()
        box.fill(value)
        press(page, "#describe", "#status")
        page.wait_for_selector(
            f"#status .error:has-text('{message}')".replace("the prompt", "he prompt").replace(
                "cannot", "annot"
            )
        )
        box.fill(kept)
    assert describe(page)[0]


def test_no_file_but_its_own_is_served(server: tuple[str, int]) -> None:
    for path in ("/etc/passwd", str(Path(__file__).resolve()), str(Path.cwd() / "pyproject.toml")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{server[0]}gradio_api/file={path}")
        assert refused.value.code in (403, 404)
        refused.value.close()
