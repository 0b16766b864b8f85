# Every target first installs an environment into .venv; only Python 3.11 is needed for that.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARTIFACT ?= demo/artifact

# An environment of its own: onnxruntime-gpu and onnxruntime install the same folder.
GPU_VENV := .venv-gpu
GPU_INSTALLED := $(GPU_VENV)/.installed
GPU_CHECK ?=

.PHONY: demo test slow check gpu-check serve protocol audit sbom container-test clean

demo: $(INSTALLED)
	$(BIN)/tuneport demo --out demo --overwrite

# One process for each processor; the tests of a file run in one process, because they share expensive fixtures. A
# process that crashes is not replaced: its successor would wait forever (xdist 3.8) if a single test is left.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --max-worker-restart 0

test: $(INSTALLED)
	$(PYTEST)

slow: $(INSTALLED)
	$(PYTEST) -m "slow or not slow"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Prove the project on this host's GPU: GPU_CHECK="--model M --data D --out DIR", see docs/gpu.md.
gpu-check: $(GPU_INSTALLED)
	$(GPU_VENV)/bin/python -m tuneport.stages.benchmarks.gpu_check $(GPU_CHECK)

serve: $(INSTALLED)
	$(BIN)/tuneport serve $(ARTIFACT)

# Generate the gRPC messages, after a change of their .proto file.
protocol: $(INSTALLED)
	$(BIN)/python -m tuneport.stages.serve.grpc.generate

# Look up known advisories of what images install; needs the advisories' service.
audit: $(INSTALLED)
	$(BIN)/python deploy/audit.py

# Write the software bill of materials (CycloneDX) of each kind of image to build/.
sbom: $(INSTALLED)
	$(BIN)/python deploy/sbom.py build

# Build the image of ARTIFACT's bento with buildah, run it, and compare its answers. Needs root, debootstrap and buildah.
container-test: $(INSTALLED)
	$(BIN)/python deploy/container_test.py $(ARTIFACT)

clean:
	rm -rf $(VENV) $(GPU_VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache *.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,cpu,demo,dev]'
	touch $@

$(GPU_INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,export,generate,gpu,train]'
	touch $@
