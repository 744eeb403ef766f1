# make demo: the whole path on MovieLens-100K.  make web: its student in a browser, on localhost.
# make baselines: what implicit, RecBole, RecTools and RePlay give on the same data, in the same table.
# make check: style, types and the tests that take seconds.  make test: all tests.
# make lint: style and types.  make torture: kills, damage and load, for longer.
# make docs: the documentation as a site, in build/site.
# make audit: known weaknesses of our code (bandit) and of what is installed (pip-audit).
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo baselines web check test docs lint torture audit clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on torch==2.13.0
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: .venv/installed
	@echo 'The whole path on MovieLens-100K: 7 to 20 minutes on two cores, by their age. Run it again and finished stages are skipped.'
	$(BIN)/accelerate launch teacher/finetune.py
	$(BIN)/python -m student.distill
	$(BIN)/python -m benchmarks.latency --device cpu

baselines: .venv/installed
	$(BIN)/python -m benchmarks.baselines --device cpu

web: .venv/installed
	$(BIN)/python -m export.to_web
	$(BIN)/python -m export.serve_web

check: lint
	$(BIN)/python -m pytest -m 'not slow'

test: .venv/installed
	$(BIN)/python -m pytest

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

torture: .venv/installed
	SEQREC_KILLS=6 SEQREC_TRIES=250 SEQREC_SOAK_S=600 $(BIN)/python -m pytest tests/reliability
	$(BIN)/python -m tests.reliability.check_arm

audit: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[audit]"
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive seqrec teacher student export benchmarks
	$(BIN)/pip-audit --skip-editable

# Caches only: neither the environment nor data and runs, which took hours.
clean:
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build
	find . \( -path ./.venv -o -path ./data -o -path ./runs -o -path ./.git \) -prune \
		-o -name __pycache__ -type d -exec rm -rf {} +
