# Every target makes what it needs: .venv from pyproject.toml and constraints.txt, once, and again when either changes.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SCALE  ?= desk
# One thread a process: the tests are many and small, so two workers beat two threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

.PHONY: demo test lint types format docs bench reproduce fashion emoji32 emoji-text kjv constraints clean help
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:
	@echo "make demo       install, train a prior of handwritten digits, use it, write runs/demo/report.html"
	@echo "make test       every test a pull request needs"
	@echo "make lint       ruff (rules and format)      make types   pyright      make format   rewrite to the format"
	@echo "make docs       docs/_build/html             make bench   runs/bench/*.json"
	@echo "make reproduce NAME=red-diff [SCALE=quick|desk]"
	@echo "make fashion    train the shipped prior of that name (recipes/) and put it into the package; also emoji32, emoji-text, kjv"
	@echo "make constraints  resolve constraints.txt anew          make clean"

# .venv/.core is the library alone; .venv/.EXTRA is the library with that extra.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[$*]'
	@touch $@

# Peers that require torchvision, which none of their samplers needs: taken without what they require (benchmarks/peers.py).
$(VENV)/.alone: constraints.txt tools/constraints.py $(VENV)/.peers
	$(PIP) --no-deps $$($(BIN)/python tools/constraints.py --peers)
	@touch $@

demo: $(VENV)/.core
	$(BIN)/oneprior demo

# Timing tests first and alone; the others whatever came of them; the last line is pytest's own summary.
test: $(VENV)/.test
	@timing=0; $(PYTEST) -m timing || timing=$$?; \
	$(PYTEST) -m "not timing" -n 2 --dist loadfile && exit $$timing

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test $(VENV)/.dev
	$(BIN)/pyright

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# peer*.py are what the benchmarks share
bench: $(VENV)/.alone
	@mkdir -p runs/bench
	@for file in $(filter-out benchmarks/peer%,$(wildcard benchmarks/*.py)); do name=$$(basename $$file .py); \
		$(BIN)/python $$file --json runs/bench/$$name.json || exit 1; done

reproduce: $(VENV)/.core
	@test -n "$(NAME)" || { echo "which one? make reproduce NAME=red-diff [SCALE=quick|desk]"; exit 2; }
	$(BIN)/oneprior reproduce $(NAME) --scale $(SCALE)

# Trains, or goes on where a run was left. Data: the folder that ONEPRIOR_DATA names.
fashion emoji32 emoji-text kjv: $(VENV)/.core
	$(BIN)/oneprior train $(if $(wildcard runs/$@/checkpoints/*),--name $@ --resume,--config recipes/$@.yaml)
	$(BIN)/python tools/ship.py runs/$@ $@

emoji-text: runs/emoji-codec/codec
runs/emoji-codec/codec: | $(VENV)/.core
	$(BIN)/oneprior train $(if $(wildcard runs/emoji-codec/checkpoints/*),--name emoji-codec --resume,--config recipes/emoji-codec.yaml)

constraints: $(BIN)/python
	$(BIN)/python tools/constraints.py

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks tools docs -name __pycache__ -type d -prune -exec rm -rf {} +
