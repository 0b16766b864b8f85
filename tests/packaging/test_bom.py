"""The software bill of materials of an image, and what is looked up for advisories."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from kit import ROOT


@pytest.fixture
def deploy(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The scripts of deploy/ as modules."""
    monkeypatch.syspath_prepend(str(ROOT / "deploy"))
    names = ("pin", "sbom", "audit")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return {name: importlib.import_module(name) for name in names}


def test_the_bill_of_materials_lists_every_package_with_its_hash(deploy: dict[str, ModuleType], tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    text = (ROOT / "serve" / "requirements.txt").read_text()
    head, pins = text.partition("--only-binary :all:\n")[::2]
    first = pins[: pins.index("\nbentoml==")].count("==")  # parsing all takes seconds
    requirements.write_text(f"{head}{pins[: pins.index(chr(10) + 'bentoml==') + 1]}")
    deploy["sbom"].write_bom(requirements, tmp_path / "bom.json")
    content = json.loads((tmp_path / "bom.json").read_text())
    assert (content["bomFormat"], content["specVersion"]) == ("CycloneDX", "1.6")
    assert len(content["components"]) == first
    for component in content["components"]:
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"
        assert component["externalReferences"][0]["hashes"][0]["alg"] == "SHA-256"


def test_the_bill_of_materials_of_a_bento_is_of_what_it_packs(deploy: dict[str, ModuleType], bento_tag: str) -> None:
    [requirements] = deploy["sbom"].sources([bento_tag]).values()
    assert requirements.read_bytes() == (ROOT / "serve" / "requirements.txt").read_bytes()
    assert deploy["sbom"].sources([]).keys() == {name.removesuffix(".txt") for name in deploy["pin"].IMAGES}


def test_the_audit_sees_every_pin(deploy: dict[str, ModuleType]) -> None:
    for name in deploy["pin"].IMAGES:
        path = ROOT / "serve" / name
        pins = deploy["pin"].pins_of(path)
        assert len(pins) == path.read_text().count("==")
        assert all(line.count("==") == 1 and "--" not in line for line in pins)


def test_a_package_that_cannot_be_audited_is_no_success(
    deploy: dict[str, ModuleType], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """pip-audit itself only lists it; a URL and a marker that does not hold are decided without the service."""
    for line, code in (("a @ https://127.0.0.1:9/a.whl", 1), ('a==1 ; python_version < "3"', 0)):
        (tmp_path / "requirements.txt").write_text(line)
        assert deploy["audit"].audit(tmp_path / "requirements.txt", []) == code
    assert "cannot be pinned" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("wheel", "expected"),
    [
        ("numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl", True),
        ("numpy-2.4.6-cp311-cp311-manylinux_2_28_aarch64.whl", True),
        ("numpy-2.4.6-cp312-cp312-manylinux_2_28_x86_64.whl", False),
        ("numpy-2.4.6-cp311-cp311-win_amd64.whl", False),
        ("numpy-2.4.6-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("cryptography-50.0.2-cp38-abi3-manylinux_2_34_x86_64.whl", True),
        ("cryptography-50.0.2-cp314-abi3-manylinux_2_34_x86_64.whl", False),
        ("six-1.17.0-py2.py3-none-any.whl", True),
    ],
)
def test_hashes_are_of_the_wheels_that_an_image_may_install(
    deploy: dict[str, ModuleType], wheel: str, expected: bool
) -> None:
    assert deploy["pin"].fits(wheel) is expected
