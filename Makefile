# Every target makes its own environment in .venv; nothing else is needed than Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARTIFACT ?= demo/artifact

.PHONY: demo test slow check serve protocol clean

demo: $(INSTALLED)
	$(BIN)/tuneport demo --out demo --overwrite

# A process for each processor, a file's tests together: they share what is dear to make. One that crashes is not
# replaced, for its successor would wait for ever (xdist 3.8) if a single test is left.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --max-worker-restart 0

test: $(INSTALLED)
	$(PYTEST)

slow: $(INSTALLED)
	$(PYTEST) -m "slow or not slow"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: $(INSTALLED)
	$(BIN)/tuneport serve $(ARTIFACT)

# The messages of the gRPC door, after a change of their .proto file.
protocol: $(INSTALLED)
	$(BIN)/python -m tuneport.stages.serve.grpc.generate

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache *.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,demo,dev,generate,openvino]'
	touch $@
