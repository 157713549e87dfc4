# Every target sets up what it needs; the first one creates .venv and takes a minute or two.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
PY := .venv/bin/python
STAMP := .venv/.installed
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup train tune debug bench test test-slow test-faults rehearse lint format typecheck lock clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv with the pinned packages (nothing to do the second time)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"error: expected Python 3.11 to 3.13, found {v[0]}.{v[1]}; set PYTHON=python3.11")'
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@echo "installing the pinned packages into .venv (about 3 GB) …"
	@PYTHONWARNINGS=ignore PIP_CONSTRAINT=constraints.txt $(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# `make train seed=1` would set a variable of make and train the default.
STRAY := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(filter-out ARGS PYTHON,$(name))))
ifneq ($(strip $(STRAY)),)
$(error $(firstword $(STRAY)) is no variable of this Makefile; expected ARGS="$(firstword $(STRAY))=…")
endif

train: $(STAMP) ## train on the bundled digits; overrides with ARGS="key=value …"
	@$(PY) -m jobs.train $(ARGS)

tune: $(STAMP) ## search for better settings on the digits; overrides with ARGS="key=value …"
	@$(PY) -m jobs.tune search.scheduler=asha search.num_samples=12 $(ARGS)

debug: $(STAMP) ## a few steps in this process, eagerly, with every check; overrides with ARGS="key=value …"
	@$(PY) -m jobs.debug $(ARGS)

bench: $(STAMP) ## measure this machine; overrides and parts with ARGS="step key=value …"
	@$(PY) -m jobs.benchmark $(ARGS)

test: $(STAMP) ## all tests that guard main
	@$(PY) -m pytest -m "not slow and not faults" -n 2 --dist loadgroup $(ARGS)

test-slow: $(STAMP) ## the tests that take longer than a contributor waits for
	@$(PY) -m pytest -m slow -n 2 --dist loadgroup --durations=60 $(ARGS)

test-faults: $(STAMP) ## every row of the table in docs/reliability.md
	@$(PY) -m pytest -m "not slow" -n 2 --dist loadgroup tests/faults tests/jobs/test_checkpoint.py \
		tests/jobs/test_object_storage.py tests/jobs/test_tracking.py \
		tests/jobs/test_ray.py::test_what_cannot_run_is_refused_before_a_worker_starts tests/semisup_core/data $(ARGS)

rehearse: $(STAMP) ## a job on a cluster whose nodes come and go, on this machine; one is taken away
	@$(PY) -m jobs.rehearse

lint: $(STAMP) ## style and import rules, without changing anything
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

format: $(STAMP) ## mend what the formatter can
	@$(PY) -m ruff check --fix . && $(PY) -m ruff format .

typecheck: $(STAMP) ## mypy on semisup_core and jobs
	@$(PY) -m mypy

lock: $(STAMP) ## resolve pyproject.toml anew into constraints.txt (needs uv)
	@uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-emit-index-url --no-annotate --no-header pyproject.toml -o constraints.txt

clean: ## remove .venv
	rm -rf .venv
