"""Which variants can be built here: by the device, the packages, the processor or GPU, and the data."""

import importlib.util

from tuneport.errors import TuneportError
from tuneport.host import Host
from tuneport.runtime.backends.libraries import has_tensorrt
from tuneport.schema.artifact import Device
from tuneport.tasks import FamilyName

from .config import MIN_CALIBRATION_ROWS
from .gate import GIVE_DATA
from .passes.nncf import nncf_int8
from .variants import VARIANTS, VariantSpec


def select_variants(
    names: tuple[str, ...],
    device: Device,
    *,
    rows: int | None = None,
    unlabelled: bool = False,
    family: FamilyName | None = None,
) -> dict[str, VariantSpec]:
    """Return the variants to build, fp32 first and always; a TuneportError for combinations that cannot work.

    `family` is that of the model and `rows` the number of rows of data, `unlabelled` or not; None while they are not
    known. Without names, these are the default variants that the processor, the installed packages and the data allow
    on the device.
    """
    if unknown := [name for name in names if name not in VARIANTS]:
        raise TuneportError(f"unknown variants {unknown}", f"choose among {', '.join(VARIANTS)}")

    def obstacle_of(name: str) -> tuple[str, str] | None:
        return _obstacle(name, device, rows, unlabelled, family)

    for name in names:
        if obstacle := obstacle_of(name) or _missing_data(name, rows):
            possible = [each for each in VARIANTS if not obstacle_of(each)]
            raise TuneportError(f"{name} {obstacle[0]}", f"{obstacle[1]}, or choose among {', '.join(possible)}")
    wanted = names or tuple(
        name
        for name, spec in VARIANTS.items()
        if device in spec.default_on and not _obstacle(name, device, rows, unlabelled, family or "encoder")
    )
    return {name: spec for name, spec in VARIANTS.items() if name == "fp32" or name in wanted}


def _obstacle(
    name: str, device: Device, rows: int | None, unlabelled: bool, family: FamilyName | None
) -> tuple[str, str] | None:
    """Return why a variant cannot be built here, and the remedy; None if it can."""
    spec = VARIANTS[name]
    if family is not None and family not in spec.passes:
        return f"is for {' and '.join(spec.passes)} models", "leave it out"
    if device not in spec.devices:
        return f"does not run on {device}", "give another --device"
    if spec.student_of and unlabelled:
        return "is a student, which is judged by the metric", "give labelled data, without --unlabelled"
    return _missing_package(spec) or _missing_hardware(spec, device) or _missing_rows(spec, rows)


def _missing_package(spec: VariantSpec) -> tuple[str, str] | None:
    if spec.engine == "openvino" and importlib.util.find_spec("openvino") is None:
        return "needs OpenVINO", "install tuneport[openvino]"
    if any(nncf_int8 in passes for passes in spec.passes.values()) and importlib.util.find_spec("nncf") is None:
        return "needs NNCF", "install tuneport[export]"
    if spec.uses_tensorrt and not has_tensorrt():
        return "needs TensorRT", "install tuneport[tensorrt]"
    return None


def _missing_hardware(spec: VariantSpec, device: Device) -> tuple[str, str] | None:
    host = Host.here()
    if device == "cpu" and spec.precision == "bf16" and not host.has_bf16:
        return "needs a processor with bfloat16 instructions, which this is not", "export on one that has them"
    # Without NVML there is no GPU to read this from, and the gate decides.
    if device == "cuda" and host.gpus and not host.gpus[0].has(spec.min_compute_capability):
        problem = f"needs compute capability {spec.min_compute_capability}, and {host.gpus[0].name} has"
        return f"{problem} {host.gpus[0].compute_capability}", "export on a GPU that has it"
    return None


def _missing_rows(spec: VariantSpec, rows: int | None) -> tuple[str, str] | None:
    if spec.needs_data and rows is not None and rows < MIN_CALIBRATION_ROWS:
        problem = f"is calibrated on data, of which there are {rows} rows"
        return problem, f"give at least {MIN_CALIBRATION_ROWS} with --data"
    return None


def _missing_data(name: str, rows: int | None) -> tuple[str, str] | None:
    """Return why a variant that was named could not pass its gate, and the remedy; None if it could."""
    if rows == 0 and not VARIANTS[name].is_exact:
        return "gives up precision and is judged on data, and there is none", GIVE_DATA
    return None
