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
LOCK_FLAGS := --generate-hashes --no-header --universal --python-version 3.11

export UV_SYSTEM_CERTS := 1
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo; echo "Settings go in front or behind, as in: make run PORT=8001 (make settings lists them)"
	@echo "More than these: .venv/bin/velvetrope --help"

##@ Run

.PHONY: run
run: export AUTH := $(AUTH)
run: .venv/.ok ## everything: Postgres, Valkey, API workers, keeper; Ctrl-C ends it
	@exec $(PY) -m engine dev

.PHONY: serve
serve: .venv/.ok ## one API worker, on your own servers (DATABASE_URL, REDIS_URL)
	@exec $(PY) -m engine serve

.PHONY: keep
keep: .venv/.ok ## the keepers, on your own servers
	@exec $(PY) -m engine keep

.PHONY: migrate
migrate: .venv/.ok ## bring the database to the present (CHECK=1: only say what is pending)
	@$(PY) -m engine migrate $(if $(CHECK),--check)

.PHONY: seed
seed: .venv/.ok ## put the demo on show
	@$(PY) -m engine seed

##@ Operate (beside a make run, or on DATABASE_URL and REDIS_URL)

.PHONY: audit
audit: .venv/.ok ## does every drop add up? (DROP="20 21": these; WATCH=1: live)
	@$(PY) -m engine audit $(DROP) $(if $(WATCH),--watch)

.PHONY: reconcile
reconcile: .venv/.ok ## mend now what keepers mend in a second (DROP="20 21"; DRY_RUN=1)
	@$(PY) -m engine reconcile $(or $(DROP),--all) $(if $(DRY_RUN),--dry-run)

.PHONY: preflight
preflight: .venv/.ok ## look at all that a sale stands on (STRICT=1: a warning fails)
	@$(PY) -m engine preflight $(if $(STRICT),--strict)

.PHONY: settings
settings: .venv/.ok ## every setting: value, default, unit and reason
	@$(PY) -m engine settings

##@ Develop

.PHONY: test
test: .venv/.ok ## run the tests, with servers of their own
	@$(PY) -m pytest

.PHONY: test-at-length
test-at-length: .venv/.ok ## what `make test` leaves out: drills and browsers at length
	@$(PY) -m pytest -m at_length

.PHONY: browser
browser: .venv/.ok ## a Chromium for tests/browser, where there is none; CHROMIUM=/path/to/it names one
	@$(PY) -m tests.browser.chromium || { test -z "$$CHROMIUM" && test "$$(id -u)" = 0 \
		&& command -v apt-get >/dev/null && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-upgrade chromium >/dev/null \
		&& $(PY) -m tests.browser.chromium; }

.PHONY: test-browser
test-browser: .venv/.ok ## the pages in headless Chromium, at length; `make test` runs one file of it
	@$(PY) -m pytest tests/browser tests/pages/test_live.py -m ""

.PHONY: screenshots
screenshots: .venv/.ok ## take the pictures of the pages in docs/img anew
	@$(PY) -m tests.browser.screenshots

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

##@ Measure and break

.PHONY: bench
bench: .venv/.ok ## every goal of speed, as ratios within one run; QUICK=1 ONLY="holds,p7" ROUNDS=5
	@$(PY) -m loadtest.bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(RESULTS),--results $(RESULTS))

.PHONY: loadtest
loadtest: .venv/.ok ## buyers by Locust, with a verdict; USERS SECONDS SHAPE UNITS TARGET ANYWHERE
	@$(PY) -m loadtest.load $(LOAD_FLAGS)

.PHONY: loadtest-ui
loadtest-ui: .venv/.ok ## the same on Locust's own page
	@$(PY) -m loadtest.load --ui $(LOAD_FLAGS)

.PHONY: drill-redis
drill-redis: .venv/.ok ## lose Redis in mid-sale and see the sale go on; AWAY=60 (seconds)
	@$(PY) -m loadtest.drill $(if $(AWAY),--away $(AWAY))

.PHONY: drill-failover
drill-failover: .venv/.ok ## kill Postgres in mid-sale, promote its standby: what is lost? NORMAL=5 AFTER=8
	@$(PY) -m loadtest.failover $(if $(NORMAL),--normal $(NORMAL)) $(if $(AFTER),--after $(AFTER))

.PHONY: drill-door
drill-door: .venv/.ok ## 500 slow senders and 10,000 idle connections crowd the door; IDLE SLOW
	@$(PY) -m loadtest.door $(if $(IDLE),--idle $(IDLE)) $(if $(SLOW),--slow $(SLOW))

.PHONY: logins
logins: .venv/.ok ## what sixteen who log in all the time cost those who buy; ROUNDS=3
	@$(PY) -m loadtest.bench --only logins $(if $(ROUNDS),--rounds $(ROUNDS))

.PHONY: listeners
listeners: .venv/.ok ## thousands listen to a drop while it is sold; SOCKETS=5000 SECONDS=8 LISTENERS=1
	@$(PY) -m loadtest.listeners $(if $(SOCKETS),--sockets $(SOCKETS)) \
		$(if $(SECONDS),--seconds $(SECONDS)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(LISTENERS),--listeners $(LISTENERS))

.PHONY: ledger
ledger: .venv/.ok ## how fast the ledger is sealed, and a million records verified; RECORDS BOOKINGS
	@$(PY) -m loadtest.ledger $(if $(RECORDS),--records $(RECORDS)) \
		$(if $(BOOKINGS),--bookings $(BOOKINGS))

.PHONY: chaos
chaos: .venv/.ok ## break everything while it sells, and prove the zeros; DURATION=20m SEED=7 PLAN=1 KEEP=1
	@$(PY) -m loadtest.chaos $(if $(DURATION),--duration $(DURATION)) $(if $(SEED),--seed $(SEED)) \
		$(if $(PLAN),--plan) $(if $(KEEP),--keep)

.PHONY: fuzz
fuzz: .venv/.ok ## ask a running service for all that the API's document allows; EXAMPLES=200
	@EXAMPLES=$(or $(EXAMPLES),200) $(PY) -m pytest tests/openapi/test_fuzz.py -n 2 -m ""

.PHONY: crash-points
crash-points: .venv/.ok ## kill -9 and SIGSTOP at every message of every operation; six minutes
	@CRASH_POINTS=all $(PY) -m pytest tests/faults/test_crash_points.py -n 2 -rA -m ""

.PHONY: model
model: .venv/.ok ## random schedules through the model of the protocol; SECONDS SEED EXPLAIN=seed
	@$(PY) -m tests.simulation.run $(if $(EXPLAIN),--explain $(EXPLAIN),--seconds $(or $(SECONDS),20) \
		$(if $(SEED),--seed $(SEED)))

.PHONY: virtual
virtual: .venv/.ok ## run the real code in a world without time, from seeds; SECONDS SEED EXPLAIN=seed
	@$(PY) -m tests.virtual $(if $(EXPLAIN),--explain $(EXPLAIN),--seconds $(or $(SECONDS),60) \
		$(if $(SEED),--seed $(SEED)))

.PHONY: mutants
mutants: .venv/.ok ## plant known mistakes in copies of the engine: is each caught? NAME="a b" BY=chaos
	@$(PY) -m tests.mutants $(NAME) $(if $(BY),--by $(BY))

##@ Keep house

.PHONY: lock
lock: .tools/bin/uv ## choose the newest versions that fit pyproject.toml
	.tools/bin/uv pip compile -q pyproject.toml --all-extras $(LOCK_FLAGS) -o requirements.lock
	@# What the Docker image installs: the same versions, without the extras.
	.tools/bin/uv pip compile -q pyproject.toml --no-annotate -c requirements.lock $(LOCK_FLAGS) \
		-o requirements.prod.lock

.PHONY: docker-config
docker-config: ## check docker-compose.yml with the client that is installed; needs no daemon
	@docker compose version >/dev/null 2>&1 && compose="docker compose" || compose=docker-compose; \
	command -v $${compose%% *} >/dev/null || { echo "no docker compose client here"; exit 1; }; \
	DB_PASSWORD=x JWT_SECRET=x HMAC_SECRET=x $$compose -f docker-compose.yml config -q \
		&& echo "docker-compose.yml is fine"

.PHONY: clean
clean: ## delete the environment, the caches and the embedded servers with their data
	@test ! -d .velvetrope || PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m engine.ops.leftovers .velvetrope
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
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
