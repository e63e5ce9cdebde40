# make demo    both servers, the mirror and some traffic, until Ctrl-C
# make test    everything that CI checks
# make judge   Django's own ORM tests with capture and without; JUDGE_ARGS="--engine sqlite basic"
# make applications   Wagtail, django-helpdesk and others under the mirror; APPLICATIONS_ARGS="wagtail --engine sqlite"
# make bench   speed, beside peers; BENCH_ARGS="latency --engine sqlite --scale 0.1"
# make bench-capture   what capture costs the application, per database; BENCH_ARGS="--engine sqlite"
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
JUDGE_ARGS ?=
APPLICATIONS_ARGS ?=
BENCH_ARGS ?=
CQRS_VENV ?= .venv-cqrs
APPLICATIONS_VENV ?= .venv-applications

.DEFAULT_GOAL := help
.PHONY: help demo test judge bench bench-capture lint format types migrations pytest applications venv clean

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

# Fetches Django's source distribution; its tests take hours on a small machine.
judge: $(STAMP)
	$(BIN)/python -m tests.judge $(JUDGE_ARGS)

# Applications want versions of their own, and so an environment of their own.
applications: $(APPLICATIONS_VENV)/stamp
	$(APPLICATIONS_VENV)/bin/python -m tests.applications $(APPLICATIONS_ARGS)

$(APPLICATIONS_VENV)/stamp: pyproject.toml tests/applications/requirements.txt tests/applications/constraints.txt
	@$(APPLICATIONS_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(APPLICATIONS_VENV)
	$(APPLICATIONS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint tests/applications/constraints.txt --requirement tests/applications/requirements.txt \
		--editable ".[postgresql,mysql]"
	@touch $@

bench: $(VENV)/bench-stamp $(CQRS_VENV)/stamp
	BENCH_CQRS_PYTHON=$(CQRS_VENV)/bin/python $(BIN)/python -m bench $(BENCH_ARGS)

$(VENV)/bench-stamp: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group bench
	@touch $@

# A peer wants a Django of its own.
$(CQRS_VENV)/stamp: bench/cqrs/requirements.txt
	@$(CQRS_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(CQRS_VENV)
	$(CQRS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

bench-capture: $(STAMP)
	$(BIN)/python -m bench.capture $(BENCH_ARGS)

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
	rm -rf .venv .venv313 $(APPLICATIONS_VENV) $(CQRS_VENV) .cache demo/var build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
