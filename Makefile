.DEFAULT_GOAL := help
PYTHON ?= python3
B := .venv/bin

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 16

.venv/.ok: requirements.lock pyproject.toml
	$(PYTHON) -m venv .uv && .uv/bin/pip install -q uv==0.13.9
	.uv/bin/uv venv -q --clear -p $(PYTHON) .venv
	VIRTUAL_ENV=$(CURDIR)/.venv .uv/bin/uv pip sync -q --compile-bytecode --require-hashes requirements.lock
	VIRTUAL_ENV=$(CURDIR)/.venv .uv/bin/uv pip install -q --no-deps --no-build-isolation -e .
	$(B)/python -m compileall -q protocol services simulation analysis
	touch $@

setup: .venv/.ok ## install everything into .venv

run: .venv/.ok ## a short closed-loop session: whole rig, simulated mouse
	$(B)/loop2p run deploy/rigs/simulated.toml deploy/tasks/short.toml

replay-real: .venv/.ok ## the loop on a real recording, streamed by a separate sender
	$(B)/python -m pytest -q -rs tests/integration/test_real_recordings.py

test: .venv/.ok ## lint, types, layers, and every test but the long ones
	$(B)/ruff check .
	$(B)/mypy
	$(B)/lint-imports
	$(B)/python -m pytest -q -m "not long" -n auto tests/contract tests/science tests/unit
	$(B)/python -m pytest -q -m "not long" tests/faults tests/fuzz tests/integration tests/net

test-long: .venv/.ok ## the full form of every check
	$(B)/python -m pytest -q

test-net: .venv/.ok ## the rig across three machines in a box: delay, loss, cut cables, clocks that are off (Linux, root)
	$(B)/python -m pytest -q -s tests/net

check: .venv/.ok ## is this rig ready?
	$(B)/loop2p check deploy/rigs/simulated.toml

bench: .venv/.ok ## every benchmark, against its target
	$(B)/loop2p bench all --check

generate: .venv/.ok ## SPEC.md and golden vectors from the code, and the Grafana dashboard
	$(B)/python -m loop2p.protocol.generate
	$(B)/python deploy/grafana/dashboard.py

docs: .venv/.ok ## the documentation as a site
	$(B)/sphinx-build -q -W -c docs/site . build/docs
	@echo build/docs/docs/site/index.html

lock: ## requirements.lock from pyproject.toml
	.uv/bin/uv pip compile --universal -p 3.11 --all-extras --group dev --generate-hashes --no-header --no-annotate -q pyproject.toml -o requirements.lock

up: .venv/.ok ## start this machine's services of the simulated rig
	$(B)/loop2p up deploy/rigs/simulated.toml

down: .venv/.ok ## stop them
	$(B)/loop2p stop deploy/rigs/simulated.toml

.PHONY: help setup run replay-real test test-long test-net check bench docs generate lock up down
