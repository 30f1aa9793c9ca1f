# Two targets are all that a fresh machine needs (Python 3.11 or later, make, git):
#   make demo    the main job on real input: thumbnails of photographs, with the leader killed half-way
#   make test    the tests
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PEERS_VENV := $(or $(QUORUMQ_PEERS_VENV),.venv-peers)
PEERS ?=
LOCKS ?=
LONG_BENCHES := bench/test_endurance.py bench/test_pending.py bench/test_delayed.py bench/test_catch_up.py
STAMP := $(VENV)/.installed

.PHONY: venv demo test test-slow lint types simulate bench bench-long bench-options bench-peers bench-locks soak clean

venv: $(STAMP)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later was found; set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[examples,plots,dev]"
	@touch $@

demo: venv
	$(BIN)/python -m examples.thumbnails.demo

# Those with processes of their own come behind the others, one by one: they wait more than they work, some watch how
# long something takes, and two at a time would meet each other's load.
WHOLE := tests/processes tests/docs

test: venv
	$(BIN)/python -m pytest -m "not slow" $(addprefix --ignore=,$(WHOLE)) --numprocesses auto --dist worksteal
	$(BIN)/python -m pytest -m "not slow" $(WHOLE)

test-slow: venv
	$(BIN)/python -m pytest -m slow

lint: venv
	$(BIN)/ruff check .

types: venv
	$(BIN)/mypy

simulate: venv
	$(BIN)/python -m cluster.simulation --seeds 50 --years 3

bench: venv
	$(BIN)/python -m pytest bench --benchmark-only -s $(addprefix --ignore=,$(LONG_BENCHES))

bench-long: venv
	$(BIN)/python -m pytest $(LONG_BENCHES) --benchmark-only -s

bench-options: venv
	$(BIN)/python -m bench.options

bench-peers: venv
	sh bench/peers/setup.sh $(PEERS_VENV) $(BIN)/python redis-server rabbitmq-server
	QUORUMQ_PEERS_VENV=$(PEERS_VENV) $(BIN)/python -m bench.peers.run --plot docs/images/peers.svg $(PEERS)

bench-locks: venv
	sh bench/peers/setup.sh $(PEERS_VENV) $(BIN)/python redis-server etcd-server
	QUORUMQ_PEERS_VENV=$(PEERS_VENV) $(BIN)/python -m bench.locks.run --plot docs/images/locks.svg $(LOCKS)

soak: venv
	$(BIN)/python -m bench.soak

clean:
	rm -rf $(VENV) .venv-peers .pytest_cache .mypy_cache .ruff_cache .benchmarks bench/results examples/thumbnails/data examples/thumbnails/out
