# make quickstart   installs, trains a tiny HyperGrid T5 on the bundled sample
#                   corpus and prints the table; repeating it resumes the run,
#                   `make quickstart ARGS=--fresh` moves the old one aside
# make test         installs and runs the tests
# PYTHON=python3.12 make test     picks the interpreter
#
# The environment is .venv. When .venv holds another Python than the one asked
# for, the second environment is made beside it, as .venv-3.12.

ifeq ($(origin PYTHON),undefined)
  PYTHON := python3
  VENV ?= .venv
else
  MINOR := $(shell $(PYTHON) -c 'import sys; print("3.%d" % sys.version_info[1])')
  VENV ?= $(shell if [ -d .venv ] && [ ! -e .venv/bin/python$(MINOR) ]; \
                  then echo .venv-$(MINOR); else echo .venv; fi)
endif
RUN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCHMARKS := $(wildcard benchmarks/*.py)

.PHONY: install quickstart test lint bench clean

install: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or newer is needed: PYTHON=python3.12 make install")'
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install -c constraints.txt -e '.[test]'
	$(RUN)/python -m hypergrid_jax.installation
	touch $@

quickstart: install
	$(RUN)/hypergrid train --gin_file=gin/runs/quickstart.gin \
	  --model_dir=runs/quickstart $(ARGS)

test: install
	$(RUN)/python -m pytest -n 2 tests $(ARGS)

lint: install
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .

bench: install
	$(foreach script,$(BENCHMARKS),$(RUN)/python $(script) &&) true

# Leaves the environments and runs/ alone; the next make installs again.
clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	rm -f .venv*/.installed
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
