"""`tuneport.finetune`, `tuneport.export` and `tuneport.load`, as a notebook calls them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kit.data import QUICK, read_rows
from kit.encoders import LABELS

import tuneport
from tuneport.errors import CheckpointError, TuneportError
from tuneport.schema.loading import load_manifest
from tuneport.schema.run import Run

HEAVY = ("pydantic", "numpy", "torch", "transformers", "onnxruntime", "bentoml", "typer")


def loaded_after(statement: str, names: tuple[str, ...]) -> list[str]:
    """Return those of some modules that a fresh interpreter has loaded after a statement."""
    script = f"{statement}\nimport sys, json; print(json.dumps([n for n in {names!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import pydantic", HEAVY) == ["pydantic"]
    assert loaded_after("import tuneport", (*HEAVY, "tuneport.errors", "tuneport.stages")) == []


def test_listing_options_loads_no_library_of_a_stage() -> None:
    libraries = tuple(name for name in HEAVY if name not in ("pydantic", "typer"))
    assert loaded_after("import tuneport.cli.app", libraries) == []


@pytest.mark.usefixtures("_quick_exports")
def test_a_model_goes_from_data_to_predictions(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"rows are also in|are truncated") as caught:
        run = tuneport.finetune(
            task="text-classification", model=tiny_checkpoint, data=tiny_data, out=tmp_path / "run", **QUICK
        )
    assert tuple(str(warning.message) for warning in caught) == run.warnings
    assert run == Run.model_validate_json((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert run.config["max_steps"] == QUICK["max_steps"]

    steps: list[str] = []
    manifest = tuneport.export(
        str(tmp_path / "run"), out=str(tmp_path / "Film Reviews"), variants=["fp32"], progress=steps.append
    )
    assert manifest == load_manifest(tmp_path / "Film Reviews")
    assert (manifest.name, [variant.name for variant in manifest.variants]) == ("film-reviews", ["fp32"])
    assert manifest.provenance.data is not None
    assert manifest.provenance.data.source == str(tiny_data)
    assert len(steps) > 3

    texts = [row["text"] for row in read_rows(tiny_data / "test.jsonl")]
    predictions = tuneport.load(tmp_path / "Film Reviews").predict(texts)
    assert len(predictions) == len(texts)
    assert {prediction["label"] for prediction in predictions} <= set(LABELS)


def test_a_variant_is_loaded_by_name(tiny_artifact: Path) -> None:
    predictor = tuneport.load(str(tiny_artifact), "int8")
    assert predictor.describe()["variant"] == "int8"
    assert predictor.predict(["bank"]) == tuneport.load(tiny_artifact, variant="int8").predict(["bank"])


def test_wrong_settings_are_named_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(TuneportError, match=r"max_drop = 2: .*; precision is not a setting.*; tuneport export --help"):
        tuneport.export(tmp_path, out=tmp_path / "out", max_drop=2, precision="int8")
    with pytest.raises(
        TuneportError,
        match=r"seed = 'x': .*; epochs is not a setting \(did you mean num_train_epochs\?\); tuneport finetune --help",
    ):
        tuneport.finetune(task="regression", model="m", data="d", out=tmp_path / "out", seed="x", epochs=2)
    with pytest.raises(CheckpointError):
        tuneport.export(tmp_path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_quick_exports")
def test_an_existing_folder_is_replaced_only_on_demand(tiny_checkpoint: Path, artifact: Path) -> None:
    with pytest.raises(TuneportError, match="exists"):
        tuneport.export(tiny_checkpoint, out=artifact)
    assert tuneport.export(tiny_checkpoint, out=artifact, overwrite=True).default_variant == "fp32"
    assert load_manifest(artifact).name == "artifact"


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(tuneport.__file__).parent / "py.typed").is_file()
