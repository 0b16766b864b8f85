"""onnxruntime-gpu, really installed in an environment of its own: what it has, and how tuneport fails on it here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kit import ROOT

from tuneport.doctor.machine import MIN_CUDA
from tuneport.gpu import visible_gpus
from tuneport.runtime.backends.libraries import TENSORRT_LIBRARIES
from tuneport.runtime.backends.session import PROVIDERS
from tuneport.runtime.backends.tensorrt import KEEP_ENGINES, profile_options
from tuneport.runtime.device_options import DeviceOptions
from tuneport.stages.export.variants import VARIANTS

pytestmark = pytest.mark.slow

NEEDS = ("flatbuffers", "numpy", "packaging", "protobuf", "pydantic", "pydantic-core", "annotated-types",
         "typing-extensions", "typing-inspection", "nvidia-ml-py", "tokenizers", "huggingface-hub", "onnx",
         "ml-dtypes")  # fmt: skip
"""What onnxruntime-gpu, and the modules of tuneport that open a session, import; from this environment."""
OPTION = re.compile(rb"[a-z][a-z0-9_]{2,60}")
LIBRARIES = {"cuda": "libonnxruntime_providers_cuda.so", "tensorrt": "libonnxruntime_providers_tensorrt.so"}


def pin(name: str) -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a Python that has onnxruntime-gpu, and the folder of its libraries."""
    folder = tmp_path_factory.mktemp("gpu")
    packages, wheels = folder / "packages", folder / "wheels"
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels)]
    try:
        done = subprocess.run(
            [*download, pin("onnxruntime-gpu")], capture_output=True, text=True, timeout=240, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the package index did not deliver onnxruntime-gpu within 240 s")
    if done.returncode:
        pytest.skip(f"no package index has onnxruntime-gpu here: {done.stderr.strip().splitlines()[-1][:160]}")
    [wheel] = wheels.glob("onnxruntime_gpu-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--target",
        str(packages),
    ]
    subprocess.run([*install, str(wheel), *map(pin, NEEDS)], check=True, capture_output=True, timeout=240)
    wheel.unlink()
    return folder / "venv" / "bin" / "python", packages / "onnxruntime" / "capi"


def run(environment: tuple[Path, Path], script: str) -> Any:
    """Run a script there with tuneport's sources; returns the JSON that it prints last."""
    python, libraries = environment
    paths = os.pathsep.join([str(libraries.parents[1]), str(ROOT)])
    done = subprocess.run(
        [str(python), "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def strings(library: Path) -> set[str]:
    """Return the words in a library that may be names of options."""
    return {each.decode() for each in OPTION.findall(library.read_bytes())}


def test_it_has_the_providers_that_tuneport_names(environment: tuple[Path, Path]) -> None:
    script = "import json, onnxruntime as ort; print(json.dumps([ort.__version__, ort.get_available_providers()]))"
    version, providers = run(environment, script)
    assert version == pin("onnxruntime-gpu").partition("==")[2]
    assert set(PROVIDERS.values()) <= set(providers)


def test_it_is_built_for_the_cuda_that_the_doctor_asks_for(environment: tuple[Path, Path]) -> None:
    script = "import json; from tuneport.doctor.probe import onnxruntime_cuda; print(json.dumps(onnxruntime_cuda()))"
    assert int(run(environment, script).split(".")[0]) == MIN_CUDA


def test_every_option_that_tuneport_sets_is_known_to_its_provider(environment: tuple[Path, Path]) -> None:
    libraries = environment[1]
    for device, names in option_names().items():
        assert names
        unknown = names - strings(libraries / LIBRARIES[device])
        assert not unknown, f"{LIBRARIES[device]} does not know {sorted(unknown)}"
    cuda = (libraries / LIBRARIES["cuda"]).read_bytes()
    assert all(f"{value}\0".encode() in cuda for value in ("kNextPowerOfTwo", "kSameAsRequested"))


def test_onnxruntime_takes_the_values_of_tensorrt_s_options(environment: tuple[Path, Path]) -> None:
    """It reads them before it looks for TensorRT, and raises for the "1" that CUDA's provider takes."""
    options = {
        **VARIANTS["tensorrt-fp16"].provider_options,
        **VARIANTS["tensorrt-int8"].provider_options,
        **KEEP_ENGINES,
        **profile_options(["input_ids", "attention_mask"], typical=(8, 64), largest=(256, 128)),
    }
    script = f"""
import json
import onnxruntime as ort
from onnx import TensorProto, helper
value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", value[:1], value[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
def accepts(options):
    session = ort.capi.onnxruntime_pybind11_state.InferenceSession(ort.SessionOptions(), model, False, False)
    try:
        session.initialize_session(["TensorrtExecutionProvider"], [options], set())
    except RuntimeError:
        return False
    return True
print(json.dumps([accepts({options!r}), accepts({{"trt_fp16_enable": "1"}})]))
"""
    assert run(environment, script) == [True, False]


def option_names() -> dict[str, set[str]]:
    """Collect the names of provider options in tuneport's sources, beside those of a deployment."""
    sources = "".join(path.read_text() for part in ("tuneport", "export") for path in (ROOT / part).rglob("*.py"))
    tensorrt = set(re.findall(r"[\"'](trt_[a-z0-9_]+)[\"']", sources)) | {"trt_engine_cache_enable"}
    cuda = {name for name in KNOWN_CUDA if re.search(rf"[\"']{name}[\"']", sources)}
    return {"cuda": cuda | set(DeviceOptions(1, "kSameAsRequested").cuda_options()), "tensorrt": tensorrt}


KNOWN_CUDA = ("device_id", "enable_cuda_graph", "use_tf32", "sdpa_kernel", "prefer_nhwc", "cudnn_conv_algo_search",
              "do_copy_in_default_stream", "tunable_op_enable", "fuse_conv_bias",
              "enable_skip_layer_norm_strict_mode", "use_ep_level_unified_stream")  # fmt: skip
"""Names that are options of the CUDA provider and no other words in the sources."""


def test_tensorrt_s_provider_is_linked_to_the_libraries_that_are_loaded_for_it(environment: tuple[Path, Path]) -> None:
    content = (environment[1] / LIBRARIES["tensorrt"]).read_bytes()
    assert all(f"{name}\0".encode() in content for name in TENSORRT_LIBRARIES)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_without_a_gpu_opening_a_session_fails_with_the_remedy(environment: tuple[Path, Path], device: str) -> None:
    """onnxruntime itself would log a line and run on the CPU."""
    if visible_gpus():
        pytest.skip("this host has a GPU, on which a session opens")
    script = f"""
import json
from tuneport.errors import EngineError
from tuneport.stages.export.device import check_device
try:
    check_device({device!r})
    print(json.dumps("opened"))
except EngineError as error:
    print(json.dumps([error.problem, error.remedy]))
"""
    problem, remedy = run(environment, script)
    assert f"{PROVIDERS[device]}" in problem  # type: ignore[index]
    assert "was asked for" in problem
    assert "nvidia-smi" in remedy


def test_the_obstacle_is_the_gpu_and_no_longer_the_package(environment: tuple[Path, Path]) -> None:
    if visible_gpus():
        pytest.skip("this host has a GPU")
    script = """
import json
from tuneport.host import Host
from tuneport.runtime.availability import obstacle
from tuneport.schema.artifact import Execution, File
file = File(path="x", sha256="0" * 64, size_bytes=1)
execution = Execution(engine="onnxruntime", precision="fp16", device="cuda", files=(file,))
print(json.dumps(obstacle(execution, Host.here())))
"""
    assert run(environment, script) == "needs an NVIDIA GPU, and none is visible"
