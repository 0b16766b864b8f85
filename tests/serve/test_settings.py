"""Settings of a deployment, and an artifact that does not fit them."""

from pathlib import Path

import pytest

from tuneport.errors import EngineError, TuneportError
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.settings import Settings, read_settings


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPORT_MAX_CLIENT_BATCH_SIZE", "7")
    monkeypatch.setenv("TUNEPORT_VARIANT", "int8")
    assert read_settings() == Settings(max_client_batch_size=7, variant="int8")


def test_files_of_any_setting_are_absolute_for_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [name for name, field in Settings.model_fields.items() if "Path" in str(field.annotation)]
    assert "tls_keyfile" in names
    paths = Settings(**{name: Path(name) for name in names}).paths()
    assert paths == {f"TUNEPORT_{name}".upper(): str(tmp_path / name) for name in names}
    assert Settings().paths() == {}


def test_every_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPORT_MAX_CLIENT_BATCH_SIZE", "0")
    monkeypatch.setenv("TUNEPORT_REQUEST_TIMEOUT_S", "soon")
    with pytest.raises(TuneportError, match=r"TUNEPORT_MAX_CLIENT_BATCH_SIZE.*TUNEPORT_REQUEST_TIMEOUT_S"):
        read_settings()


def test_a_variant_for_another_device_is_refused(tiny_artifact: Path) -> None:
    with pytest.raises(EngineError, match="is for cpu, and cuda was asked for"):
        Inference.open(tiny_artifact, Settings(device="cuda"))
