# Every target sets itself up first: a virtual environment, renewed when pyproject.toml changes.
#   PYTHON  the interpreter to make it from (default: the first of CANDIDATES that is 3.11 or newer)
#   VENV    where it lies
#   LOCKED  1: nothing is installed but what .ci/lock/ pins by hash, as CI does; from the start of an environment on
# and `make test-all COVERAGE='--cov --cov-report term'` reports the branches that were taken, `make test-all
# EXAMPLES='--hypothesis-profile full'` tries five times the examples, `make attack ATTACK=--quick` takes two minutes.
# `make wheels WHEELS='--python PATH'` compiles for one Python alone.

VENV ?= .venv
CANDIDATES := $(PYTHON) python3 python python3.14 python3.13 python3.12 python3.11
BIN := $(VENV)/bin
LOCK ?= dev
INSTALL := -m pip install --quiet $(if $(LOCKED),--no-index --no-build-isolation)
PACKAGE := src/stronghold_p2p
COMPILED := $(VENV)-compiled
PYTEST := pytest --numprocesses auto --dist worksteal $(EXAMPLES)
# Generated code refuses a protobuf older than its generator.
PROTOBUF_GENERATOR := grpcio-tools==1.76.0

unexport PYTHONDONTWRITEBYTECODE  # else each process that tests start compiles all anew

.PHONY: help demo test test-all test-compiled wheels check format interop bench counts attack soak faults fuzz simulate profile proto clean
.DELETE_ON_ERROR:

help:
	@echo "make demo      the main job, shown with real processes"
	@echo "make test      the tests, but for the slow ones"
	@echo "make test-all  all tests, also of whole programs in processes and networks of their own"
	@echo "make test-compiled"
	@echo "               all tests again, with the hot path compiled (needs a C compiler)"
	@echo "make wheels    the sdist and the wheels, pure and compiled, each tested in an environment of its own"
	@echo "make check     format, lint and types, as CI does"
	@echo "make format    what check's first two can mend"
	@echo "make interop   against go-, rust-, js- and py-libp2p (needs go, cargo, node, chromium and redis)"
	@echo "make bench     speed, side by side with other systems (needs go, cargo, node and a C compiler)"
	@echo "make counts    what a fixed workload takes, against what was recorded"
	@echo "make attack    attacks on a peer, and what must hold meanwhile (Linux; twenty minutes)"
	@echo "make soak      load for ten minutes, too much of it, and processes that die (Linux)"
	@echo "make fuzz      inputs that nobody has thought of, a minute for each parser (Linux)"
	@echo "make simulate  whole peers in simulated worlds: SEEDS=1000 of them, or one by its number, SEED=123"
	@echo "make faults    connections that break at each byte of a handshake and a request"
	@echo "make profile   where the time goes: flame graphs, instructions"
	@echo "make proto     generate the protobuf modules anew"
	@echo "make clean     remove all that these have made"

demo: $(VENV)/.installed
	@$(BIN)/stronghold-p2p demo

test: $(VENV)/.installed-dev
	$(BIN)/$(PYTEST) -m "not slow" $(COVERAGE)

test-all: $(VENV)/.installed-dev
	$(BIN)/$(PYTEST) $(COVERAGE)

test-compiled: $(COMPILED)/.installed-dev
	$(COMPILED)/bin/$(PYTEST)

wheels: $(VENV)-wheels/.installed
	@$(VENV)-wheels/bin/python packaging/wheels.py $(if $(LOCKED),--locked) $(WHEELS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy src tests bench examples attack fuzz simulation soak
	$(BIN)/mypy interop/*.py packaging/*.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

interop: $(VENV)/.installed-dev
	$(BIN)/python interop/build.py
	$(BIN)/pytest interop

bench: $(VENV)/.installed-bench $(COMPILED)/.installed
	@$(BIN)/python -m bench
	@$(BIN)/python -m bench.firewall

counts: $(VENV)/.installed
	@$(BIN)/python -m bench.counts

attack: $(VENV)/.installed
	@$(BIN)/python -m attack $(ATTACK)

soak: $(VENV)/.installed
	@$(BIN)/python -m soak $(SOAK)

fuzz: $(VENV)-fuzz/.installed-fuzz
	@PYTHONHASHSEED=0 $(VENV)-fuzz/bin/python -m fuzz $(FUZZ)

simulate: $(VENV)/.installed
	@$(BIN)/python -m simulation $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS))

faults: $(VENV)/.installed
	@PYTHONPATH=tests:. $(BIN)/python -m faults $(FAULTS)

profile: $(VENV)/.installed-bench
	@$(BIN)/python -m bench.profile

proto: $(VENV)-proto/.installed
	$(VENV)-proto/bin/python -m grpc_tools.protoc -Isrc --python_out=src --pyi_out=src $(PACKAGE)/encoding/messages/*.proto

clean:
	rm -rf $(VENV) $(VENV)-* dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests bench examples interop attack fuzz simulation soak -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: $(BIN)/python pyproject.toml
	@echo "installing into $(VENV)"
	@$(BIN)/python $(INSTALL) --editable ".[cli,uvloop]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml
	@echo "installing the development tools into $(VENV)"
	@$(BIN)/python $(INSTALL) --group dev
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed pyproject.toml
	@echo "installing what draws charts and profiles into $(VENV)"
	@$(BIN)/python $(INSTALL) --group bench
	@touch $@

$(VENV)-wheels/.installed: pyproject.toml
	@$(MAKE) --silent VENV=$(VENV)-wheels LOCK=wheels $(VENV)-wheels/bin/python
	@echo "installing what builds wheels into $(VENV)-wheels"
	@$(VENV)-wheels/bin/python $(INSTALL) --group wheels
	@touch $@

$(COMPILED)/.installed: $(VENV)-wheels/.installed $(shell find $(PACKAGE) -name '*.py')
	@$(MAKE) --silent VENV=$(COMPILED) $(COMPILED)/bin/python
	@echo "compiling the hot path into $(COMPILED)"
	@$(VENV)-wheels/bin/python packaging/wheels.py $(if $(LOCKED),--locked) --just-compile --out $(COMPILED)/dist --python $(COMPILED)/bin/python
	@$(COMPILED)/bin/python $(INSTALL) "$$(echo $(COMPILED)/dist/*.whl)[cli,uvloop]"
	@$(COMPILED)/bin/python $(INSTALL) --force-reinstall --no-deps $(COMPILED)/dist/*.whl
	@$(COMPILED)/bin/stronghold-p2p --version | grep --quiet compiled
	@touch $@

$(COMPILED)/.installed-dev: $(COMPILED)/.installed pyproject.toml
	@$(COMPILED)/bin/python $(INSTALL) --group dev
	@touch $@

$(VENV)-fuzz/.installed-fuzz: pyproject.toml
	@$(MAKE) --silent VENV=$(VENV)-fuzz LOCK=fuzz $(VENV)-fuzz/.installed
	@$(VENV)-fuzz/bin/python $(INSTALL) --group fuzz
	@touch $@

$(VENV)-proto/.installed:
	$(MAKE) VENV=$(VENV)-proto $(VENV)-proto/bin/python
	$(VENV)-proto/bin/python -m pip install --quiet $(PROTOBUF_GENERATOR)
	@touch $@

# pip knows dependency groups since 25.1; the one that comes with Python may be older.
$(BIN)/python:
	@for python in $(CANDIDATES); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "making $(VENV) with $$($$python --version)"; \
			$$python -m venv $(VENV) && exec $@ -m pip install --quiet \
				$(if $(LOCKED),--require-hashes --requirement .ci/lock/$(LOCK).txt,--upgrade "pip>=25.1"); \
			exit 1; \
		fi; \
	done; \
	echo "Python 3.11 or newer is needed, and none of these is: $(CANDIDATES). Name one: make PYTHON=/path/to/python3" >&2; \
	exit 1
