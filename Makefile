# make demo and make test do everything on a machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV ?= .venv
RUN ?= runs/course-laptop
TESTS_AT_ONCE ?= 2
ROOM ?=
BIN = $(VENV)/bin
READY = $(VENV)/.ready

# Idle OpenMP threads spin shortly, then sleep: a busy neighbor costs far less that way.
export GOMP_SPINCOUNT ?= 1000
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup demo test quick lint lab course site browser bench bench-serve soak room rehearse clean

help:
	@echo "make demo   fine-tune a real language model with QLoRA and show that it worked"
	@echo "make test   lint, types and all tests"
	@echo "make lint   ruff, types, and the floors and faces of the house"
	@echo "make quick  the tests of three minutes, of all rooms or of one (ROOM=data)"
	@echo "make lab    open the course in JupyterLab"
	@echo "make course run all lessons as readers do, with a report"
	@echo "make site   a static web site of a course run (RUN=folder)"
	@echo "make browser  whole lessons in JupyterLab, driven through a browser"
	@echo "make bench  compare training with TRL's, side by side"
	@echo "make bench-serve  compare answering with transformers', side by side"
	@echo "make soak   eight clients on the server for ten minutes"
	@echo "make room   eight students from a packed folder to lesson 00, without a network"
	@echo "make rehearse   every lesson on the packages that Colab ships"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[course,harness,logs,serve,site,dev]"
	@# JupyterLab would ask at its first start whether it may fetch news.
	$(BIN)/jupyter labextension disable --level sys_prefix "@jupyterlab/apputils-extension:announcements"
	@touch $(READY)

demo: $(READY)
	$(BIN)/qlora-kit demo --output runs/demo

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.gates.house

test: lint
	$(BIN)/python -m pytest --numprocesses $(TESTS_AT_ONCE) --dist worksteal

# Without the lessons and what is marked slow: for who changes one room.
quick: $(READY)
	$(BIN)/python -m pytest tests/$(ROOM) --ignore tests/test_notebooks.py -m "not browser and not slow" \
		--numprocesses $(TESTS_AT_ONCE) --dist worksteal

lab: $(READY)
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

course: $(READY)
	$(BIN)/qlora-kit course run --profile laptop --out runs/course-laptop

site: $(READY)
	$(BIN)/qlora-kit course site $(RUN)

browser: $(READY)
	$(BIN)/python -m pytest tests/course/test_lab.py -m "browser or not browser"

bench: $(READY)
	$(BIN)/python -m tests.tools.bench
	$(BIN)/python -m tests.tools.bench_growth

bench-serve: $(READY)
	$(BIN)/python -m tests.tools.bench_serve

soak: $(READY)
	$(BIN)/python -m tests.tools.soak

room: $(READY)
	$(BIN)/python -m tests.tools.room

rehearse: $(READY)
	$(BIN)/python -m tests.tools.rehearse

clean:
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
