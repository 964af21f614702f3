"""What a browser does with the videos that are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from panformer_cli.engine.video.writing import FORMATS, find_format
from tests.browser import Browser
from tests.engine.video.clips import BY_SUFFIX, clip

WIDTH = """new Promise(done => {
  const video = document.querySelector('video');
  const result = () => done(video.error ? -video.error.code : video.videoWidth);
  if (video.readyState > 0 || video.error) result();
  video.onloadeddata = video.onerror = result;
})"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".webm", ".mp4"])
def test_browsers_play_what_the_table_says(started: Browser, tmp_path: Path, suffix: str) -> None:
    path = clip(tmp_path / f"a{suffix}", 5)
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><video src={path.name} preload=auto muted></video>")
    started.open(page)
    width = started.run(WIDTH)
    started.problems.clear()  # the error of a video that does not play
    assert (width == 64) == BY_SUFFIX[suffix].in_browsers


def test_the_format_that_is_chosen_here_is_for_browsers(tmp_path: Path) -> None:
    assert find_format(tmp_path, (48, 64), 25).in_browsers
    assert [form.in_browsers for form in FORMATS] == [True, True, False, False]
