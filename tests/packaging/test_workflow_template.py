"""The workflow template for users' repositories: its steps are run as a runner does, on a tiny model."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit import ROOT

WORKFLOW = yaml.safe_load((ROOT / "deploy" / "github" / "model.yml").read_text(encoding="utf-8"))
STEPS: dict[str, dict[str, Any]] = {
    step["name"]: step for step in WORKFLOW["jobs"]["gate"]["steps"] if "run" in step
}  # fmt: skip


def run_step(name: str, folder: Path, **changes: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ,
        **WORKFLOW["env"],
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        **changes,
    }
    command = ["bash", "-e", "-o", "pipefail", "-c", STEPS[name]["run"]]  # as GitHub runs a step
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_only_a_pull_request_with_every_required_variant_passes(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "model").symlink_to(tiny_artifact)
    assert run_step("Require variants", tmp_path).returncode == 0
    failed = run_step("Require variants", tmp_path, REQUIRED_VARIANTS="fp32 openvino-bf16")
    assert (failed.returncode, failed.stderr) == (1, "openvino-bf16 did not pass: it was not built\n")
    assert run_step("Show the model card", tmp_path).returncode == 0
    assert (tmp_path / "summary.md").read_text().startswith("# tiny")


def test_what_is_installed_has_the_extras_of_the_commands() -> None:
    """torch comes with `export`, and the engine that it is compared with does not."""
    extras = set(re.findall(r"tuneport\[(.*)\] @ ", WORKFLOW["env"]["TUNEPORT"])[0].split(","))
    assert {"cpu", "export"} <= extras


@pytest.mark.slow
def test_the_steps_export_verify_and_build_a_users_model(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    paths = {"CHECKPOINT": str(tiny_checkpoint), "DATA": str(tiny_data)}
    for name in STEPS:
        if name not in ("Install", "Check the machine"):
            done = run_step(name, tmp_path, **paths)
            assert done.returncode == 0, f"{name}: {done.stderr}"
    assert (tmp_path / "model.bento").stat().st_size > 1000
    wrong = {**paths, "DATA": str(tmp_path / "absent.jsonl")}
    assert run_step("Export, and compare every variant with torch", tmp_path, **wrong).returncode == 1
