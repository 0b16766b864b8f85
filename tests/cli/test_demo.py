"""The whole chain on the embedded model and data, as `make demo` runs it; its data and its choice of variants."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kit import ROOT
from kit.data import read_rows

from tuneport.cli.demo_chain import EXCERPT_WORDS, likely_variants
from tuneport.cli.demo_chain import ROWS as DEMO_ROWS
from tuneport.host import Host
from tuneport.runtime.verify import verify
from tuneport.schema.loading import load_manifest
from tuneport.stages.export.card import summary
from tuneport.stages.finetune.embedded import ROWS, write_bbc_news


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_trains_proves_serves_and_measures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tuneport", "demo", "--out", tmp_path / "demo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "demo" / "run" / "run.json").read_text())
    assert run["metrics"]["test"]["accuracy"] >= 0.91

    manifest = load_manifest(tmp_path / "demo" / "artifact")
    speeds = {variant.name: variant.evidence.timing.texts_per_s for variant in manifest.variants}
    is_fastest = manifest.default_variant == max(speeds, key=speeds.__getitem__)
    assert is_fastest != ("no proof" in manifest.default_because)
    assert {name for name, *_ in verify(tmp_path / "demo" / "artifact")} == speeds.keys()
    assert manifest.provenance.seed == run["seed"]
    assert manifest.provenance.data is not None
    assert manifest.provenance.data.fingerprint == run["data"]["fingerprint"]

    metrics = [variant.evidence.metric for variant in manifest.variants]
    assert all(metric and metric.value >= 0.9 for metric in metrics)
    columns, rows = summary(manifest)
    assert [row[0].removesuffix(" *") for row in rows] == ["torch fp32", *speeds]
    assert all(cell in done.stdout for cell in (*columns, *(cell for row in rows for cell in row)))
    assert done.stdout.count(", about ") == 4
    table = [line for line in done.stdout.splitlines() if line.startswith(("┃", "│"))]
    assert max(map(len, table)) <= 80
    assert f"tuneport serve {tmp_path / 'demo' / 'artifact'}" in done.stdout


@pytest.mark.parametrize(
    ("rows", "words"), [(DEMO_ROWS, EXCERPT_WORDS), (ROWS, (16, 32, 64, 96))], ids=["demo", "all"]
)  # fmt: skip
def test_no_excerpt_is_the_beginning_of_another(rows: dict[str, int], words: tuple[int, ...], tmp_path: Path) -> None:
    write_bbc_news(tmp_path, rows=rows, excerpt_words=words)
    splits = {split: read_rows(tmp_path / f"{split}.jsonl") for split in rows}
    assert {split: len(content) for split, content in splits.items()} == rows
    beginnings = [
        " ".join(row["text"].split()[: min(words)]).casefold() for content in splits.values() for row in content
    ]
    assert len(set(beginnings)) == len(beginnings) == sum(rows.values())
    assert {len(row["text"].split()) for content in splits.values() for row in content} == {*words}
    assert {row["label"] for row in splits["test"]} == {row["label"] for row in splits["train"]}


def test_only_variants_that_may_be_the_fastest_are_built() -> None:
    here = Host.here()
    without = likely_variants(here.model_copy(update={"instructions": ("avx2",)}))
    assert {"fp32", "int8", "openvino-int8"} <= {*without}
    assert "openvino" not in without
    assert "openvino-int8" not in likely_variants(here.model_copy(update={"instructions": ("amx_bf16",)}))
    assert [name for name in without if name.startswith("pruned")] == ["pruned-int8"]
