"""`tuneport predict`: texts and JSON, from arguments and standard input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kit import ROOT
from kit.command import assert_one_line, tuneport
from kit.reference import TorchReference

TEXTS = ["bank", "the team won", "Größe 🙂"]


@pytest.fixture(scope="module")
def labels(tiny_checkpoint: Path) -> list[str]:
    return TorchReference(tiny_checkpoint).labels(TEXTS)


def test_predict_answers_arguments_in_order(tiny_artifact: Path, labels: list[str]) -> None:
    answer = tuneport("predict", tiny_artifact, *TEXTS)
    assert answer.code == 0
    assert [json.loads(line)["label"] for line in answer.out.splitlines()] == labels


def test_predict_answers_texts_and_objects_of_stdin_in_order(tiny_artifact: Path, labels: list[str]) -> None:
    lines = [TEXTS[0], json.dumps({"text": TEXTS[1]}), TEXTS[2]]
    answer = tuneport("predict", tiny_artifact, stdin="\n".join(lines).encode())
    assert answer.code == 0
    assert [json.loads(line)["label"] for line in answer.out.splitlines()] == labels


def test_predict_keeps_the_order_of_more_lines_than_a_chunk(tiny_artifact: Path, labels: list[str]) -> None:
    answer = tuneport("predict", tiny_artifact, "--variant", "fp32", stdin="\n".join(TEXTS * 200).encode())
    assert [json.loads(line)["label"] for line in answer.out.splitlines()] == labels * 200


def test_an_empty_line_is_an_empty_text_and_empty_stdin_is_nothing(tiny_artifact: Path) -> None:
    assert tuneport("predict", tiny_artifact, stdin=b"a\n\nb\n").out.count("\n") == 3
    nothing = tuneport("predict", tiny_artifact, stdin=b"")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "")


@pytest.mark.parametrize(
    ("stdin", "words"),
    [
        (b"bank\n\xff\n", ("line 2", "UTF-8")),
        (b'bank\n{"text": \n', ("line 2", "JSON")),
        (b'{"txt": "bank"}\n', ("txt",)),
        (b'{"text": 7}\n', ("a number",)),
        (b'{"text": "\\ud800"}\n', ("surrogate",)),
    ],
)
def test_a_bad_line_of_stdin_is_one_line_on_stderr(tiny_artifact: Path, stdin: bytes, words: tuple[str, ...]) -> None:
    answer = tuneport("predict", tiny_artifact, stdin=stdin)
    assert answer.code == 1
    assert_one_line(answer.err, *words)


def test_an_argument_that_is_not_unicode_is_one_line(tiny_artifact: Path) -> None:
    answer = tuneport("predict", tiny_artifact, "bank\udcff")
    assert answer.code == 1
    assert_one_line(answer.err, "surrogate")


def test_predict_takes_a_variant_and_names_those_there_are(tiny_artifact: Path) -> None:
    assert tuneport("predict", tiny_artifact, "bank", "--variant", "int8").code == 0
    answer = tuneport("predict", tiny_artifact, "bank", "--variant", "fp64")
    assert answer.code == 1
    assert_one_line(answer.err, "fp64", "fp32, int8")


def test_a_variable_of_the_service_chooses_the_variant_unless_an_option_does(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEPORT_VARIANT", "fp64")
    answer = tuneport("predict", tiny_artifact, "bank")
    assert_one_line(answer.err, "TUNEPORT_VARIANT is set, and the artifact has no variant 'fp64'", "fp32, int8")
    assert "TUNEPORT_VARIANT" not in tuneport("predict", tiny_artifact, "bank", "--variant", "fp16").err
    assert tuneport("predict", tiny_artifact, "bank", "--variant", "int8").code == 0


def test_variables_of_the_service_alone_do_not_concern_predict(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEPORT_TLS_CERTFILE", "absent.pem")
    monkeypatch.setenv("TUNEPORT_WORKERS", "many")
    assert tuneport("predict", tiny_artifact, "bank").code == 0
    monkeypatch.setenv("TUNEPORT_THREADS", "many")
    assert_one_line(tuneport("predict", tiny_artifact, "bank").err, "TUNEPORT_THREADS")
    monkeypatch.delenv("TUNEPORT_THREADS")
    monkeypatch.setenv("TUNEPORT_VARIENT", "int8")
    assert_one_line(tuneport("predict", tiny_artifact, "bank").err, "TUNEPORT_VARIANT")


def test_a_reader_that_closes_the_pipe_is_no_error(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("bank\n" * 5000)
    script = '"$0" -m tuneport predict "$1" < "$2" | head -1; exit ${PIPESTATUS[0]}'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, tiny_artifact, tmp_path / "texts"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_answers_that_cannot_be_written_are_one_line(tiny_artifact: Path) -> None:
    command = [sys.executable, "-m", "tuneport", "predict", str(tiny_artifact), "bank"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: the answers cannot be written (No space left on device); send them elsewhere\n"


def test_an_argument_that_begins_with_a_brace_is_json(tiny_artifact: Path) -> None:
    answer = tuneport("predict", tiny_artifact, '{"text": "the bank fell"}', "the bank fell")
    assert answer.out.splitlines()[0] == answer.out.splitlines()[1]
    wrong = tuneport("predict", tiny_artifact, "a", "{a")
    assert wrong.code == 1
    assert wrong.err.startswith("error: input 2 is not JSON")


def test_a_byte_order_mark_is_no_part_of_the_first_line(tiny_artifact: Path) -> None:
    line = b'{"text": "the bank fell"}\n'
    marked, plain = (tuneport("predict", tiny_artifact, stdin=mark + line) for mark in (b"\xef\xbb\xbf", b""))
    assert marked.out == plain.out


def test_json_too_deep_to_read_is_one_line(tiny_artifact: Path) -> None:
    done = tuneport("predict", tiny_artifact, stdin=b'{"text":' + b"[" * 100_000)
    assert done.code == 1
    assert done.err.startswith("error: line 1 of stdin is not JSON")


def test_a_wrong_line_is_counted_from_the_first_of_all(tiny_artifact: Path) -> None:
    done = tuneport("predict", tiny_artifact, stdin=b"bank\n" * 299 + b'{"text": null}\n')
    assert done.code == 1
    assert "inputs[299]" in done.err
