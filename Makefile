# What a person types. Everything is installed into .venv, and nothing outside this folder is touched.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
.DEFAULT_GOAL := help

.PHONY: help setup up demo test test-all coverage faults faults-selection soak bench lint format lock diagrams clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(VENV)/ready ## make .venv with every requirement, as locked

$(VENV)/ready: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	@echo "Setting up $(VENV) …"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(RUN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

up: setup ## run everything; Ctrl-C stops it
	@$(RUN)/python manage.py handbell up

demo: setup ## run the workloads and check every outcome
	@SECRET_KEY="$${SECRET_KEY:-$$($(RUN)/python -c 'import secrets; print(secrets.token_urlsafe(50))')}" \
	  $(RUN)/python manage.py demo

test: setup ## the tests to run often: five minutes on two cores
	@$(RUN)/python -m tests

test-all: setup ## every test: about twenty minutes on two cores
	@$(RUN)/python -m tests all

coverage: setup ## what unit and integration tests cover, processes that they start included
	@$(RUN)/python -m tests coverage

faults: setup ## the fault suite, for as long as FAULTS_MINUTES says (20)
	@$(RUN)/python -m tests.faults --minutes $${FAULTS_MINUTES:-20}

faults-selection: setup ## a part of the fault suite, in three minutes: what CI runs
	@$(RUN)/python -m tests.faults --selection

soak: setup ## whether memory stays flat under load, for as long as SOAK_MINUTES says (60)
	@$(RUN)/python -m tests.faults --soak --minutes $${SOAK_MINUTES:-60}

bench: setup ## every benchmark in its small size: shows that it works
	@for name in serial parallel enqueue fanin launch plain latency scale million peers; do $(RUN)/python -m benchmarks $$name --quick --json || exit 1; done

lint: setup ## what must hold of the code without running it
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy .
	@$(RUN)/lint-imports
	@git ls-files -co --exclude-standard '*.html' | xargs $(RUN)/djade --check --target-version 5.2
	@$(RUN)/python manage.py makemigrations --check --dry-run
	@git ls-files -co --exclude-standard | xargs $(RUN)/detect-secrets-hook --baseline .secrets.baseline
	@$(RUN)/python -m tests.audit

format: setup ## put the code into its usual form
	@$(RUN)/ruff check --fix .
	@$(RUN)/ruff format .
	@git ls-files -co --exclude-standard '*.html' | xargs $(RUN)/djade --target-version 5.2

lock: setup ## pin every requirement, with hashes, for Python 3.11 to 3.14
	@for name in requirements requirements-dev; do \
	  $(RUN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    --no-emit-index-url $$name.in -o $$name.txt; done
	@echo "django>=6.0,<6.1" | $(RUN)/uv pip compile --quiet --universal --python-version 3.12 --no-deps --generate-hashes \
	    --no-annotate --no-header --no-emit-index-url - -o requirements-django6.txt

diagrams: ## render the diagrams in docs/ (needs graphviz)
	@dot -Tsvg docs/states.dot -o docs/states.svg

clean: ## remove .venv and the caches, and keep var/
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist .coverage*
