"""A run of batch scoring that is killed continues with the same command: no row is lost or written twice."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kit import ROOT
from kit.artifacts import change_byte
from kit.scoring import score_until_killed, write_table
from kit.texts import random_texts

from tuneport.errors import TuneportError
from tuneport.scoring.config import ScoreConfig
from tuneport.scoring.journal import folder_of
from tuneport.scoring.pipeline import Progress, rejects_of, score

CHUNKS, ROWS_A_CHUNK = 5, 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five chunks of 20 rows, of which one row in each cannot be scored."""
    texts = random_texts(5)
    rows = [{"id": i, "text": None if i % ROWS_A_CHUNK == 7 else next(texts)} for i in range(CHUNKS * ROWS_A_CHUNK)]
    return write_table(tmp_path_factory.mktemp("scoring") / "in.jsonl", rows)


@pytest.fixture(scope="module")
def whole(tiny_artifact: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """What a run that nobody interrupts writes."""
    out = tmp_path_factory.mktemp("whole") / "out.jsonl"
    score(config_of(tiny_artifact, source), out)
    return out.read_bytes(), rejects_of(out).read_bytes()


def config_of(artifact: Path, source: Path, **settings: Any) -> ScoreConfig:
    return ScoreConfig.model_validate(
        {"artifact": artifact, "input": source, "variant": "fp32", "window_rows": ROWS_A_CHUNK, **settings}
    )


@pytest.mark.parametrize(
    ("at", "number", "continued"),
    [
        ("Journal.add", 3, 40),  # the third part is on the disk and not in the journal
        ("Path.replace", 4, 20),  # the second part is half there
        ("Path.replace", 2 * CHUNKS + 1, 0),  # published, and nothing is in its place yet
        ("Path.replace", 2 * CHUNKS + 2, 0),  # the output is in its place, and the side file is not
    ],
)
def test_a_killed_run_continues(
    tiny_artifact: Path, source: Path, whole: tuple[bytes, bytes], tmp_path: Path, at: str, number: int, continued: int
) -> None:
    config, out = config_of(tiny_artifact, source), tmp_path / "out.jsonl"
    score_until_killed(config, out, at, number)
    with (folder_of(out) / "journal.jsonl").open("a") as file:
        file.write("" if number > 2 * CHUNKS else '{"chunk": 4, "sc')  # a line that was cut
    seen: list[Progress] = []
    result = score(config, out, progress=seen.append)
    assert (result.scored, result.rejected, result.continued) == (95, 5, continued)
    assert len(seen) == (
        0 if number > 2 * CHUNKS else CHUNKS - continued // ROWS_A_CHUNK
    )  # what was done is not done again
    assert (out.read_bytes(), rejects_of(out).read_bytes()) == whole
    assert sorted(tmp_path.iterdir()) == [out, rejects_of(out)]


def test_a_changed_command_input_or_artifact_is_refused(
    artifact: Path, source: Path, whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    copy, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    copy.write_bytes(source.read_bytes())
    config = config_of(artifact, copy)
    score_until_killed(config, out, "Journal.add", 2)
    for changes, word in (({"parameters": '{"top_k": 1}'}, "settings"), ({"variant": "int8"}, "variant")):
        with pytest.raises(TuneportError, match=f"begun with another {word}; .*--overwrite"):
            score(config.model_copy(update=changes), out)
    change_byte(copy, 10)
    with pytest.raises(TuneportError, match="another input"):
        score(config, out)
    copy.write_bytes(source.read_bytes())
    result = score(config.model_copy(update={"parameters": '{"threshold": 0.0}'}), out, overwrite=True)
    assert (result.scored, result.continued) == (95, 0)
    assert out.read_bytes() == whole[0]


def test_a_part_that_changed_on_the_disk_is_noticed(tiny_artifact: Path, source: Path, tmp_path: Path) -> None:
    config, out = config_of(tiny_artifact, source), tmp_path / "out.jsonl"
    score_until_killed(config, out, "Journal.add", 3)
    change_byte(folder_of(out) / "000000001.scored")
    with pytest.raises(TuneportError, match=r"000000001\.scored is missing or has changed; remove"):
        score(config, out)


def test_a_full_disk_is_one_line_and_the_run_continues(
    tiny_artifact: Path, source: Path, whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    options = ["--variant", "fp32", "--window-rows", str(ROWS_A_CHUNK)]
    limit = len(whole[0]) // 2  # parts are smaller, and the joined file is not
    # Not by `preexec_fn`: a fork of this process runs callbacks of libraries, gRPC's among them, which print.
    limited = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    start = [sys.executable, "-c", f"{limited}; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"]
    command = [*start, "-m", "tuneport", "score", str(tiny_artifact), str(source), "--out", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"error: no space left on the disk of {out}; free some space; the same command continues\n"
    assert not out.exists()
    assert score(config_of(tiny_artifact, source), out).continued == CHUNKS * ROWS_A_CHUNK
    assert out.read_bytes() == whole[0]


def test_two_processes_do_not_write_one_output(tiny_artifact: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    folder_of(out).mkdir()
    with (folder_of(out) / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TuneportError, match="another process is writing"):
            score(config_of(tiny_artifact, source), out)


def test_several_processes_write_what_one_does(
    tiny_artifact: Path, source: Path, whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    score(config_of(tiny_artifact, source, workers=2), out)
    assert (out.read_bytes(), rejects_of(out).read_bytes()) == whole


def test_memory_does_not_grow_with_the_input(tiny_artifact: Path, tmp_path: Path) -> None:
    texts = random_texts(5)
    rows = ({"id": i, "text": next(texts), "rest": "x" * 16000} for i in range(3000))
    source = write_table(tmp_path / "in.jsonl", rows)
    code = """
import sys
from pathlib import Path
from tuneport.scoring.config import ScoreConfig
from tuneport.scoring.pipeline import score

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

config = ScoreConfig(artifact=Path(sys.argv[1]), input=Path(sys.argv[2]), variant="fp32", window_rows=64)
sizes = []
score(config, Path(sys.argv[3]), progress=lambda _: sizes.append(resident()))
print(len(sizes), max(sizes[8:]) - sizes[8])
"""
    command = [sys.executable, "-c", code, tiny_artifact, source, tmp_path / "out.jsonl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    windows, growth = map(int, done.stdout.split())
    assert windows == 47
    assert source.stat().st_size > 48e6
    assert growth < 12e6


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "parent"])
def test_several_processes_end_together_and_continue(tiny_artifact: Path, tmp_path: Path, victim: str) -> None:
    texts = random_texts(5)
    source = write_table(tmp_path / "in.jsonl", ({"id": i, "text": next(texts)} for i in range(6_000)))
    out = tmp_path / "out.jsonl"
    options = ["--variant", "fp32", "--window-rows", "20", "--workers", "2"]
    command = [sys.executable, "-m", "tuneport", "score", str(tiny_artifact), str(source), "--out", str(out), *options]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    journal = folder_of(out) / "journal.jsonl"
    while not journal.is_file() or journal.read_bytes().count(b"\n") < 10:
        time.sleep(0.05)
        assert process.poll() is None
    children = [
        int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]  # fmt: skip
    assert len(children) == 2
    os.kill(children[0] if victim == "worker" else process.pid, signal.SIGKILL)
    error = process.communicate(timeout=60)[1]
    if victim == "worker":
        assert process.returncode == 1
        assert "error: a worker ended with exit code -9; the same command continues" in error
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)
    result = score(config_of(tiny_artifact, source, window_rows=20), out)
    assert result.continued >= 180
    lines = out.read_text().splitlines()
    assert [int(line[7 : line.index(",")]) for line in lines] == list(range(6_000))
