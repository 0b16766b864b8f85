"""Output folders that appear whole or not at all, and hashes."""

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.disks import disk_of

from tuneport.errors import TuneportError
from tuneport.folders import check_out, digest, new_folder, sha256

MARKER = "done.json"


def write_folder(out: Path, content: str = "new", *, overwrite: bool = False) -> None:
    with new_folder(out, marker=MARKER, overwrite=overwrite) as folder:
        (folder / MARKER).write_text(content)


def fail_halfway(out: Path, error: BaseException) -> None:
    with new_folder(out, marker=MARKER, overwrite=True) as folder:
        (folder / "half").write_text("half")
        raise error


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(64, tmp_path) as disk:
        yield disk


def test_the_folder_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out, marker=MARKER) as folder:
        (folder / MARKER).write_text("new")
        assert not out.exists()
    assert names(out) == [MARKER]
    assert names(out.parent) == ["out"]


def test_a_folder_that_exists_is_refused_and_kept(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", "old")
    with pytest.raises(TuneportError, match=r"exists.*--overwrite"):
        write_folder(tmp_path / "out")
    assert (tmp_path / "out" / MARKER).read_text() == "old"


def test_overwrite_replaces_the_whole_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", "old")
    (tmp_path / "out" / "other").write_text("of the old one")
    write_folder(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / MARKER).read_text() == "new"
    assert names(tmp_path / "out") == [MARKER]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("is_file", [True, False])
def test_overwrite_spares_what_lacks_the_marker(tmp_path: Path, is_file: bool) -> None:
    precious = tmp_path / "home" if is_file else tmp_path / "home" / "thesis.txt"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    with pytest.raises(TuneportError, match=MARKER):
        write_folder(tmp_path / "home", overwrite=True)
    assert precious.read_text() == "precious"


def test_overwrite_takes_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out", overwrite=True)
    assert names(tmp_path / "out") == [MARKER]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_failure_leaves_nothing_new_and_keeps_the_old(tmp_path: Path, error: BaseException, is_there: bool) -> None:
    if is_there:
        write_folder(tmp_path / "out", "old")
    with pytest.raises(type(error)):
        fail_halfway(tmp_path / "out", error)
    assert names(tmp_path) == (["out"] if is_there else [])
    assert not is_there or (tmp_path / "out" / MARKER).read_text() == "old"


def test_a_failed_rename_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "out", "old")
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "out", overwrite=True)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / MARKER).read_text() == "old"


def test_a_full_disk_is_one_line_and_keeps_the_old_folder(small_disk: Path) -> None:
    write_folder(small_disk / "out", "old")
    with (
        pytest.raises(TuneportError, match="no space left"),
        new_folder(small_disk / "out", marker=MARKER, overwrite=True) as folder,
    ):
        (folder / "big").write_bytes(b"x" * 200_000)
    assert names(small_disk) == ["out"]
    assert (small_disk / "out" / MARKER).read_text() == "old"


def test_a_file_size_limit_is_one_line_too(tmp_path: Path) -> None:
    script = f"""
import resource, signal
from pathlib import Path
from tuneport.folders import new_folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with new_folder(Path({str(tmp_path / "out")!r}), marker="x") as folder:
    (folder / "big").write_bytes(b"x" * 10000)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "tuneport.errors.TuneportError: no space left" in done.stderr
    assert names(tmp_path) == []


def test_a_library_s_own_words_for_a_full_disk_are_understood(tmp_path: Path) -> None:
    with pytest.raises(TuneportError, match="no space left"), new_folder(tmp_path / "out", marker=MARKER):
        raise RuntimeError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")


def test_an_error_names_the_folder_and_not_the_temporary_one(tmp_path: Path) -> None:
    with pytest.raises(TuneportError) as raised, new_folder(tmp_path / "out", marker=MARKER) as folder:
        raise TuneportError(f"{folder}/x is damaged", f"restore {folder}/x")
    assert str(raised.value) == f"{tmp_path}/out/x is damaged; restore {tmp_path}/out/x"
    assert (raised.value.problem, raised.value.remedy) == tuple(str(raised.value).split("; "))


def test_the_remedy_names_what_the_folder_was_given_as(tmp_path: Path) -> None:
    write_folder(tmp_path / "out")
    for given_as in ("--out", "folder"):
        with pytest.raises(TuneportError, match=f"exists; choose another {given_as}, or pass --overwrite"):
            check_out(tmp_path / "out", marker=MARKER, overwrite=False, given_as=given_as)


def test_another_error_passes_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), new_folder(tmp_path / "out", marker=MARKER):
        raise PermissionError(errno.EACCES, "no")


def dead_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_leftovers_of_a_dead_process_are_removed_and_a_living_one_s_kept(tmp_path: Path) -> None:
    mine, living = tmp_path / f".out.partial-{dead_pid()}", tmp_path / f".out.partial-{os.getppid()}"
    other = tmp_path / f".other.partial-{dead_pid()}"
    for folder in (mine, living, other):
        folder.mkdir()
    write_folder(tmp_path / "out")
    assert names(tmp_path) == sorted([living.name, other.name, "out"])


def test_a_process_that_died_between_its_renames_loses_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / f".out.replaced-{dead_pid()}")
    with pytest.raises(TuneportError, match="exists"):
        write_folder(tmp_path / "out")
    assert (tmp_path / "out" / MARKER).read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_what_a_dead_process_had_replaced_is_removed(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", "old")
    (tmp_path / f".out.replaced-{dead_pid()}").mkdir()
    write_folder(tmp_path / "out", overwrite=True)
    assert names(tmp_path) == ["out"]


def test_a_name_with_wildcards_is_a_name(tmp_path: Path) -> None:
    leftover = tmp_path / f".a[b]*.partial-{dead_pid()}"
    other = tmp_path / f".ab.partial-{dead_pid()}"
    leftover.mkdir()
    other.mkdir()
    write_folder(tmp_path / "a[b]*")
    assert names(tmp_path) == sorted([other.name, "a[b]*"])


def test_a_parent_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TuneportError, match="file is a file"):
        write_folder(tmp_path / "file" / "out")


@pytest.mark.parametrize("folder", ["/proc/tuneport", "/sys/tuneport", "/dev/null"])
def test_a_place_that_nothing_can_be_written_to_is_refused_before_any_work(folder: str) -> None:
    """Of /proc and /sys the permissions allow it to an administrator, and the file system does not."""
    with pytest.raises(TuneportError, match=r"/out cannot be created.*; choose another --out"):
        check_out(Path(folder) / "out", marker="marker", overwrite=True)


@pytest.mark.parametrize("is_link", [False, True])
def test_a_folder_that_cannot_be_replaced_is_refused_before_any_work(
    is_link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests run as root, to whom no permission is refused."""
    old = tmp_path / "read-only" / "out"
    write_folder(old, "old")
    out = tmp_path / "link" if is_link else old
    if is_link:
        out.symlink_to(old)
    make = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **where: (refuse if where["dir"] == old.parent else make)(**where))
    with pytest.raises(TuneportError, match=r"(out|link) cannot be replaced \(Permission denied\); choose"):
        check_out(out, marker=MARKER, overwrite=True)
    assert (old / MARKER).read_text() == "old"


def test_a_folder_that_cannot_be_moved_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "out", "old")
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(TuneportError, match=r"out cannot be written \(Permission denied\); choose another --out"):
        write_folder(tmp_path / "out", overwrite=True)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / MARKER).read_text() == "old"


def test_a_mount_point_cannot_be_replaced(small_disk: Path) -> None:
    with pytest.raises(TuneportError, match="it is a mount point; choose a folder within it"):
        check_out(small_disk, marker=MARKER, overwrite=True)


def test_check_out_lets_a_new_name_pass_and_makes_nothing(tmp_path: Path) -> None:
    check_out(tmp_path / "out", marker=MARKER, overwrite=False)
    assert names(tmp_path) == []


def test_digest_is_that_of_canonical_json() -> None:
    assert digest({"b": 1, "a": "é"}) == digest({"a": "é", "b": 1})
    assert digest({"a": 1}) != digest({"a": "1"})


def test_sha256_is_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
