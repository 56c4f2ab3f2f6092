"""A report in a real browser: headless Chromium, spoken to in its DevTools protocol over a pipe.

Protocol: https://chromedevtools.github.io/devtools-protocol/. Nothing is needed beside the browser itself.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minidl.train import pictures
from minidl.train.animation import clips_gif
from minidl.train.machine import machine
from minidl.train.report import Report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--remote-debugging-pipe",
]  # fmt: skip
# the pipes have to be file descriptors 3 (to the browser) and 4 (from it); first out of the way, they may be 4 and 3
LAUNCHER = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, number in zip(ends, (3, 4)):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
IMAGES = """
Promise.all([...document.images].map(i => i.decode().then(() => true, () => false))).then(decoded =>
    [...document.images].map((i, n) => ({
        alt: i.alt, decoded: decoded[n], width: i.naturalWidth, height: i.naturalHeight, shown: i.clientWidth})))
"""


class Browser:
    """One tab. Events are kept in the order in which they arrive; every wait has an end."""

    def __init__(self, folder, seconds=60):
        self.deadline = time.monotonic() + seconds
        read_there, self.write = os.pipe()
        self.read, write_there = os.pipe()
        self.log = folder / "chromium.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, str(read_there), str(write_there), CHROMIUM, *OPTIONS,
                 f"--user-data-dir={folder / 'profile'}", "about:blank"],
                pass_fds=(read_there, write_there), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        os.close(read_there)
        os.close(write_there)
        self.buffer, self.events, self.calls, self.session = b"", [], 0, None

    def attach(self):
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]

    def close(self):
        """Ask it to end; if it does not, end the group that it began, with its helpers."""
        with contextlib.suppress(BrokenPipeError):  # it may have ended already
            os.write(self.write, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        os.close(self.write)
        os.close(self.read)

    def call(self, method, **params):
        self.calls += 1
        message = {"id": self.calls, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.write, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda m: m.get("id") == message["id"], method)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def open(self, url):
        self.call("Page.navigate", url=url)
        self._wait(lambda m: m.get("method") == "Page.loadEventFired", "the page to load")

    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")  # undefined has none

    def _wait(self, wanted, what):
        while True:
            while b"\0" in self.buffer:
                text, _, self.buffer = self.buffer.partition(b"\0")
                message = json.loads(text)
                if "method" in message:
                    self.events.append(message)
                if wanted(message):
                    return message
            left = self.deadline - time.monotonic()
            ready = select.select([self.read], [], [], max(left, 0))[0]
            assert ready, f"the browser took too long; waiting for {what}"
            received = os.read(self.read, 1 << 20)
            assert received, f"the browser has gone; waiting for {what}\n{self.log.read_text(errors='replace')[-2000:]}"
            self.buffer += received


@pytest.fixture
def browser(tmp_path):
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    opened = Browser(tmp_path)
    try:
        opened.attach()
        for domain in ("Page", "Runtime", "Log", "Network"):
            opened.call(f"{domain}.enable")
        yield opened
    finally:
        opened.close()


def complaints(browser):
    """What the console shows as a warning or an error, and what the page asked of the network."""
    found = []
    for event in browser.events:
        match event["method"], event["params"]:
            case "Log.entryAdded", {"entry": {"level": "warning" | "error", "text": text}}:
                found.append(text)
            case "Runtime.consoleAPICalled", {"type": "warning" | "error" | "assert"}:
                found.append(event["params"]["args"])
            case "Runtime.exceptionThrown", params:
                found.append(params["exceptionDetails"]["text"])
            case "Network.requestWillBeSent", {"request": {"url": url}} if not url.startswith(("file:", "data:")):
                found.append(url)
    return found


@pytest.fixture
def page(tmp_path):
    """A report with pictures of every kind, as a file."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 60)
    names = ["Right", "Left", "Down", "Up"]
    report = Report("A report <script>document.title = 'run'</script>", "with pictures of every kind")
    report.section("Pictures")
    report.picture(pictures.confusion_matrix(labels, np.roll(labels, 1), names, "Confusions"), "confusions")
    clips = rng.random((3, 6, 16, 16))
    report.picture(clips_gif(clips, names, [0, 1, 2], [0, 1, 3], [0.9, 0.5, 0.7]), "clips")
    report.picture(
        '<svg xmlns="http://www.w3.org/2000/svg" width="80" height="40"><style>rect { fill: teal }</style>'
        '<rect width="80" height="40" style="stroke: red"/></svg>',
        "a rectangle",
    )
    report.section("Numbers")
    report.table([f"column {i}" for i in range(20)], [[i / 7 for i in range(20)]] * 3, "a wide table")
    report.facts({**machine(), "word": "x" * 300})
    report.code("minidl train " + "--option value " * 30)
    report.write(tmp_path / "report #1 100%.html")
    return tmp_path / "report #1 100%.html"


@pytest.mark.browser
def test_a_report_opens_without_complaint_and_shows_its_pictures(browser, page):
    browser.open(page.as_uri())
    shown = browser.evaluate(IMAGES)
    assert [image["alt"] for image in shown] == ["confusions", "clips", "a rectangle"]
    assert all(image["decoded"] and image["width"] > 0 and image["height"] > 0 for image in shown), shown
    assert all(image["shown"] > 50 for image in shown), shown
    assert browser.evaluate("document.title") == "A report <script>document.title = 'run'</script>"
    assert browser.evaluate("getComputedStyle(document.querySelector('td')).textAlign") == "right"  # the style is there
    assert browser.evaluate("document.compatMode") == "CSS1Compat"
    browser.evaluate("document.querySelector('nav a[href=\"#numbers\"]').click()")
    assert browser.evaluate("scrollY > 0 && location.hash === '#numbers'")
    assert complaints(browser) == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 390, 1024, 1600])
def test_nothing_is_wider_than_the_screen(browser, page, width):
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    browser.open(page.as_uri())
    assert browser.evaluate("innerWidth") == width  # a telephone would make it as wide as what does not fit
    assert browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


@pytest.mark.browser
def test_light_and_dark_can_be_read_and_pictures_stay_on_white(browser, page):
    contrasts = {}
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.open(page.as_uri())
        colors = browser.evaluate(
            "['body', 'dt', 'h1', 'figcaption'].map(t => getComputedStyle(document.querySelector(t)).color)"
            ".concat([getComputedStyle(document.body).backgroundColor])"
        )
        *inks, paper = (luminance(color) for color in colors)
        contrasts[scheme] = [(max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) for ink in inks]
        assert min(contrasts[scheme]) >= 4.5, (scheme, colors)  # WCAG 2, level AA
        assert (paper > 0.5) == (scheme == "light")
        ground = browser.evaluate("getComputedStyle(document.querySelector('.picture')).backgroundColor")
        assert ground == "rgb(255, 255, 255)"


def luminance(color):
    """Relative luminance, WCAG 2, of "rgb(r, g, b)"."""
    values = np.array([int(part) for part in color[4:-1].split(",")]) / 255
    return float(
        np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    )


@pytest.mark.browser
def test_a_page_that_does_load_something_is_noticed(browser, tmp_path):
    """So that the silence of the other tests means something."""
    (tmp_path / "bad.html").write_text(
        "<!DOCTYPE html><title>x</title><img alt='a' src='missing.png'><img alt='b' src='http://127.0.0.1:9/x.png'>"
        "<script>console.error('told')</script>"
    )
    browser.open((tmp_path / "bad.html").as_uri())
    assert [image["decoded"] for image in browser.evaluate(IMAGES)] == [False, False]
    found = str(complaints(browser))
    assert "127.0.0.1:9" in found and "told" in found and "ERR_FILE_NOT_FOUND" in found


@pytest.mark.parametrize("required", ["", "1"])
def test_the_switch_of_conftest_refuses_a_skip(tmp_path, required):
    """MINIDL_REQUIRE_BROWSER, on a test of its own."""
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = browser: needs one\n")
    (tmp_path / "test_x.py").write_text(
        "import pytest\n@pytest.mark.browser\ndef test_x(): pytest.skip('no browser')\n"
        "def test_y(): pytest.skip('another reason')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "MINIDL_REQUIRE_BROWSER": required, "MINIDL_REQUIRE_GPU_TIERS": ""},
    )  # fmt: skip
    assert done.returncode == (1 if required else 0), done.stdout
    refused = "MINIDL_REQUIRE_BROWSER is set, so this must run (browser). Skipped: no browser"
    assert (refused in done.stdout) == bool(required)
    assert ("1 failed, 1 skipped" if required else "2 skipped") in done.stdout
