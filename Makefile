# One command runs the whole engine, one tests it; both build what they need. `make` lists them.

# The first Python on PATH that is new enough; or say: make run PYTHON=/path/to/python3.12
PYTHON ?= $(or $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	command -v $$name && break; done),python3)
UV_VERSION := 0.13.8
PY := .venv/bin/python

# For `make run` alone, which stays on loopback; elsewhere the default is `required`.
AUTH ?= open
LOAD_FLAGS = $(if $(USERS),--users $(USERS)) $(if $(SECONDS),--seconds $(SECONDS)) \
	$(if $(SHAPE),--shape $(SHAPE)) $(if $(UNITS),--units $(UNITS)) \
	$(if $(TARGET),--target $(TARGET)) $(if $(ANYWHERE),--anywhere)
LOCK_FLAGS := --all-extras --generate-hashes --no-header --universal --python-version 3.11

export UV_SYSTEM_CERTS := 1
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo "  Options: HOST PORT WORKERS AUTH DATABASE_URL REDIS_URL DATA_DIR, as in: make run PORT=8001"

.PHONY: run
run: export AUTH := $(AUTH)
run: .venv/.ok ## start everything: Postgres, Valkey, API workers, keeper; Ctrl-C ends it
	@exec $(PY) -m engine dev

.PHONY: test
test: .venv/.ok ## run the tests, with servers of their own
	@$(PY) -m pytest

.PHONY: check
check: .venv/.ok ## format, lint, types and imports, changing nothing
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports

.PHONY: fmt
fmt: .venv/.ok ## format the code and mend what the linter can
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

.PHONY: schema
schema: .venv/.ok ## write sql/schema.sql, the present of the database, from the migrations
	@$(PY) -m engine.ops.schema

.PHONY: bench
bench: .venv/.ok ## measure, as ratios within one run
	@$(PY) -m loadtest.bench

.PHONY: loadtest
loadtest: .venv/.ok ## buyers by Locust, with a verdict; USERS SECONDS SHAPE UNITS TARGET ANYWHERE
	@$(PY) -m loadtest.load $(LOAD_FLAGS)

.PHONY: loadtest-ui
loadtest-ui: .venv/.ok ## the same on Locust's own page
	@$(PY) -m loadtest.load --ui $(LOAD_FLAGS)

.PHONY: drill-redis
drill-redis: .venv/.ok ## lose Redis in mid-sale and see the sale go on; AWAY=60 (seconds)
	@$(PY) -m loadtest.drill $(if $(AWAY),--away $(AWAY))

.PHONY: model
model: .venv/.ok ## walk random schedules through the model of the protocol
	@$(PY) -m tests.simulation.run

.PHONY: lock
lock: .tools/bin/uv ## choose the newest versions that fit pyproject.toml
	.tools/bin/uv pip compile -q pyproject.toml $(LOCK_FLAGS) -o requirements.lock

.PHONY: clean
clean: ## delete the environment, the caches and the embedded servers' data
	@for lock in .velvetrope/*/lock; do \
		if [ -s "$$lock" ] && kill -0 "$$(cat "$$lock")" 2>/dev/null; then \
			echo "make run (process $$(cat "$$lock")) uses .velvetrope: stop it first"; exit 1; \
		fi; done
	@# As root under a closed folder the cluster lives elsewhere, at the end of this link.
	@if [ -L .velvetrope/postgres/elsewhere ]; then \
		case "$$(readlink .velvetrope/postgres/elsewhere)" in \
			/var/tmp/velvetrope-data-*) rm -rf "$$(readlink .velvetrope/postgres/elsewhere)";; \
		esac; fi
	rm -rf .venv .tools .velvetrope .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

# The stamp is written last, so an environment that was cut short is built again.
# uv lives apart: `uv pip sync` removes from .venv whatever the lock does not name.
# Where uv cannot work (no wheel, a mirror only pip knows), pip does the same more slowly.
.venv/.ok: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed: install it, or: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) lacks venv: apt-get install python3-venv (or your system's package of it)"; exit 1; }
	@echo "Building .venv, once ..."
	@rm -rf .venv && $(PYTHON) -m venv .venv
	@{ test -x .tools/bin/uv || $(MAKE) -s .tools/bin/uv; } \
		&& .tools/bin/uv pip sync -q --python $(PY) --require-hashes requirements.lock \
		|| .venv/bin/pip install -q --require-hashes -r requirements.lock
	@# The command, from any folder, without building a wheel of ourselves.
	@printf '#!/bin/sh\nPYTHONPATH="%s" exec "%s/.venv/bin/python" -m engine "$$@"\n' \
		"$(CURDIR)" "$(CURDIR)" > .venv/bin/velvetrope && chmod +x .venv/bin/velvetrope
	@touch $@

.tools/bin/uv:
	@$(PYTHON) -m venv .tools && .tools/bin/pip install -q uv==$(UV_VERSION)
