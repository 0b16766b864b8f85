# Every target first installs an environment into .venv; only Python 3.11 is needed for that.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
S3_SERVER := $(VENV)/.s3
ARTIFACT ?= demo/artifact

# An environment of its own: onnxruntime-gpu and onnxruntime install the same folder.
GPU_VENV := .venv-gpu
GPU_INSTALLED := $(GPU_VENV)/.installed
GPU_CHECK ?=

.PHONY: install demo test slow check docs gpu-check serve protocol audit sbom container-test clean

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/tuneport demo --out demo --overwrite

# One process for each processor; the tests of a file run in one process, because they share expensive fixtures. A
# process that crashes is not replaced: its successor would wait forever (xdist 3.8) if a single test is left.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --max-worker-restart 0

test: $(INSTALLED) $(S3_SERVER)
	$(PYTEST)

slow: $(VENV)/.slow $(S3_SERVER)
	$(PYTEST) -m "slow or not slow" --hypothesis-profile search

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation site, in build/site.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Prove the project on this host's GPU: GPU_CHECK="--model M --data D --out DIR", see docs/gpu.md. GPU_CHECK="--floors"
# runs only the steps on which the floors depend.
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

# An environment and the extras in it: by uv, which takes a fraction of pip's time, where it is there. It does not read
# pip's configuration, so that pip installs what uv cannot find.
COMMA := ,
define install
$(PYTHON) -m venv $(1)
{ command -v uv >/dev/null && uv pip install --quiet --python $(1)/bin/python -c constraints.txt -e '.[$(2)]'; } || \
$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(2)]'
endef

clean:
	rm -rf $(VENV) $(GPU_VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache *.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	$(call install,$(VENV),all$(COMMA)cpu$(COMMA)demo$(COMMA)dev)
	touch $@

# An S3 server for the tests of storage, in an environment of its own: its dependencies exclude some of theirs. Without
# it these tests are skipped. An installation that fails is not tried again before this file is removed.
$(S3_SERVER): | $(INSTALLED)
	-$(PYTHON) -m venv $(VENV)/s3 && $(VENV)/s3/bin/python -m pip install --quiet --disable-pip-version-check \
		'moto[s3]==5.2.1' flask==3.1.3 flask-cors==6.0.2
	touch $@

$(VENV)/.slow: $(INSTALLED)
	$(call install,$(VENV),ray)
	touch $@

$(VENV)/.docs: $(INSTALLED)
	$(call install,$(VENV),docs)
	touch $@

$(GPU_INSTALLED): pyproject.toml constraints.txt
	$(call install,$(GPU_VENV),demo$(COMMA)dev$(COMMA)export$(COMMA)generate$(COMMA)gpu$(COMMA)train)
	touch $@
