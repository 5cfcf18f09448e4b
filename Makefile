# make serve   build and run the server on 127.0.0.1:6020
# make test    everything the tests need, then the tests (PYTEST_ARGS=... for pytest)
# make fuzz    the long tests: a million random inputs, 20 000 rounds of clients (FUZZ=... RULES=... CYCLES=...)
# make endure  the long tests of the storage: 200 kills, 500 power failures, ten minutes of writing per driver
# make lint    ruff and mypy
# make docs    write docs/configuration.md, docs/commands.md and the examples in docs/plugins
# make bench   measure (BENCH_ARGS=...)
# make dist    source distribution and wheel in dist/
# make clean   remove everything that was built or installed here
#
# Nothing has to be prepared: missing Debian packages are installed (as root) or named. Python packages live in
# .venv. Stamps remember what is done; a second call starts at once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done || echo python3)
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
JOBS := $(shell nproc 2>/dev/null || echo 2)

CORE := setup.py $(wildcard dsfast/_core/*.pyx dsfast/_core/*.pxd dsfast/_core/*.h)
JS := tests/js
UPSTREAM := tests/plugins/upstream
CONNECTORS := redis postgres mysql mongodb dynamodb elasticsearch hazelcast rethinkdb opentelemetry
FUZZ ?= 1000000
CYCLES ?= 20000
RULES ?= 100000

.PHONY: serve test fuzz endure lint docs bench dist clean build test-tools
.DEFAULT_GOAL := build

build: $(VENV)/.built

serve: $(VENV)/.built
	@exec $(VENV)/bin/dsfast serve $(SERVE_ARGS)

test: $(VENV)/.built test-tools
	@$(PY) -m pytest $(PYTEST_ARGS)

fuzz: $(VENV)/.built $(VENV)/.test-packages
	@DSFAST_FUZZ=$(FUZZ) DSFAST_EQUIVALENCE=500 DSFAST_CYCLES=$(CYCLES) DSFAST_VALVE_DIFF=$(RULES) \
		$(PY) -m pytest -s $(PYTEST_ARGS) tests/test_{protocol,fuzz,protocol_equivalence,deflate,proxy_protocol,leaks}.py \
		tests/test_valve_{fuzz,differential}.py

endure: $(VENV)/.built $(VENV)/.test-packages
	@DSFAST_KILL_ROUNDS=200 DSFAST_POWER_CUTS=500 DSFAST_STORAGE_EXAMPLES=2000 DSFAST_WAL_SECONDS=600 \
		$(PY) -m pytest -s $(PYTEST_ARGS) \
		tests/test_sqlite.py tests/test_power_loss.py tests/test_durability.py tests/test_sqlite_disk.py

lint: $(VENV)/.built $(VENV)/.test-packages
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

docs: $(VENV)/.built
	@$(PY) -m dsfast.config.document > docs/configuration.md
	@$(PY) -m dsfast.cli.document > docs/commands.md
	@$(PY) tools/guides.py

bench: $(VENV)/.built test-tools
	@$(PY) -m bench $(BENCH_ARGS)

dist: $(VENV)/.packages
	@$(PIP) install build
	@rm -rf dist
	@$(PY) -m build --outdir dist

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	rm -rf $(JS)/node_modules $(UPSTREAM)/node_modules bench/build
	rm -f dsfast/_core/*.c dsfast/_core/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

test-tools: $(VENV)/.test-packages $(VENV)/.test-servers $(VENV)/.test-browser $(UPSTREAM)/node_modules/.installed $(if $(wildcard $(JS)/package.json),$(JS)/node_modules/.installed)

# The virtual environment, with what a build needs.
$(VENV)/.made: tools/system-packages
	@tools/system-packages $(PYTHON)
	@echo "Making $(VENV)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@touch $@

# Packages that the server needs. The list is that of pyproject.toml, so an edit there installs what is new.
$(VENV)/.packages: $(VENV)/.made pyproject.toml
	@echo "Installing Python packages"
	@$(PIP) install $$($(PYTHON) tools/requirements.py build run)
	@touch $@

$(VENV)/.test-packages: $(VENV)/.packages
	@echo "Installing Python packages for tests"
	@$(PIP) install $$($(PYTHON) tools/requirements.py test lint $(CONNECTORS))
	@touch $@

# Databases that the connectors are tested against. Without them those tests are skipped.
$(VENV)/.test-servers: tools/system-packages
	@tools/system-packages $(PYTHON) servers && touch $@ || echo "Tests that need them are skipped."

# A browser for tests/test_browser.py, which is skipped without.
$(VENV)/.test-browser: tools/system-packages
	@tools/system-packages $(PYTHON) browser && touch $@ || echo "The test that needs it is skipped."

# The compiled core, in place, then the command dsfast.
$(VENV)/.built: $(VENV)/.packages $(CORE)
	@echo "Building the core"
	@DSFAST_JOBS=$(JOBS) $(PY) setup.py --quiet build_ext --inplace -j $(JOBS)
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

$(UPSTREAM)/node_modules/.installed: $(UPSTREAM)/package.json $(UPSTREAM)/package-lock.json
	@tools/system-packages $(PYTHON) node
	@echo "Installing deepstream's connectors"
	@cd $(UPSTREAM) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(JS)/node_modules/.installed: $(wildcard $(JS)/package.json $(JS)/package-lock.json)
	@tools/system-packages $(PYTHON) node
	@echo "Installing npm packages"
	@cd $(JS) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@
