# Type `make` to see what there is. Everything is installed into .venv and web/node_modules; delete them to start over.

.NOTPARALLEL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PYTHON := $(VENV)/bin/python
CAN_RUN := $(VENV)/.can-run
CAN_TEST := $(VENV)/.can-test
CAN_BENCH := $(VENV)/.can-bench
INSTALL := $(PYTHON) -m pip install -qq --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test bench format lint types web pytest chromium FORCE

help:
	@echo "make demo     set up and train an Elman net, an LSTM and a GRU on handwritten digits; ends with a report"
	@echo "make test     set up and run every check: format, lint, types, web, tests, doctests, snippets"
	@echo "make bench    set up and print the table of speed and memory against peers"
	@echo "make format   put the code into the house's format"

demo: $(CAN_RUN)
	@$(VENV)/bin/throughtime demo

test: lint types web pytest
	@echo "make test: every check passed"

bench: $(CAN_BENCH)
	@$(PYTHON) -m benchmarks

format: $(CAN_TEST)
	@$(PYTHON) -m ruff format
	@$(PYTHON) -m ruff check --fix

# -- the checks

lint: $(CAN_TEST)
	@echo "== format and lint"
	@$(PYTHON) -m ruff format --check --quiet || { echo "make format puts this right" >&2; exit 1; }
	@$(PYTHON) -m ruff check --quiet

types: $(CAN_TEST)
	@echo "== types"
	@$(PYTHON) -m mypy --no-error-summary

web:
	@if [ ! -f web/package.json ]; then exit 0; fi; \
	if ! command -v npm >/dev/null; then echo "== web: left out, there is no npm here"; exit 0; fi; \
	echo "== web"; \
	if [ ! -f web/node_modules/.installed ] || [ web/package-lock.json -nt web/node_modules/.installed ]; then \
		(cd web && npm ci --silent --no-audit --no-fund) && touch web/node_modules/.installed; \
	fi && \
	cd web && npm run --silent check

# Two processes, and one thread in each, so that they keep out of each other's way.
pytest: export OMP_NUM_THREADS := 1
pytest: $(CAN_TEST) chromium
	@echo "== tests, doctests, snippets"
	@$(PYTHON) -m pytest --quiet --numprocesses 2 --dist worksteal $(if $(CI),,-m 'not repeats')

# -- setting up

# The pins were made with Python 3.11, so it is asked first.
$(VENV)/.made:
	@for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
		if "$$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			echo "== setting up $(VENV) with $$("$$python" --version); this takes a few minutes, once"; \
			"$$python" -m venv $(VENV) && touch $@ && exit 0; \
			exit 1; \
		fi; \
	done; \
	echo "no Python 3.11 or newer with venv was found; install one (on Debian: apt install python3 python3-venv)" >&2; \
	exit 1

# torch goes first and under its pin, so that no other package's wish brings another build of it.
$(CAN_RUN): pyproject.toml constraints.txt | $(VENV)/.made
	@echo "== installing what it runs with"
	@$(INSTALL) torch
	@$(INSTALL) --editable .
	@printf '%s' "$(CURDIR)" > $(VENV)/.here
	@touch $@

$(CAN_TEST): $(CAN_RUN)
	@echo "== installing what it is checked with"
	@$(INSTALL) --editable '.[dev]'
	@touch $@

$(CAN_BENCH): $(CAN_TEST)
	@echo "== installing what it is measured beside"
	@$(INSTALL) --editable '.[dev,bench]'
	@touch $@

# The install points at this folder: a tree that was moved or copied installs itself again.
ifneq ($(shell cat $(VENV)/.here 2>/dev/null),$(CURDIR))
$(CAN_RUN): FORCE
endif

# Reports are tested in a real browser.
chromium:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "== installing Chromium"; \
		apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else \
		echo "there is no Chromium here: the tests of the report's page are skipped, or fail where CI=true"; \
	fi
