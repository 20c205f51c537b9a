# The habits of this project. `make help` lists them.
#
# PYTHON           the Python that .venv is made from (3.11 or newer)
# SYSTEM_PACKAGES  `no`: never call apt, only say what is missing
# TESTS            what `make test` and `make test-long` run
# WORKERS          how many tests run at the same time
# ARGS             more words for the program that a target runs

PYTHON ?= python3
SYSTEM_PACKAGES ?= yes
TESTS ?= tests
WORKERS ?= auto
ARGS ?=

BIN := .venv/bin
BOOTSTRAP := $(PYTHON) -m tools.bootstrap $(if $(filter no,$(SYSTEM_PACKAGES)),--no-system-packages)
SYSTEM = $(PYTHON) -m tools.system_packages $(1) $(if $(filter no,$(SYSTEM_PACKAGES)),--no-install)

.DEFAULT_GOAL := help
.NOTPARALLEL: # the targets share one environment
.PHONY: help setup setup-dev up dev test test-long vllm-contract test-web check format docs bench bench-peers aws-smoke package lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

setup: ## Make .venv with what running needs, and build the page
	@$(BOOTSTRAP) run
	@$(BIN)/python -m tools.build_page run

setup-dev: ## The same, with what tests and checks need
	@$(BOOTSTRAP) dev
	@$(BIN)/python -m tools.build_page dev

up: setup ## Run Lamplighter: the chat page, the API and a small model, on this machine
	@$(BIN)/lamplighter up $(ARGS)

dev: setup-dev ## Run everything on fakes with a slow five-stage wake, to work on the page and the keeper
	@$(BIN)/lamplighter dev $(ARGS)

test: setup-dev test-web ## Run the tests: unit, contract, journeys, and the page's own
	@$(call SYSTEM,test)
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal $(TESTS) $(ARGS)

test-long: setup-dev ## Run the tests that take minutes
	@$(call SYSTEM,long)
	@$(if $(filter no,$(SYSTEM_PACKAGES)),true,tools/build_kubernetes.sh --if-possible)
	@$(BIN)/pytest $(TESTS) -m long $(ARGS)

vllm-contract: setup-dev ## Ask a real vLLM (CPU build, in an environment of its own, 3.5 GB) for its contract
	@$(BIN)/python -m tools.vllm_contract $(ARGS)

test-web: setup-dev
	@$(BIN)/python -m tools.build_page dev --npm test --silent

check: setup-dev ## Check format, lint, types, import boundaries, the page, generated docs
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m tools.build_page dev --npm run check --silent
	@$(BIN)/python -m tools.generate_docs --check
	@$(BIN)/python -m tools.terraform_docs --check
	@$(BIN)/python -m tools.chart_docs --check
	@$(BIN)/python -m tools.dashboards --check
	@$(BIN)/python -m tools.pack_agent --check
	@$(BIN)/python -m tools.check_repository
	@echo "All checks passed."

format: setup-dev ## Format the code and fix what can be fixed without thought
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/python -m tools.build_page dev --npm run format --silent

docs: setup-dev ## Write the generated references anew
	@$(BIN)/python -m tools.generate_docs
	@$(BIN)/python -m tools.dashboards
	@$(BIN)/python -m tools.chart_docs

bench: setup-dev ## Measure the gateway on a mock engine beside a do-nothing proxy, and waking the bundled model
	@$(call SYSTEM,test)
	@$(BIN)/python -m bench $(ARGS)
	@$(BIN)/python -m bench.wake

bench-peers: setup-dev ## Measure other gateways with the same method, each in its own environment
	@$(call SYSTEM,test)
	@$(BIN)/python -m bench.peers $(ARGS)

aws-smoke: setup ## Prove an aws pool on your real account for a few cents: wake, one token, sleep, proof that it is gone (ARGS="--at-most '0.50 USD' --yes")
	@$(BIN)/lamplighter cloud smoke $(ARGS)

package: setup ## Build the wheel and the sdist into dist/
	@$(BIN)/python -m build --no-isolation --outdir dist .

lock: setup-dev ## Resolve requirements.lock anew (ARGS=--upgrade to take newer versions) and complete the npm lock
	@$(BOOTSTRAP) lock
	@$(BIN)/python -m tools.lock $(ARGS)
	@$(BIN)/python -m tools.complete_npm_lock

clean: ## Remove everything that make made (never your data)
	rm -rf .venv web/node_modules src/lamplighter/page dist build .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis bench/build
	find src tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} +
