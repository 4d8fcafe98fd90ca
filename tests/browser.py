"""A headless Chromium, driven through the WebDriver protocol (W3C) by an HTTP client: what the
pages do where they are used. Without a browser on the machine the tests that need one are skipped.
"""

import base64
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference
ENTER, ESCAPE, SHIFT, UP, RIGHT, TAB = "\ue007", "\ue00c", "\ue008", "\ue013", "\ue014", "\ue004"

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_CHROMIUM = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
_DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    _CHROMIUM is None or _DRIVER is None,
    reason="needs Chromium and chromedriver (Debian: apt-get install chromium-driver)",
)

# Resolves once the condition holds; the browser looks again with every frame.
_UNTIL = """
const done = arguments[arguments.length - 1];
const holds = new Function("return (" + arguments[0] + ")");
const look = () => { const found = holds(); found ? done(found) : setTimeout(look, 10); };
look();
"""


class Browser:
    """One window. Selectors are CSS; ``js`` is an expression."""

    def __init__(self, driver_url: str, session: str) -> None:
        url = f"{driver_url}/session/{session}"
        self._http = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False)

    async def command(self, method: str, path: str, body: object = None) -> Any:
        data = {} if method == "POST" and body is None else body
        response = await self._http.request(method, path, json=data)
        value = response.json()["value"]
        assert response.status_code == 200, value
        return value

    async def open(self, url: str) -> None:
        await self.command("POST", "/url", {"url": url})

    async def js(self, expression: str) -> Any:
        body = {"script": f"return ({expression})", "args": []}
        return await self.command("POST", "/execute/sync", body)

    async def until(self, expression: str) -> Any:
        """The value of the expression as soon as it is true."""
        return await self.command(
            "POST", "/execute/async", {"script": _UNTIL, "args": [expression]}
        )

    async def text(self, selector: str) -> str:
        found = await self.js(f"document.querySelector({selector!r}).innerText")
        assert isinstance(found, str)
        return found

    async def find(self, selector: str) -> str:
        body = {"using": "css selector", "value": selector}
        found = await self.command("POST", "/element", body)
        return f"/element/{found[ELEMENT]}"

    async def click(self, selector: str) -> None:
        await self.command("POST", f"{await self.find(selector)}/click")

    async def write(self, selector: str, text: str) -> None:
        await self.command("POST", f"{await self.find(selector)}/value", {"text": text})

    async def press(self, *keys: str) -> None:
        """Keys to whatever has the focus, all held until the last is down."""
        actions = [{"type": "keyDown", "value": key} for key in keys]
        actions += [{"type": "keyUp", "value": key} for key in reversed(keys)]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        await self.command("POST", "/actions", {"actions": [source]})

    async def cdp(self, command: str, **params: object) -> Any:
        return await self.command("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    async def look(self, width: int, height: int, **features: str) -> None:
        """The size of the page in pixels, and media features such as prefers_color_scheme."""
        await self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        media = [{"name": name.replace("_", "-"), "value": v} for name, v in features.items()]
        await self.cdp("Emulation.setEmulatedMedia", features=media)

    async def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(await self.command("GET", "/screenshot")))

    async def errors(self) -> list[str]:
        """What the console has heard of errors since the last call, violated policies included."""
        entries = await self.command("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    async def close(self) -> None:
        await self._http.aclose()


@contextmanager
def running_driver() -> Iterator[tuple[str, str]]:
    """The driver's address and a session of a fresh, headless browser; both end with the block."""
    assert _CHROMIUM and _DRIVER
    with tempfile.TemporaryDirectory(prefix="prelude-browser-") as profile:
        driver = subprocess.Popen(
            [_DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            url = f"http://127.0.0.1:{_port_of(driver)}"
            session = _new_session(url, _CHROMIUM, profile)
            try:
                yield url, session
            finally:
                httpx.delete(f"{url}/session/{session}", timeout=60, trust_env=False)
        finally:
            driver.terminate()
            driver.wait()
            assert driver.stdout
            driver.stdout.close()


def _port_of(driver: subprocess.Popen[str]) -> int:
    assert driver.stdout
    for line in driver.stdout:
        if found := re.search(r"started successfully on port (\d+)", line):
            return int(found.group(1))
    raise AssertionError("chromedriver did not start")


def _new_session(url: str, binary: str, profile: str) -> str:
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    arguments += [f"--user-data-dir={profile}", "--hide-scrollbars", "--force-color-profile=srgb"]
    options = {"binary": binary, "args": arguments}
    wanted = {
        "goog:chromeOptions": options,
        "goog:loggingPrefs": {"browser": "ALL"},
        "timeouts": {"script": 30_000},
    }
    body = {"capabilities": {"alwaysMatch": wanted}}
    response = httpx.post(f"{url}/session", json=body, timeout=60, trust_env=False)
    assert response.status_code == 200, response.text
    found: str = response.json()["value"]["sessionId"]
    return found
