# Every target sets up what it needs: an environment in .venv, made once and renewed when pyproject.toml changes.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
SCALE ?= mini
LAUNCHER ?= $(if $(filter mini,$(SCALE)),joblib,basic)
ARGS ?=

TABLES := table1 table2 table3 table4 table5

.PHONY: help setup demo $(TABLES) claims test lint benchmarks clean
.DEFAULT_GOAL := help

help:            ## this list
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v < (3, 14) else "midre-exp needs Python 3.10 to 3.13, this is %d.%d; call make PYTHON=python3.12" % v)'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment; install python3-venv or set PYTHON" >&2; exit 2; }
	@echo "installing midre-exp and its dependencies into $(VENV) (a few minutes the first time)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup: $(VENV)/.ready   ## the environment alone

demo: setup      ## a complete comparison on synthetic faces: table, HTML page with reconstructions
	@$(PY) -m midre_exp.report demo scale=$(SCALE) hydra/launcher=$(LAUNCHER) $(ARGS)

table1:          ## where to erase: random, fixed, whole images. All tables: SCALE=mini|synth|paper LAUNCHER=basic|joblib|slurm ARGS=...
table2:          ## the 37 setups, and what of them has been run
table3:          ## LOMMA and PLG-MI on VGG16: undefended, NLS, MIDRE
table4:          ## MIDRE beside other augmentations
table5:          ## MIDRE combined with NLS and with BiDO
$(TABLES): setup
	@$(PY) -m midre_exp.report $@ scale=$(SCALE) hydra/launcher=$(LAUNCHER) $(ARGS)

claims: setup    ## what the records of SCALE say to every claim of the paper; runs nothing
	@$(PY) -m midre_exp.report claims scale=$(SCALE) $(ARGS)

test: lint       ## lint, types and the test suite
	@$(PY) -m pytest

lint: setup      ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

benchmarks: setup  ## measure speed on an idle machine and print it
	@for file in benchmarks/*.py; do $(PY) $$file || exit; done

clean:           ## remove artifacts and run folders (results/ stays)
	rm -rf artifacts runs
