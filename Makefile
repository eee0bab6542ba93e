# make quickstart   installs, trains a tiny HyperGrid T5 on the bundled sample
#                   corpus and prints the table. Repeated, it goes on with the
#                   run; `make quickstart ARGS=--fresh` moves it aside instead
# make test         installs and runs the tests
# make bench        runs the benchmarks that can run here and writes their
#                   figures to docs/performance.md
# PYTHON=python3.12 make test     picks the interpreter
#
# The environment is .venv. When .venv has another Python than the one asked
# for, a second environment is made beside it, such as .venv-3.12.

ifeq ($(origin PYTHON),undefined)
  PYTHON := python3
  VENV ?= .venv
else
  VERSION := $(shell $(PYTHON) -c \
    'import sys; print("%d.%d" % sys.version_info[:2])')
  ifeq ($(VERSION),)
    $(error PYTHON=$(PYTHON) does not run)
  endif
  VENV ?= $(shell [ -d .venv ] && [ ! -e .venv/bin/python$(VERSION) ] \
    && echo .venv-$(VERSION) || echo .venv)
endif
RUN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install quickstart test lint bench clean

install: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml constraints.txt
	test -x $(RUN)/python || { $(PYTHON) -c 'import sys; \
	  sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is \
	needed: PYTHON=python3.12 make")' && $(PYTHON) -m venv $(VENV); }
	$(RUN)/python -m pip install -c constraints.txt -e '.[test]'
	$(RUN)/python -m hypergrid_jax.tasks.tensorflow_guard
	touch $@

quickstart: install
	$(RUN)/hypergrid train --gin_file=gin/runs/quickstart.gin \
	  --model_dir=runs/quickstart $(ARGS)

test: install
	$(RUN)/python -m pytest -n 2 tests $(ARGS)

lint: install
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/shellcheck --external-sources launch/*.sh

bench: install
	$(RUN)/python benchmarks/run.py $(ARGS)

# Leaves environments and runs/ alone; the next make installs again.
clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	rm -f .venv*/.installed
	find . -path './.venv*' -prune -o -name __pycache__ -type d -print0 \
	  | xargs -0 rm -rf
