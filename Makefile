# Two commands: `make quickstart` runs the whole pipeline, `make test` passes the tests. Both install what they need.

PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin

.PHONY: quickstart test lint docs clean

quickstart: $(VENV)/.installed
	$(RUN)/fairlead run quickstart

test: $(VENV)/.installed-dev
	$(RUN)/python -m pytest -n 2 --dist loadscope

lint: $(VENV)/.installed-dev
	$(RUN)/ruff check src tests benchmarks docs evidence
	$(RUN)/ruff format --check src tests benchmarks docs evidence
	$(RUN)/mypy
	$(RUN)/lint-imports

docs: $(VENV)/.installed-dev
	$(RUN)/python docs/make.py
	$(RUN)/mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(RUN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(RUN)/python -m pip install --quiet -c constraints.txt torch
	$(RUN)/python -m pip install --quiet -c constraints.txt -e ".[tensorboard,fast]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(RUN)/python -m pip install --quiet -c constraints.txt -e ".[tensorboard,fast,ray,dev]"
	touch $@

clean:
	rm -rf $(VENV) runs site build
