"""The whole chain on the embedded model and data, as `make demo` runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kit import ROOT

from tuneport.runtime.verify import verify
from tuneport.schema.loading import load_manifest
from tuneport.stages.benchmarks.report import Report


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_trains_proves_serves_and_measures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tuneport", "demo", "--out", tmp_path / "demo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "demo" / "run" / "run.json").read_text())
    assert run["metrics"]["test"]["accuracy"] >= 0.94

    manifest = load_manifest(tmp_path / "demo" / "artifact")
    speeds = {variant.name: variant.evidence.timing.texts_per_s for variant in manifest.variants}
    is_fastest = manifest.default_variant == max(speeds, key=speeds.__getitem__)
    assert is_fastest != ("no proof" in manifest.default_because)
    assert {name for name, *_ in verify(tmp_path / "demo" / "artifact")} == speeds.keys()
    assert manifest.provenance.seed == run["seed"]
    assert manifest.provenance.data is not None
    assert manifest.provenance.data.fingerprint == run["data"]["fingerprint"]

    report = json.loads((tmp_path / "demo" / "report" / "report.json").read_text())
    results = {result["name"]: result for result in report["results"]}
    assert {"torch fp32", *speeds} <= results.keys()
    assert all(result["metric"]["value"] >= 0.94 for result in results.values())
    columns, _ = Report.model_validate(report).cells()
    assert {"accuracy", "agreement", "p50 ms", "p99 ms", "size", "speed-up"} <= set(columns)
    assert all(column in done.stdout for column in columns)
    assert f"tuneport serve {tmp_path / 'demo' / 'artifact'}" in done.stdout
