"""Actions in the gallery of a page that a browser shows."""

from __future__ import annotations

from tests.browser import Browser

_LOW_CONTRAST = """(() => {
  const linear = value => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const parse = color => [...color.match(/[\\d.]+/g).map(Number), 1];
  const isOpaque = element => parse(getComputedStyle(element).backgroundColor)[3] > 0.8;
  const low = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || element.closest('script, style, noscript')) continue;
    let ground = element;
    while (!isOpaque(ground)) ground = ground.parentElement;
    const colors = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
    const [light, dark] = colors.map(color => luminance(parse(color))).sort((a, b) => b - a);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < 4.5) low.push(element.className + ' ' + text + ' ' + contrast.toFixed(2));
  }
  return low;
})()"""


def cards(browser: Browser) -> list[str]:
    """Return the names on the cards."""
    found: list[str] = browser.run("[...document.querySelectorAll('.cards-grid b')].map(name => name.textContent)")
    return found


def open_card(browser: Browser, number: int) -> None:
    """Click on a card, and wait until the viewer shows its image."""
    browser.click(f"[data-image='{number}']")
    wait_for(browser, "view.panes.length > 0 && view.panes.some(pane => pane.stage.clientWidth > 0)")


def wait_for(browser: Browser, condition: str) -> None:
    """Wait until a JavaScript expression is true."""
    script = (
        "(async () => { for (let i = 0; i < 200; i++) { if (CONDITION) return true; "
        "await new Promise(done => setTimeout(done, 20)); } return false; })()"
    )
    assert browser.run(script.replace("CONDITION", condition)), condition


def place(browser: Browser, column: float, row: float, pane: int = 0) -> tuple[float, float]:
    """Return the position on the screen of the center of a pixel of the image."""
    left, top, width, height, rows, columns = browser.run(
        "((pane, box) => [box.x, box.y, box.width, box.height, ...pane.image.size])"
        f"(view.panes[{pane}], view.panes[{pane}].stage.getBoundingClientRect())"
    )
    return left + (column + 0.5) / columns * width, top + (row + 0.5) / rows * height


def point_at(browser: Browser, column: float, row: float, pane: int = 0) -> str:
    """Move the mouse to a pixel of the image, and return the tooltip."""
    browser.point(*place(browser, column, row, pane))
    text: str = browser.run("document.getElementById('tip').hidden ? '' : document.getElementById('tip').innerText")
    return text


def click_at(browser: Browser, column: float, row: float, pane: int = 0) -> str:
    """Click on a pixel of the image, and return the line below it."""
    x, y = place(browser, column, row, pane)
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    text: str = browser.run("document.querySelector('.status').textContent")
    return text


def color_at(browser: Browser, part: str, column: float, row: float, pane: int = 0) -> list[int]:
    """Return red, green, blue and alpha of a canvas at a pixel of the image."""
    found: list[int] = browser.run(
        "((pane, canvas) => { const [rows, columns] = pane.image.size;"
        f"const x = Math.floor(({column} + 0.5) / columns * canvas.width);"
        f"const y = Math.floor(({row} + 0.5) / rows * canvas.height);"
        "const copy = new OffscreenCanvas(1, 1).getContext('2d'); copy.drawImage(canvas, x, y, 1, 1, 0, 0, 1, 1);"
        f"return [...copy.getImageData(0, 0, 1, 1).data]; }})(view.panes[{pane}], view.panes[{pane}].parts.{part})"
    )
    return found


def low_contrast(browser: Browser) -> list[str]:
    """Return the visible texts whose contrast with their background is below 4.5."""
    found: list[str] = browser.run(_LOW_CONTRAST)
    return found
