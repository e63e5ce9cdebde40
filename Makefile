# make demo    both servers, the mirror and some traffic, until Ctrl-C
# make test    everything that CI checks
# make clean   remove the environments, the caches and the demo's databases
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/dev-stamp

LOCAL_PORT ?= 8001
CENTRAL_PORT ?= 8000
TRAFFIC ?= 1
OPEN ?= 1
PYTEST_ARGS ?= -n 2

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types migrations pytest venv clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# exec: the signals that stop the demo go to it, and its exit code comes back, without a shell between.
demo:
	@exec $(PYTHON) -m demo --local-port $(LOCAL_PORT) --central-port $(CENTRAL_PORT) \
		$(if $(filter 0 no,$(TRAFFIC)),--no-traffic) $(if $(filter 0 no,$(OPEN)),--no-browser)

# One after the other, so that the summary of pytest comes last.
test:
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory migrations
	@$(MAKE) --no-print-directory pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)
	$(BIN)/mypy

migrations: $(STAMP)
	DJANGO_SETTINGS_MODULE=tests.project.settings $(BIN)/python manage.py makemigrations --check --dry-run
	DJANGO_SETTINGS_MODULE=demo.settings.local $(BIN)/python manage.py makemigrations --check --dry-run

pytest: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("This needs Python 3.11 or newer; try: make venv PYTHON=python3.11")'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "This Python cannot make virtual environments; on Debian: apt install python3-venv"; exit 1; }
	@# One that works is kept as it is: laying another Python over it would leave a mixture of both.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable ".[demo,redis,postgresql,mysql]"
	@touch $@

clean:
	rm -rf .venv .venv313 demo/var build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
