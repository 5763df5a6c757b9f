"""Pictures of the page for docs/, taken by Chromium from a server of its own.

``python -m benchmarks.screenshots`` (or ``make screenshots``) writes docs/page-*.png; with names
after it, those alone.
"""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvicorn
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint
from server.api.app import create_app
from server.config import Settings
from server.engine.factory import engine_of

DOCS = Path(__file__).parent.parent / "docs"
MOST = 300_000  # bytes of a picture
WAIT = 120_000  # milliseconds


@contextmanager
def served() -> Iterator[str]:
    """The address of a server of both bundled checkpoints."""
    settings = Settings.model_validate({"checkpoints": ["stories", "digits"], "port": 0})
    engines = [engine_of(load_checkpoint(BUNDLED / n), settings) for n in settings.checkpoints]
    config = uvicorn.Config(create_app(engines, settings), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def main() -> None:
    """Take all pictures."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, (width, height, dark, take) in PAGES.items():
            if len(sys.argv) > 1 and name not in sys.argv[1:]:
                continue
            page = browser.new_page(
                viewport={"width": width, "height": height},
                device_scale_factor=1.4,
                color_scheme="dark" if dark else "light",
                reduced_motion="no-preference" if name in ("first", "phone") else "reduce",
            )
            page.set_default_timeout(WAIT)
            page.goto(url)
            expect(page.locator("html[data-ready]")).to_be_attached()
            take(page)
            page.mouse.move(5, 5)
            path = DOCS / f"page-{name}.png"
            page.screenshot(path=path)
            shrink(path)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
            page.close()
        browser.close()


def first(page: Page) -> None:
    """The first screen, while its recorded run condenses."""
    while page.locator("#hero .tok.mask").count() >= 12:
        page.wait_for_timeout(50)
    page.get_by_role("button", name="Pause").click()
    page.evaluate("document.activeElement.blur()")


def race(page: Page) -> None:
    """Left to right against diffusion, when the latter is nearly done."""
    page.get_by_role("button", name="Race").click()
    expect(page.locator(".facts [data-name=latency]")).to_have_count(2, timeout=WAIT)
    expect(page.locator("html:not([data-busy])")).to_be_attached(timeout=WAIT)
    places = int(page.locator(".scrub").get_attribute("max") or 0)
    page.locator(".scrub").fill(str(places * 2 // 5))
    page.evaluate("document.activeElement.blur()")


def share(page: Page) -> None:
    """The dialog of exports, with code."""
    generate(page, 1, max_tokens="64", seed="6", steps="32")
    page.get_by_role("button", name="Share", exact=True).click()


def inspector(page: Page) -> None:
    """A token, with those that were likely in its place."""
    generate(page, 1, max_tokens="64", seed="6", steps="32", mixing_ratio="0.3")
    go(page, 33)
    changed = page.locator(".tok.set").nth(16)
    changed.click()
    page.get_by_role("button", name="What else was likely").click()
    expect(page.locator(".likeliest li")).to_have_count(5, timeout=WAIT)


def text(page: Page) -> None:
    """A story, halfway."""
    generate(page, 1, max_tokens="96", seed="21", steps="32", mixing_ratio="0.2")
    go(page, 17)


def guesses(page: Page) -> None:
    """A story of ``topk``, whose masks show what they would become, and the settings."""
    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator("[name=sampler]").select_option("topk")
    generate(page, 1, max_tokens="64", seed="6", steps="16")
    go(page, 8)


def chat(page: Page) -> None:
    """The second answer of a conversation, while it denoises."""
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_role("radio", name="Chat").check()
    fields = {"max_tokens": "48", "seed": "6", "steps": "32"}
    generate(page, 1, prompt="Tell me of a girl who finds a kite.", **fields)
    generate(page, 1, prompt="And what did her mom say?", **fields)
    page.get_by_role("button", name="Settings", exact=True).click()
    go(page, 20)


def digits(page: Page) -> None:
    """All ten digits, before the end."""
    page.get_by_role("button", name="All ten digits at once").click()
    expect(page.locator(".facts [data-name=latency]")).to_have_count(1, timeout=WAIT)
    expect(page.locator("html:not([data-busy])")).to_be_attached(timeout=WAIT)
    go(page, 12)


def compare(page: Page) -> None:
    """Two step counts."""
    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator("[name=steps]").fill("32")
    page.get_by_role("button", name="Compare with another setting").click()
    generate(page, 2, max_tokens="64", seed="11", steps="8")
    expect(page.locator("[data-name=likelihood]")).to_have_count(2, timeout=WAIT)
    go(page, 19)


def images(page: Page) -> None:
    """Threes, halfway."""
    generate(page, 1, model="digits", class_label="3", n="4", seed="5")
    go(page, 9)


def generate(page: Page, panes: int, **fields: str) -> None:
    """Fill the form, start, and wait for the end."""
    button = page.get_by_role("button", name="Settings", exact=True)
    if fields and button.get_attribute("aria-expanded") == "false":
        button.click()
    for name, value in fields.items():
        field = page.locator(f"#ask [name={name}], [form=ask][name={name}]")
        if name in ("model", "class_label"):
            field.select_option(value)
        else:
            field.fill(value)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".facts [data-name=latency]")).to_have_count(panes, timeout=WAIT)
    expect(page.locator("html:not([data-busy])")).to_be_attached(timeout=WAIT)


def go(page: Page, step: int) -> None:
    """Show a step, nothing having the focus."""
    page.locator("body").press("Home")
    for _ in range(step):
        page.keyboard.press("ArrowRight")
    page.evaluate("document.activeElement.blur()")


def shrink(path: Path) -> None:
    """Fewer colours, where that is needed to keep a picture small."""
    picture = Image.open(path).convert("RGB")
    picture.save(path, optimize=True)
    if path.stat().st_size >= MOST:
        picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < MOST, f"{path} is too large"


PAGES = {
    "first": (1400, 860, False, first),
    "text": (1400, 860, False, text),
    "compare": (1400, 900, False, compare),
    "race": (1400, 900, False, race),
    "share": (1400, 900, True, share),
    "inspector": (1400, 900, False, inspector),
    "guesses": (1400, 900, False, guesses),
    "chat": (1400, 860, True, chat),
    "digits": (1400, 900, False, digits),
    "images": (1400, 900, True, images),
    "phone": (390, 800, True, first),
}
"""Width and height of the window, whether it is dark, and the function that prepares it."""


if __name__ == "__main__":
    main()
