"""The page at `/`: served under a strict policy, and working in a real browser against a real server."""

import ast
import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from kit.encoders import LABELS, build_checkpoint
from kit.exports import quick_exports
from kit.servers import Server
from kit.serving import local_service
from transformers import BertForQuestionAnswering, BertForTokenClassification

from tuneport.schema.loading import load_golden, load_manifest
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export
from tuneport.stages.serve.http.playground.routes import PAGE, policy

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --virtual-time-budget=8000"
).split()
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEXT = "the bank 🙂 fell when the team won; Größe!"


class Page(HTMLParser):
    """The elements of a page after its script has run, by tag, class and id."""

    def __init__(self, dom: str) -> None:
        super().__init__()
        self._open: list[dict[str, Any]] = []
        self.elements: list[dict[str, Any]] = []
        self.feed(dom)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in ("meta", "link", "input", "br"):
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()["tag"] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element["text"] += data

    def find(self, tag: str, **attributes: str) -> list[dict[str, Any]]:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [
            each
            for each in self.elements
            if each["tag"] == tag and all(value in (each.get(name) or "").split() for name, value in wanted.items())
        ]

    def one(self, tag: str, **attributes: str) -> str:
        (element,) = self.find(tag, **attributes)
        return str(element["text"])


def browse(url: str, tmp_path: Path, **query: str) -> Page:
    """Open the page in Chromium with a query, let it run, and return what it shows."""
    assert CHROMIUM
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"{url}/?{urlencode(query)}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return Page(done.stdout)


@pytest.fixture(scope="module")
def classifier(tiny_artifact: Path) -> Iterator[str]:
    with local_service(tiny_artifact) as service:
        yield service.url


@pytest.fixture
def locked(tiny_artifact: Path) -> Iterator[str]:
    with local_service(tiny_artifact, api_keys="secret") as service:
        yield service.url


def serve_checkpoint(folder: Path, checkpoint: Path, task: str, **settings: Any) -> Iterator[str]:
    with quick_exports():
        config = ExportConfig(checkpoint=checkpoint, name="tiny", task=task, variants=("fp32",), **settings)
        export(config, folder / "out")
    with local_service(folder / "out") as service:
        yield service.url


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("tagger")
    build_checkpoint(folder / "checkpoint", TAGS, BertForTokenClassification)
    yield from serve_checkpoint(folder, folder / "checkpoint", "token-classification", tag_scheme="BIO")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("reader")
    build_checkpoint(folder / "checkpoint", ("A", "B"), BertForQuestionAnswering)
    yield from serve_checkpoint(folder, folder / "checkpoint", "question-answering")


@pytest.fixture(scope="module")
def generator(chat: Path) -> Iterator[str]:
    with local_service(chat) as service:
        yield service.url


def predict(url: str, inputs: Any, **parameters: Any) -> Any:
    answer = httpx.post(f"{url}/predict", json={"inputs": inputs, "parameters": parameters})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"][0]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = PAGE.decode()
    assert re.findall(r"(?:src|href|url|import)\s*[=(]\s*['\"]?(?!data:)[a-z]*:?//", text) == []
    assert "innerHTML" not in text
    assert "eval(" not in text


def test_only_the_page_s_own_script_may_run(classifier: str) -> None:
    answer = httpx.get(classifier)
    assert answer.content == PAGE
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    script = re.search(r"<script>(.*?)</script>", answer.text, re.S)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    rules = answer.headers["content-security-policy"]
    assert rules == policy(PAGE)
    assert f"script-src 'sha256-{digest}';" in rules
    assert "default-src 'none'" in rules
    assert answer.text.count("<script") == 1
    assert re.search(r"\son[a-z]+=", answer.text) is None  # handlers in attributes would not run


def test_the_page_is_told_what_the_model_is(classifier: str) -> None:
    info = httpx.get(f"{classifier}/info").json()
    assert info["task"] == "text-classification"
    assert info["labels"] == list(LABELS)
    assert info["parameters"] == ["explain", "threshold", "top_k"]
    assert info["variant"] == "fp32"
    assert info["fields"] == ["text"]
    assert not info["streams"]
    assert not info["has_chat_template"]


def test_examples_are_golden_inputs_that_the_form_can_hold(classifier: str, reader: str, tiny_artifact: Path) -> None:
    golden = [case.input for case in load_golden(tiny_artifact)]
    examples = httpx.get(f"{classifier}/info").json()["examples"]
    assert 0 < len(examples) <= 6
    assert all(each.keys() == {"text"} and each["text"].strip() and each["text"] in golden for each in examples)
    assert len({each["text"] for each in examples}) == len(examples)
    questions = httpx.get(f"{reader}/info").json()["examples"]
    assert questions
    assert all(each.keys() == {"question", "context"} for each in questions)
    for example in questions[:2]:
        assert httpx.post(f"{reader}/predict", json={"inputs": example}).status_code == 200


def test_the_card_is_that_of_the_artifact(classifier: str, tiny_artifact: Path) -> None:
    answer = httpx.get(f"{classifier}/card")
    assert answer.content == (tiny_artifact / "README.md").read_bytes()
    assert answer.headers["content-type"].startswith("text/markdown")


def test_the_bento_serves_the_page_in_place_of_bentoml_s(server: Server) -> None:
    assert httpx.get(server.url).content == PAGE
    assert httpx.get(f"{server.url}/info").json()["name"] == "tiny"
    assert httpx.post(server.url).status_code == 405


def test_keys_protect_the_model_not_the_page(locked: str) -> None:
    assert httpx.get(locked).content == PAGE
    assert httpx.get(f"{locked}/info").status_code == 401
    assert httpx.get(f"{locked}/card").status_code == 401
    assert httpx.get(f"{locked}/info", headers={"Authorization": "Bearer secret"}).status_code == 200


@in_browser
def test_classes_are_shown_with_their_probabilities(classifier: str, tmp_path: Path) -> None:
    page = browse(classifier, tmp_path, text=TEXT, run="1")
    expected = predict(classifier, TEXT, top_k=3)
    lines = [element["text"] for element in page.find("div", class_="line")]
    assert lines == [f"{each['label']}{100 * each['score']:.1f} %" for each in expected]
    widths = [re.search(r"width: ([\d.]+)%", element["style"]) for element in page.find("div", class_="fill")]
    assert [float(width[1]) for width in widths if width] == pytest.approx(
        [100 * each["score"] for each in expected], abs=0.06
    )
    assert re.fullmatch(r"[\d.]+ ms round trip · answered by fp32", page.one("p", id="latency"))
    best = f"{expected[0]['label']}, {100 * expected[0]['score']:.1f} %, "
    assert re.fullmatch(re.escape(best) + r"[\d.]+ ms", page.one("p", id="status"))
    assert page.one("h1") == "tiny"
    assert page.find("div", role="alert") == []
    assert page.find("span", class_="word") == []


@in_browser
def test_words_are_coloured_by_their_effect(classifier: str, tmp_path: Path) -> None:
    page = browse(classifier, tmp_path, text=TEXT, explain="1", run="1")
    best = predict(classifier, TEXT, top_k=3, explain=True)[0]
    words = page.find("span", class_="word")
    assert [word["text"] for word in words] == [each["text"] for each in best["explanation"]]
    assert [word["title"] for word in words] == [
        f"{each['score']:+.3f}".replace("-", "−") for each in best["explanation"]
    ]
    for word, each in zip(words, best["explanation"], strict=True):
        assert ("--against" in word["style"]) == (each["score"] < 0)
    (prose,) = page.find("p", class_="prose")
    assert prose["text"] == TEXT
    assert [button["aria-pressed"] for button in page.find("button") if "aria-pressed" in button] == [
        "true", "false", "false",
    ]  # fmt: skip


@in_browser
def test_entities_are_marked_in_place(tagger: str, tmp_path: Path) -> None:
    page = browse(tagger, tmp_path, text=TEXT, run="1")
    expected = predict(tagger, TEXT)
    assert expected
    marks = page.find("mark")
    assert [mark["text"] for mark in marks] == [each["text"] + each["entity"] for each in expected]
    (prose,) = page.find("p", class_="prose")
    shown = prose["text"]
    for each in expected:
        shown = shown.replace(each["text"] + each["entity"], each["text"], 1)
    assert shown == TEXT


@in_browser
def test_the_answer_is_marked_in_its_context(reader: str, tmp_path: Path) -> None:
    context = f"🙂🙂 {TEXT} the game was late"
    page = browse(reader, tmp_path, question="when?", context=context, run="1")
    best = predict(reader, {"question": "when?", "context": context}, top_k=3)[0]
    assert best["answer"]
    assert page.one("p", id="answer") == best["answer"]
    assert page.one("mark") == best["answer"]
    (prose,) = page.find("p", class_="prose")
    assert prose["text"] == context


@in_browser
def test_generated_text_is_shown(generator: str, tmp_path: Path) -> None:
    page = browse(generator, tmp_path, text="one two", chat="0", max_new_tokens="9", stream="0", run="1")
    expected = predict(generator, "one two", max_new_tokens=9)
    assert expected["text"]
    assert page.one("p", id="generated") == expected["text"]
    assert '"max_new_tokens": 9' in page.find("pre")[-1]["text"]


@in_browser
def test_a_model_with_a_chat_template_gets_messages(generator: str, tmp_path: Path) -> None:
    page = browse(generator, tmp_path, text="one two", max_new_tokens="9", stream="0", run="1")
    chat = {"messages": [{"role": "user", "content": "one two"}]}
    raw = page.find("pre")[-1]["text"]
    assert json.loads(raw.partition("\n\n")[0].partition("\n")[2])["inputs"] == chat
    expected = predict(generator, chat, max_new_tokens=9)
    assert page.one("p", id="generated") == expected["text"] != predict(generator, "one two", max_new_tokens=9)["text"]


@in_browser
def test_text_is_shown_while_it_is_generated(generator: str, tmp_path: Path) -> None:
    """The browser's virtual time does not wait for the rest of a streamed answer, so what it shows may be a part."""
    expected = predict(generator, "one two", max_new_tokens=9)["text"]
    for _ in range(5):
        page = browse(generator, tmp_path, text="one two", chat="0", max_new_tokens="9", run="1")
        assert page.find("div", role="alert") == []
        shown = "".join(each["text"] for each in page.find("p", class_="plain"))
        assert expected.startswith(shown)
        if shown:
            return
    raise AssertionError("nothing was shown")


@in_browser
def test_an_example_is_run(reader: str, tmp_path: Path) -> None:
    page = browse(reader, tmp_path, example="1", run="1")
    examples = httpx.get(f"{reader}/info").json()["examples"]
    buttons = [each["text"] for each in page.find("button", type="button")]
    assert all(any(next(iter(each.values()))[:20] in text for text in buttons) for each in examples)
    body = page.find("pre")[-1]["text"].partition("\n\n")[0].partition("\n")[2]
    assert json.loads(body)["inputs"] == examples[0]


@in_browser
def test_the_snippets_send_the_request_at_hand(classifier: str, tmp_path: Path) -> None:
    text = 'it\'s "late" \\ 🙂 $HOME `id`'
    page = browse(classifier, tmp_path, text=text, explain="1", run="1")
    curl, python, raw = (each["text"] for each in page.find("pre"))
    expected = predict(classifier, text, top_k=3, explain=True)
    assert json.loads(raw.partition("\n\n")[2])["predictions"] == [expected]
    printed = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed)["predictions"] == [expected]
    done = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == expected


@in_browser
def test_the_card_is_shown_in_its_tab(classifier: str, tmp_path: Path, tiny_artifact: Path) -> None:
    page = browse(classifier, tmp_path, tab="card")
    (panel,) = page.find("div", id="document")
    assert "hidden" not in panel
    assert "hidden" in page.find("div", id="try")[0]
    cells = [each["text"] for each in page.find("td")]
    assert all(
        any(cell.split()[0] == each.name for cell in cells if cell) for each in load_manifest(tiny_artifact).variants
    )
    assert {"Evaluation", "Provenance"} <= {each["text"] for each in page.find("h3")}
    assert "**" not in panel["text"]
    assert [each["aria-selected"] for each in page.find("button", role="tab")] == ["false", "true"]
    assert [each.get("tabindex") for each in page.find("button", role="tab")] == ["-1", "0"]


@in_browser
def test_text_is_shown_as_text(classifier: str, tmp_path: Path) -> None:
    """What looks like markup neither becomes an element nor runs."""
    text = "<img src=x onerror=document.title='owned'> <b>bank</b>"
    page = browse(classifier, tmp_path, text=text, explain="1", run="1")
    assert page.one("title") == "tiny · playground"
    assert page.find("img") == []
    assert page.find("b") == []
    (prose,) = page.find("p", class_="prose")
    assert prose["text"] == text


@in_browser
def test_an_error_is_shown_with_its_remedy(reader: str, tmp_path: Path) -> None:
    page = browse(reader, tmp_path, question="when " * 80, context="the bank", run="1")
    assert "shorten it" in page.one("div", role="alert")


@in_browser
def test_a_page_without_a_key_asks_for_one(locked: str, tmp_path: Path) -> None:
    page = browse(locked, tmp_path)
    assert "hidden" not in page.find("div", id="key-field")[0]
    assert "API key" in page.one("div", role="alert")


@in_browser
def test_every_field_has_a_label(classifier: str, tmp_path: Path) -> None:
    page = browse(classifier, tmp_path)
    labelled = {element["for"] for element in page.find("label") if "for" in element}
    inside = {"explain"}  # the label holds its box
    fields = {each["id"] for tag in ("textarea", "input") for each in page.find(tag)}
    assert fields == labelled | inside
    assert page.elements[0]["lang"] == "en"
    assert fields == {"explain", "key", "text"}
