# Everything a newcomer needs after cloning: `make demo` and `make test`. Both install what they use into this directory.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

PYTHON ?= python3
ENV ?= example
PY := .venv/bin/python
MARIADB := mariadb-server-core mariadb-client-core
CDK := npx --no-install cdk --app "$(PY) app.py" -c env=$(ENV)

export JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION := 20
export CDK_DISABLE_CLI_TELEMETRY := true

.PHONY: help demo test check lint types proof sweep asl lock layer synth diff deploy bootstrap clean setup-mariadb

help:  ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

demo: .venv/installed  ## Rotate the key of a live PostgreSQL database on this machine (Linux; no AWS account, no docker)
	@$(PY) -m sandbox demo $(ARGS)

test: lint types node_modules/installed  ## Everything that CI runs: lint, types, all tests, cfn-lint, asl-validator, cdk-nag
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not proof" $(ARGS)

check: lint types  ## Lint, types and the quick tests; under a minute
	@$(PY) -m pytest -n 2 --dist loadfile tests/unit tests/aws tests/infra -m "not slow" $(ARGS)

lint: .venv/installed
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: .venv/installed
	@$(PY) -m mypy

proof: .venv/installed  ## The long proofs: every scenario, permission and mechanism by a rotation of its own, the sweep, the bench
	@$(PY) -m pytest -n 3 --dist loadfile tests/infra/test_permissions.py tests/rotation tests/sandbox/test_customer_of_mariadb.py $(ARGS)
	@$(MAKE) sweep ARGS="--document docs/reliability.md"
	@$(PY) -m sandbox bench --strategies --document docs/strategies.md

sweep: .venv/installed  ## Let a rotation fail at every boundary in every way, and count what is lost; goes on where it stopped
	@mkdir -p build/sweep
	@$(PY) -m sandbox sweep --html build/sweep/index.html $(ARGS)

setup-mariadb:  ## Install MariaDB's programs (Debian or Ubuntu, as root), for a demo and tests with that engine
	@export PATH="/usr/sbin:/usr/bin:$$PATH"; \
	if type mariadbd mariadb-install-db >/dev/null 2>&1; then mariadbd --version; \
	elif ! command -v apt-get >/dev/null; then echo "Only Debian's and Ubuntu's packages are known to work: $(MARIADB)" >&2; exit 1; \
	elif [ "$$(id -u)" != 0 ]; then echo "Root is needed: apt-get install --no-install-recommends $(MARIADB)" >&2; exit 1; \
	else apt-get update -qq && apt-get install -y -qq --no-install-recommends $(MARIADB); fi

asl: .venv/installed  ## Print the state machine as it is deployed, with its placeholders
	@$(PY) -m infra.embed rotate_key

lock: .venv/installed  ## Pin what ships to Lambda anew, from lambdas/requirements.in
	@$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-annotate --no-header lambdas/requirements.in --output-file lambdas/requirements.txt

layer: build/layer.json  ## Build the Lambda layer: dependencies and RDS certificates

synth: layer  ## Synthesize the stack of config/$ENV.yaml (ENV=example)
	@$(CDK) synth --quiet --no-notices

diff: layer  ## What a deployment would change
	@$(CDK) diff

deploy: layer  ## Deploy; asks before permissions get wider
	@$(CDK) deploy --require-approval broadening

bootstrap: layer  ## Once per account and Region: what the CDK needs there
	@$(CDK) bootstrap

clean:  ## Remove what these commands have made
	@rm -rf .venv node_modules build cdk.out .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Stamps: made anew when what they depend on has changed.

.venv/installed: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@node --version >/dev/null 2>&1 || { echo "Node 20 or newer is needed: the CDK runs on it" >&2; exit 1; }
	@echo "Installing into .venv (once)"
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m uv --version >/dev/null 2>&1 || $(PY) -m pip install --quiet "$$(grep '^uv==' requirements-dev.txt)"
	@$(PY) -m uv pip install --quiet --python $(PY) -r requirements-dev.txt
	@# The CDK's modules are huge: compiled once here, they load three times as fast ever after.
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -c 'import app, moto.server, moto.rds, moto.kms'
	@touch $@

node_modules/installed: package.json package-lock.json
	@npm ci --silent --no-audit --no-fund
	@touch $@

build/layer.json: lambdas/requirements.txt infra/layer.py .venv/installed node_modules/installed
	@mkdir -p build
	@$(PY) -m infra.layer --platform lambda --ca aws --out build/layer | tee $@
