"""Picture of the first screen of a load test's report, taken by Chromium.

``python -m benchmarks.report_picture REPORT.html`` writes docs/loadtest/report.png.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks.screenshots import DOCS, shrink


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    source = parser.parse_args().report.resolve().as_uri()
    path = DOCS / "loadtest" / "report.png"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 860}, device_scale_factor=1.4)
        page.goto(source)
        page.screenshot(path=path)
        browser.close()
    shrink(path)


if __name__ == "__main__":
    main()
