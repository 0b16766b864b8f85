"""A headless Chromium, spoken to over its DevTools pipe: it runs scripts, presses keys and takes pictures."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
).split()
LIMIT_S = 60.0
KEY_CODES = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39, " ": 32}
SHIFT, CONTROL = 8, 2


class Page:
    """A page in the browser."""

    def __init__(self, requests: int, responses: int) -> None:
        """Attach to a new page; the descriptors are the two ends of Chromium's pipes."""
        self._requests = os.fdopen(requests, "wb", buffering=0)
        self._responses = os.fdopen(responses, "rb")
        self._ids = itertools.count(1)
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def send(self, method: str, **parameters: Any) -> Any:
        """Call a method of the DevTools protocol; returns its result."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._requests.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _read(self) -> bytes:
        message = bytearray()
        while (byte := self._responses.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            message += byte
        return bytes(message)

    def open(self, url: str, width: int = 1000, height: int = 1000) -> Self:
        """Open an address in a window of a size in pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")
        return self

    def run(self, script: str) -> Any:
        """Evaluate an expression, or await it, and return its value as JSON."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until an expression is true."""
        limit = time.monotonic() + LIMIT_S
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < limit, f"{condition} did not become true"
            time.sleep(0.02)

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press and release a key."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        event = {"key": key, "code": key, "windowsVirtualKeyCode": KEY_CODES[key], "modifiers": modifiers}
        down = {"type": "keyDown", "text": text} if text and not modifiers else {"type": "rawKeyDown"}
        self.send("Input.dispatchKeyEvent", **event, **down)
        self.send("Input.dispatchKeyEvent", **event, type="keyUp")

    def write(self, text: str) -> None:
        """Type a text into what has the focus."""
        self.send("Input.insertText", text=text)

    def picture(self, file: Path) -> Path:
        """Save a picture of the whole page."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))
        return file


@contextmanager
def open_browser(profile: Path) -> Iterator[Page]:
    """Start Chromium with a new profile, and end it."""
    assert CHROMIUM
    to_read, requests = os.pipe()
    responses, to_write = os.pipe()
    # Chromium reads from descriptor 3 and writes to 4.
    script = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
    command = ["bash", "-c", script, CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    process = subprocess.Popen(command, pass_fds=(to_read, to_write), stderr=subprocess.DEVNULL)
    os.close(to_read)
    os.close(to_write)
    try:
        yield Page(requests, responses)
    finally:
        process.terminate()
        process.wait(timeout=30)
