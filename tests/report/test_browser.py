"""The page in Chromium, without a screen and without a network."""

import html
import json
import re
import shutil
import subprocess

import pytest
from report.test_main import report

CHROMIUM = shutil.which("chromium")
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not CHROMIUM, reason="there is no program `chromium`"),
]
# Contrast as WCAG 2.2 defines it, of the text of each element that has its own.
SCRIPT = """<script>
const rgba = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
const luminance = (colour) => {
  const linear = colour.slice(0, 3).map((value) => {
    const v = value / 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const background = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = rgba(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const contrast = (element) => {
  const style = getComputedStyle(element);
  const drawn = element.namespaceURI.endsWith("svg");
  const pair = [rgba(drawn ? style.fill : style.color), background(element)];
  const [low, high] = pair.map(luminance).sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const own = (e) => [...e.childNodes].some(
  (node) => node.nodeType === 3 && node.data.trim());
const texts = [...document.querySelectorAll("body *")].filter(
  (e) => own(e) && !e.closest("script, title, defs"));
const details = [...document.querySelectorAll("details")];
const closed = details.filter((e) => !e.open).length;
details.forEach((e) => e.firstElementChild.click());
const scrolled = [...document.querySelectorAll("*")].filter((e) =>
  e.scrollWidth > e.clientWidth + 1 &&
  getComputedStyle(e).overflowX === "auto");
const focusable = (e) => { e.focus(); return document.activeElement === e; };
parent.postMessage(JSON.stringify({
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  width: innerWidth,
  page: document.documentElement.scrollWidth,
  texts: texts.length,
  contrast: Math.min(...texts.map(contrast)),
  worst: texts.sort((a, b) => contrast(a) - contrast(b))[0].outerHTML,
  closed: closed,
  open: details.filter((e) => e.open).length,
  scrolled: scrolled.length,
  unreachable: scrolled.filter((e) => !focusable(e)).map((e) => e.outerHTML),
  broken: [...document.images].filter((e) => !e.naturalWidth).length,
  fetched: performance.getEntriesByType("resource").map((e) => e.name)
    .filter((name) => !name.startsWith("data:")),
  values: document.querySelectorAll("use > title").length,
}), "*");
</script></body>"""
# A window cannot be narrower than 500 px, but a frame can.
FRAME = """<!doctype html><title></title>
<script>onmessage = (event) => { document.title = event.data; };</script>
<iframe style="width: WIDTHpx; height: 900px; border: 0" src="probed.html">"""


def opened(page, *options, width):
  """Returns what the script measures in the page."""
  probed = page.read_text().replace("</body>", SCRIPT)
  page.with_name("probed.html").write_text(probed)
  frame = page.with_name("frame.html")
  frame.write_text(FRAME.replace("WIDTH", str(width)))
  done = subprocess.run(
    [
      *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
      *("--hide-scrollbars", "--virtual-time-budget=5000", *options),
      *("--window-size=1200,1000", "--dump-dom", f"file://{frame}"),
    ],
    capture_output=True,
    text=True,
    check=True,
    timeout=120,
  )
  title = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL)[1]
  return json.loads(html.unescape(title))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1100])
def test_page_in_a_browser(workdir, dark, width):
  done = report(f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  options = ("--blink-settings=preferredColorScheme=0",) if dark else ()
  found = opened(workdir / "report.html", *options, width=width)
  assert (found["dark"], found["width"]) == (dark, width)
  assert found["page"] <= width
  assert found["texts"] > 100
  assert found["contrast"] >= 4.5, found["worst"]
  assert found["closed"] == found["open"] == 2
  assert (found["scrolled"] > 3) == (width == 390)
  assert found["unreachable"] == []
  assert (found["broken"], found["fetched"]) == (0, [])
  assert found["values"] > 5
