# Everything that one types. `make` alone prints this list.
PYTHON := .venv/bin/python
SET ?= smoke
.DEFAULT_GOAL := help
.PHONY: help setup cloud test bench tempest lint trace guest

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 18

setup: ## system packages and .venv from the lock files; costs nothing the second time
	@tools/setup.sh

cloud: guest ## a cloud on this machine, and its first server
	@.venv/bin/trilith up
	@OS_CLOUD=$${OS_CLOUD:-trilith-demo} .venv-clients/bin/python examples/first_server.py
	@echo 'Both commands are found after: export PATH="$$PATH:$(CURDIR)/.venv/bin:$(CURDIR)/.venv-clients/bin"'

test: guest lint ## the whole suite: contract, services, plans, drivers (fake and real), cluster, clients
	@$(PYTHON) -m pytest $(ARGS)

lint: ## ruff, mypy, and the shape of the tree
	@$(PYTHON) -m ruff check --quiet .
	@$(PYTHON) -m ruff format --check --quiet .
	@$(PYTHON) -m mypy
	@$(PYTHON) -m mypy --no-error-summary guest tools
	@$(PYTHON) -m tools.shape

guest: setup ## the guest image: builds it when it is not in the cache, prints where it is
	@$(PYTHON) -m guest.build --print-path

trace: ## the files and functions that one POST of a server passes, from the request to the running machine
	@$(PYTHON) -m tools.trace $(ARGS)

bench: setup ## Trilith and upstream side by side on this machine, a table of ratios; QUICK=1: Trilith alone; PART=compare|objects|scale|machines
	@$(PYTHON) -m tests.bench $(if $(PART),--part $(PART)) $(ARGS)

tempest: setup ## Tempest against a cloud that it starts: make tempest SET=interop|smoke|core|entry|moves|REGEX [FAKE=1] [JSON=FILE] [REHEARSAL=DIR] [DRILLS="NAME ..."]
	@$(PYTHON) -m tests.clients.tempest $(if $(FAKE),--fake) $(if $(JSON),--json $(JSON)) \
		$(if $(REHEARSAL),--rehearsal $(REHEARSAL)) $(if $(DRILLS),--drills '$(DRILLS)') '$(SET)'
