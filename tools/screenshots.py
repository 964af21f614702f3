"""Take the screenshots of docs/reading_a_report.md: `python -m tools.screenshots docs/images --checkpoint CHECKPOINT`.

CHECKPOINT is one that was trained on the generated scenes, such as demo/run/best.safetensors of `panformer demo`. The
pages show the demo's 100 held-out scenes. A Chromium has to be on PATH.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from tests.browser import Browser, browsing, find_browser
from tests.pages.gallery_actions import open_card, point_at, wait_for

LARGEST = 300_000
"""Largest size of a screenshot, bytes."""
COLORS = 256
"""Colors of a screenshot."""
MARGIN = 16
"""CSS pixels above the first element."""


def main() -> None:
    """Parse the command line and take all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the screenshots")
    parser.add_argument("--checkpoint", type=Path, required=True, help="trained on the generated scenes")
    arguments = parser.parse_args()
    program = find_browser()
    if program is None:
        sys.exit("no Chromium found: install chromium or google-chrome")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        work = Path(folder)
        make_pages(work, arguments.checkpoint)
        with browsing(program, work / "profile") as browser:
            show_report(browser, work, arguments.out)
            show_gallery(browser, work, arguments.out)
    for path in [arguments.out / f"{name}.png" for name in ("report", "report_image", "gallery", "viewer")]:
        print(f"{path}: {path.stat().st_size // 1000} kB")
        if path.stat().st_size > LARGEST:
            sys.exit(f"{path} is larger than {LARGEST // 1000} kB")


def make_pages(work: Path, checkpoint: Path) -> None:
    """Write `work/report/index.html` and `work/viz/index.html`."""
    scenes = str(work / "scenes")
    panformer("prepare-data", "scenes", "--out", scenes, "--train-images", "1")
    results = ["--data", scenes, "--split", "val", "--out", str(work / "evaluation")]
    panformer("evaluate", str(checkpoint), *results, "--report", str(work / "report"))
    predictions = ["--predictions", str(work / "evaluation" / "panoptic.json")]
    drawn = ["--data", scenes, "--split", "val", *predictions, "--limit", "6", "--out", str(work / "viz")]
    panformer("visualize", *drawn)


def panformer(*words: str) -> None:
    """Run a panformer command; its failure ends the program."""
    subprocess.run([sys.executable, "-m", "panformer_cli", *words], check=True)


def show_report(browser: Browser, work: Path, out: Path) -> None:
    """Take report.png, the headlines and the causes, and report_image.png, the worst image in the viewer."""
    browser.open(work / "report" / "index.html", (1200, 1400))
    capture(browser, "#main", "#part-images", out / "report.png", scale=0.8)
    browser.resize((1200, 900))
    open_card(browser, 0)
    point_at(browser, 40, 50, pane=1)
    shoot(browser, out / "report_image.png", (1200, 900), 0.8)
    browser.press("Escape")


def show_gallery(browser: Browser, work: Path, out: Path) -> None:
    """Take gallery.png, the page of `visualize`, and viewer.png, one of its images in the viewer."""
    browser.open(work / "viz" / "index.html", (1200, 1100))
    wait_for(browser, "[...document.querySelectorAll('.frame img')].slice(0, 4).every(image => image.naturalWidth > 0)")
    capture(browser, ".browse", None, out / "gallery.png", scale=0.8)
    browser.resize((1200, 900))
    open_card(browser, 1)
    shoot(browser, out / "viewer.png", (1200, 900), 0.8)


def capture(browser: Browser, first: str, after: str | None, path: Path, scale: float = 1) -> None:
    """Save the page from the top of an element to the top of another one.

    Args:
        browser: shows the page.
        first: selector of the element to begin with.
        after: of the element to stop before; None for the end of the page.
        path: of the PNG.
        scale: pixels of the screenshot per CSS pixel.
    """
    top = browser.run(f"document.querySelector({json.dumps(first)}).getBoundingClientRect().top + scrollY")
    end = f"document.querySelector({json.dumps(after)}).getBoundingClientRect().top + scrollY" if after else None
    bottom = browser.run(end or "document.documentElement.scrollHeight")
    width = browser.run("document.documentElement.clientWidth")
    top = max(0, top - MARGIN)
    clip = {"x": 0, "y": top, "width": width, "height": bottom - top, "scale": scale}
    save(browser.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"], path)


def shoot(browser: Browser, path: Path, size: tuple[int, int], scale: float) -> None:
    """Save what is on the screen."""
    clip = {"x": 0, "y": browser.run("scrollY"), "width": size[0], "height": size[1], "scale": scale}
    save(browser.call("Page.captureScreenshot", format="png", clip=clip)["data"], path)


def save(data: str, path: Path) -> None:
    """Save a screenshot, base64, with few colors, which keeps files small."""
    with Image.open(BytesIO(base64.b64decode(data))) as picture:
        few = picture.convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    main()
