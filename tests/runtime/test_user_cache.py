"""The user's cache: where it is, and that what it holds is whole."""

from pathlib import Path

import pytest

from tuneport.runtime.user_cache import cache_folder, fill_folder, write_file


def test_the_cache_is_where_the_user_says_or_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder("a", "b") == Path("/somewhere/tuneport/a/b")
    for unset in ("", None):
        monkeypatch.setenv("XDG_CACHE_HOME", "") if unset == "" else monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", "/home/user")
        assert cache_folder("a") == Path("/home/user/.cache/tuneport/a")


def test_a_user_without_a_home_has_a_cache_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    assert cache_folder("a") == Path("/.cache/tuneport/a")


def test_a_folder_is_filled_once_and_whole_or_not_at_all(tmp_path: Path) -> None:
    source, target = tmp_path / "engine", tmp_path / "cache" / "key" / "graph"
    source.write_bytes(b"one")
    with pytest.raises(FileNotFoundError):
        fill_folder(target, [source, tmp_path / "missing"])
    assert list(target.parent.iterdir()) == []
    fill_folder(target, [source])
    (target / "engine").write_bytes(b"rewritten")
    fill_folder(target, [source])
    assert (target / "engine").read_bytes() == b"rewritten"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_another_process_filled_meanwhile_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "engine", tmp_path / "cache" / "graph"
    source.write_bytes(b"ours")
    rename = Path.rename

    def lose(self: Path, other: Path) -> Path:
        target.mkdir()
        (target / "engine").write_bytes(b"theirs")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", lose)
    fill_folder(target, [source])
    assert (target / "engine").read_bytes() == b"theirs"
    assert list(target.parent.iterdir()) == [target]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "a" / "speeds.json"
    for content in (b"one", b"two"):
        write_file(file, content)
        assert file.read_bytes() == content
    assert list(file.parent.iterdir()) == [file]
