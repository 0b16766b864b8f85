"""The playground with the keyboard alone, for screen readers (axe), and with answers of two variants side by side."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit.browser import CHROMIUM, CONTROL, SHIFT, Page, open_browser
from kit.serving import LocalService, assert_error, local_service

AXE = "axe-playwright-python==0.1.8"
"""A package that carries axe.min.js."""
TEXT = "the bank fell"

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def service(tiny_artifact: Path) -> Iterator[LocalService]:
    with local_service(tiny_artifact, playground_variants=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def opened(browser: Page, url: str, query: str = "", **size: int) -> Page:
    page = browser.open(f"{url}/{query}", **size)
    page.wait_for("document.getElementById('text')")
    return page


def each_of(selector: str, value: str) -> str:
    """Return a script that lists a value of each element."""
    return f"[...document.querySelectorAll('{selector}')].map((each) => each.{value})"


def focus(page: Page) -> str:
    """Return the id, or else the text, of what has the focus."""
    return str(page.run("document.activeElement.id || document.activeElement.textContent"))


def ask(service: LocalService, variant: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{service.url}/variants/{variant}/predict", json=body, timeout=60)


def test_another_variant_answers_as_it_does_when_it_serves(service: LocalService, tiny_artifact: Path) -> None:
    assert httpx.get(f"{service.url}/info").json()["variants"] == ["int8"]
    answer = ask(service, "int8", inputs=TEXT, parameters={"top_k": 3}).json()
    with local_service(tiny_artifact, variant="int8") as int8:
        alone = httpx.post(f"{int8.url}/predict", json={"inputs": TEXT, "parameters": {"top_k": 3}}).json()
    assert answer == alone
    assert answer["model"]["variant"] == "int8"


def test_what_is_no_other_variant_is_refused_with_those_there_are(service: LocalService, tiny_artifact: Path) -> None:
    for name in ("fp32", "int9", "x" * 500):
        assert_error(ask(service, name, inputs=TEXT), 404, "no_variant", "choose among int8")
    assert ask(service, "int8", inputs=7).status_code == 422
    assert ask(service, "int8", inputs=[]).status_code == 422
    with local_service(tiny_artifact) as usual:
        assert httpx.get(f"{usual.url}/info").json()["variants"] == []
        assert_error(ask(usual, "int8", inputs=TEXT), 404, "no_variant", "TUNEPORT_PLAYGROUND_VARIANTS")


@in_browser
def test_two_variants_answer_side_by_side(service: LocalService, browser: Page) -> None:
    page = opened(browser, service.url, "?text=the+bank+fell&variant=int8&explain=1&run=1")
    page.wait_for("document.querySelectorAll('#output > section').length === 2")
    page.wait_for("!document.getElementById('run').disabled")
    shown = page.run(each_of("#output .figures", "textContent"))
    assert [text.rpartition(" ")[2] for text in shown] == ["fp32", "int8"]
    assert all(" ms round trip" in text for text in shown)
    first, second = page.run(each_of("#output > section", "getBoundingClientRect().top"))
    assert first == second
    ids = page.run(each_of("[id]", "id"))
    assert len(ids) == len(set(ids))


@in_browser
def test_the_keyboard_reaches_everything(service: LocalService, browser: Page) -> None:
    page = opened(browser, service.url)
    page.wait_for("!document.getElementById('run').disabled")
    reached = []
    for _ in range(30):
        page.press("Tab")
        reached.append(focus(page))
        if reached[-1] == "run":
            break
    examples = page.run(each_of("#examples button", "textContent"))
    assert reached == ["theme", "try-tab", *examples, "text", "explain", "variant", "run"]
    page.press("Tab", SHIFT)
    page.press("Tab", SHIFT)
    page.press(" ")
    assert page.run("document.getElementById('explain').checked")
    page.press("Tab", SHIFT)
    page.write(TEXT)
    page.press("Enter", CONTROL)
    page.wait_for("document.querySelector('#output > section') && !document.getElementById('run').disabled")
    assert TEXT in page.run("document.querySelector('#output .prose').textContent")
    assert " ms" in page.run("document.getElementById('status').textContent")  # what a screen reader says


@in_browser
def test_an_example_that_is_a_recording_becomes_the_chosen_file(service: LocalService, browser: Page) -> None:
    page = opened(browser, service.url)
    page.run(
        "$('form').append(createElement('input', {type: 'file', id: 'audio'})), fillIn({audio: btoa('RIFF\\xff')})"
    )
    assert page.run("readFile($('audio').files[0])") == {"audio": "UklGRv8="}
    assert page.run("titleOf({audio: 'UklG'}, 1) + titleOf({messages: [{content: 'How?'}]}, 0)") == "Recording 2How?"


@in_browser
def test_arrows_select_a_tab_and_take_the_focus_with_them(service: LocalService, browser: Page) -> None:
    page = opened(browser, service.url)
    page.run("document.getElementById('try-tab').focus()")
    steps = {"ArrowRight": "card-tab", "ArrowLeft": "try-tab", "End": "card-tab", "Home": "try-tab"}
    for key, selected in steps.items():
        page.press(key)
        assert focus(page) == selected
        assert page.run("document.querySelector('[role=tab][aria-selected=true]').id") == selected


@in_browser
@pytest.mark.parametrize("query", ["?text=the+bank+fell&explain=1&variant=int8&run=1", "?tab=card"])
def test_nothing_is_wider_than_a_phone(query: str, service: LocalService, browser: Page) -> None:
    page = opened(browser, service.url, query, width=360, height=700)
    page.wait_for("document.querySelector('#output > section') || document.querySelector('#document h2')")
    assert page.run("document.documentElement.scrollWidth") <= 360
    page.run("document.querySelectorAll('.line span:first-child').forEach((each) => each.append(' long'.repeat(20)))")
    assert [height for height in page.run(each_of(".line span:last-child", "offsetHeight")) if height > 30] == []


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return axe's script, from a package that is not installed: it would bring a browser."""
    folder = tmp_path_factory.mktemp("axe")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), AXE]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"{AXE} cannot be downloaded here")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return wheel.read("axe_playwright_python/axe.min.js").decode()


VIEWS = {
    "form": ("", "!document.getElementById('run').disabled"),
    "answers": (
        "&text=the+bank+fell&explain=1&variant=int8&run=1",
        "document.querySelectorAll('#output > section').length === 2",
    ),
    "card": ("&tab=card", "document.querySelector('#document table')"),
    "error": ("", "!document.getElementById('run').disabled"),
}
"""View → its query, and what is true once it is there."""
VIOLATIONS = "axe.run().then(({violations}) => violations.map((each) => [each.id, each.nodes.map((n) => n.html)]))"


@in_browser
@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing(view: str, theme: str, service: LocalService, browser: Page, axe: str) -> None:
    query, ready = VIEWS[view]
    page = opened(browser, service.url, f"?theme={theme}{query}")
    page.wait_for(ready)
    if view == "error":
        page.run("showError(new Error('the text is too long: shorten it'))")
    page.run("for (const each of document.querySelectorAll('details')) each.open = true")
    page.run(f"{axe}; true")
    found = page.run(VIOLATIONS)
    assert found == [], json.dumps(found, indent=1)
