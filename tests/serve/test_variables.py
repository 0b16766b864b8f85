"""`TUNEPORT_…` variables: bounds, names that are none, and the warning at the start of `tuneport serve`."""

from pathlib import Path

import pytest
from kit.command import tuneport

from tuneport.errors import TuneportError
from tuneport.stages.serve.settings import MAX_THREADS, OWN_VARIABLES, read_settings, unknown_variables

KUBERNETES = (
    "TUNEPORT_SERVICE_HOST", "TUNEPORT_SERVICE_PORT", "TUNEPORT_SERVICE_PORT_HTTP", "TUNEPORT_PORT",
    "TUNEPORT_PORT_3000_TCP", "TUNEPORT_PORT_3000_TCP_ADDR", "TUNEPORT_NEWS_SERVICE_HOST", "TUNEPORT_NEWS_PORT",
)  # fmt: skip
"""What Kubernetes sets beside the Services `tuneport` and `tuneport-news`."""


@pytest.mark.parametrize("name", ["THREADS", "WORKERS", "ENGINES"])
def test_threads_and_workers_have_an_upper_bound(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TUNEPORT_{name}", str(MAX_THREADS))
    read_settings()
    monkeypatch.setenv(f"TUNEPORT_{name}", str(MAX_THREADS + 1))
    with pytest.raises(TuneportError, match=f"TUNEPORT_{name}: Input should be less than or equal to {MAX_THREADS}"):
        read_settings()
    assert tuneport("predict", "a", "--threads", "100000").code == 2


def test_only_names_of_nobody_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KUBERNETES, *OWN_VARIABLES):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("TUNEPORT_API_KEYS", "secret")
    assert unknown_variables() == []
    monkeypatch.setenv("TUNEPORT_COLOUR", "red")
    assert unknown_variables() == ["TUNEPORT_COLOUR"]


def test_serve_warns_once_of_an_unknown_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPORT_COLOUR", "red")
    answer = tuneport("serve", tmp_path / "absent")
    assert answer.code == 1
    assert answer.err.count("TUNEPORT_COLOUR") == 1
    assert "warning: TUNEPORT_COLOUR is no setting of the service" in answer.err
