"""Opens a page in a real headless Chromium, as a reader would, and says what the browser found. For tests of any page.

    page = browser.open_page(path, tmp_path)
    browser.check_page(page)

    with browser.visit(path, tmp_path) as visit:  # to click, type and download
        visit.click("#download")

It speaks the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/) through Chromium's debugging pipe: JSON
messages that end in a zero byte, on the browser's file descriptors 3 and 4. The page stays as it is.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--remote-debugging-pipe",
    # Nothing leaves the machine, and that a page asked is seen all the same.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
_TIMEOUT_SEC = 120
# A process of its own gives the pipes their numbers: in this one 3 and 4 may be in use.
_CONNECT = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_INSPECT = """(async () => {
  // A picture whose end is missing has a width, but cannot be decoded.
  const decodes = image => image.decode().then(() => true, () => false);
  return {
    images: await Promise.all([...document.images].map(async image =>
      ({alt: image.alt, width: await decodes(image) ? image.naturalWidth : 0, shown: image.clientWidth}))),
    page_width: document.documentElement.scrollWidth,
    window_width: document.documentElement.clientWidth,
    text: document.body.innerText,
  };
})()"""


@dataclasses.dataclass(frozen=True)
class Image:
    """A picture of the page.

    Attributes:
      alt: its alternative text.
      width: its own width, px; 0 where it cannot be decoded.
      shown: width on the page, px.
    """

    alt: str
    width: int
    shown: int


@dataclasses.dataclass(frozen=True)
class Page:
    """What the browser found.

    Attributes:
      console: what the page wrote to the console, errors of its scripts, and what the browser complained of.
      requests: addresses that the page asked for, besides itself and what is embedded in it.
      images: all pictures.
      text: what a reader sees.
      page_width: px, of the content.
      window_width: px.
    """

    console: tuple[str, ...]
    requests: tuple[str, ...]
    images: tuple[Image, ...]
    text: str
    page_width: int
    window_width: int


def open_page(path: Path, tmp_path: Path, *, width: int = 1200, screenshot: Path | None = None) -> Page:
    """Opens a page and waits until everything in it is loaded; skips the test where there is no browser.

    Args:
      path: of the HTML file.
      tmp_path: for the browser's profile.
      width: of the window, px.
      screenshot: PNG to write, of the whole page.
    """
    with visit(path, tmp_path, width=width) as visited:
        if screenshot is not None:
            screenshot.write_bytes(visited.screenshot())
        return visited.inspect()


@contextlib.contextmanager
def visit(path: Path, tmp_path: Path, *, width: int = 1200) -> Iterator[Visit]:
    """Opens a page as `open_page` and keeps it open; a later visit with the same `tmp_path` is by the same reader."""
    with _start(tmp_path) as browser:
        downloads = tmp_path / "downloads"
        browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads), eventsEnabled=True)
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.call(f"{domain}.enable")
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        address = path.absolute().as_uri()
        browser.call("Page.navigate", url=address)
        opened = Visit(browser, address, downloads)
        # By the page itself: an event that something was loaded may be that of the blank page before it.
        opened.run(
            "new Promise(go => document.readyState === 'complete' ? go() : addEventListener('load', () => go()))"
        )
        yield opened


@dataclasses.dataclass
class Visit:
    """A page that is open, and a reader with mouse and keyboard."""

    _browser: _Browser
    _address: str
    _downloads: Path

    def inspect(self) -> Page:
        """Looks at the page as it is now."""
        found = self.run(_INSPECT)
        events = self._browser.events
        requests = (url for url in _requests(events) if url != self._address and not url.startswith("data:"))
        return Page(
            console=tuple(_messages(events)),
            requests=tuple(requests),
            images=tuple(Image(**image) for image in found.pop("images")),
            **found,
        )

    def run(self, script: str) -> Any:
        """Runs a script in the page and returns its value, or what its promise comes to."""
        answer = self._browser.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Clicks the middle of the first element that a CSS selector finds."""
        self._scroll_to(selector)
        x, y, width, height = self.box(selector)
        at = {"x": x + width / 2, "y": y + height / 2, "button": "left", "clickCount": 1}
        self._browser.call("Input.dispatchMouseEvent", type="mousePressed", **at)
        self._browser.call("Input.dispatchMouseEvent", type="mouseReleased", **at)
        self._settle()

    def press(self, key: str) -> None:
        """Presses a key: Tab, Enter, ArrowRight, ..., or a letter."""
        code = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}.get(key, ord(key[0]))
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        named = {"key": key, "windowsVirtualKeyCode": code}
        self._browser.call("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self._browser.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def choose(self, selector: str, value: str) -> None:
        """Sets a field, as by choosing or typing."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.run(
            f"{element}.value = {json.dumps(value)}; {element}.dispatchEvent(new Event('input', {{bubbles: true}}))"
        )

    def text(self, selector: str) -> str:
        """Returns what a reader sees of an element."""
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Returns where in the window an element is: left, top, width and height, px."""
        return tuple(
            self.run(
                f"(({{left, top, width, height}}) => [left, top, width, height])"
                f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
            )
        )

    def screenshot(self, selector: str = "") -> bytes:
        """Returns a PNG of the whole page, or of one element."""
        options: dict[str, Any] = {"captureBeyondViewport": True}
        if selector:
            self._scroll_to(selector)
            x, y, width, height = self.box(selector)
            clip = {"x": x, "y": y + self.run("scrollY"), "width": width, "height": height, "scale": 1}
            options = {"clip": clip}
        return base64.b64decode(self._browser.call("Page.captureScreenshot", **options)["data"])

    def download(self, selector: str) -> Path:
        """Clicks what starts a download and returns the file, under the name that the page gives it."""
        before = len(self._finished_downloads())
        self.click(selector)
        while len(self._finished_downloads()) == before:
            self._browser.read()
        begun = [event["params"] for event in self._browser.events if event["method"] == "Browser.downloadWillBegin"]
        return self._downloads / begun[-1]["suggestedFilename"]

    def _finished_downloads(self) -> list[dict[str, Any]]:
        progress = [event["params"] for event in self._browser.events if event["method"] == "Browser.downloadProgress"]
        return [params for params in progress if params["state"] == "completed"]

    def _scroll_to(self, selector: str) -> None:
        self.run(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center', behavior: 'instant'}})"
        )
        self._settle()

    def _settle(self) -> None:
        """Waits for two frames: by then everything is where it stays, and what a click asked for is done."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")


def check_page(page: Page, *, files_of: Path | None = None) -> None:
    """Asserts what holds for every page: silent console, no request, every picture loads and shows, no sideways scroll.

    Args:
      page: what the browser found.
      files_of: folder whose files the page may ask for.
    """
    assert page.console == ()
    own = (
        ()
        if files_of is None
        else tuple(url for url in page.requests if url.startswith(files_of.absolute().as_uri() + "/"))
    )
    assert page.requests == own
    for image in page.images:
        assert image.width > 0, f"does not load: {image.alt}"
        assert image.shown > 0, f"does not show: {image.alt}"
        assert image.alt
    assert page.page_width <= page.window_width


@dataclasses.dataclass
class _Browser:
    """A running browser, at the other end of two pipes."""

    write_fd: int
    read_fd: int
    deadline_sec: float
    session: str = ""
    events: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    _waiting: bytes = b""
    _num_calls: int = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._num_calls += 1
        message = {"id": self._num_calls, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_fd, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self._num_calls:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def read(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            ready, _, _ = select.select([self.read_fd], [], [], max(0, self.deadline_sec - time.monotonic()))
            assert ready, "the browser did not answer in time"
            data = os.read(self.read_fd, 1 << 20)
            assert data, "the browser ended"
            self._waiting += data
        text, _, self._waiting = self._waiting.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message


@contextlib.contextmanager
def _start(tmp_path: Path) -> Iterator[_Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium not there: the page is not opened")
    ends = [*os.pipe(), *os.pipe()]
    # Above 4, so that none is overwritten when they become 3 and 4.
    their_input, our_output, our_input, their_output = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    command = [sys.executable, "-I", "-S", "-c", _CONNECT, str(their_input), str(their_output), chromium]
    command += [*_SWITCHES, f"--user-data-dir={tmp_path}/profile"]
    with open(tmp_path / "chromium.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=(their_input, their_output))
    try:
        os.close(their_input)
        os.close(their_output)
        browser = _Browser(our_output, our_input, time.monotonic() + _TIMEOUT_SEC)
        yield browser
        # Asked to end, it writes down what pages keep; killed, it may not.
        browser.session = ""
        browser.call("Browser.close")
        process.wait(timeout=_TIMEOUT_SEC)
    finally:
        process.terminate()
        process.wait()
        os.close(our_output)
        os.close(our_input)


def _messages(events: list[dict[str, Any]]) -> Iterator[str]:
    for event in events:
        found = event["params"]
        if event["method"] == "Runtime.consoleAPICalled":
            yield " ".join(str(each.get("value", each.get("description"))) for each in found["args"])
        elif event["method"] == "Runtime.exceptionThrown":
            details = found["exceptionDetails"]
            yield details.get("exception", {}).get("description", details["text"])
        elif event["method"] == "Log.entryAdded":
            yield f"{found['entry']['text']} {found['entry'].get('url', '')}"


def _requests(events: list[dict[str, Any]]) -> Iterator[str]:
    for event in events:
        if event["method"] == "Network.requestWillBeSent":
            yield event["params"]["request"]["url"]
