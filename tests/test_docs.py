"""The documents name every setting, and no other."""

import re

from helpers import ROOT

from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.serve.settings import Settings


def _first_cells(document: str) -> list[str]:
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[^|]+`) \|", text, re.M)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_setting_of_a_run_is_in_the_table() -> None:
    documented = set(_first_cells("finetuning.md"))
    tasks = {name for name in documented if "-" in name} | {"regression", "translation", "summarization"}
    assert documented - tasks == set(FinetuneConfig.model_fields)


def test_every_variable_of_the_service_is_in_the_table_with_its_default() -> None:
    documented = set(_first_cells("deployment.md"))
    assert documented >= {f"TUNEPORT_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in documented if name.startswith("TUNEPORT_")} <= {
        f"TUNEPORT_{name.upper()}" for name in Settings.model_fields
    }
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int | float):
            assert f"| `TUNEPORT_{name.upper()}` | {field.default:.0f} |" in text
