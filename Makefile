# Every target sets up what it needs: an environment in .venv, made once and renewed when pyproject.toml changes.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
SCALE ?= mini
LAUNCHER ?= $(if $(filter mini evidence,$(SCALE)),joblib,basic)
ARGS ?=

TABLES := table1 table2 table3 table4 table5
FIGURES := fig2 fig3 fig4 fig5 fig6 fig7
EVIDENCE_2026 := evidence_2026 leakage
ZOO_STORE ?= artifacts
ZOO := $(addprefix resnet18-,nodef-s0=target/3f4a7d04031e0791 midre-s0=target/9870ed6598da6815 midre_wide-s0=target/58d213665e81c709 \
	random_pixels-s0=target/32e7d80399e412cf cutmix-s0=target/4c62bc0b9c75236c nls-s0=target/9a687af43a95bf03 \
	tldmi-s0=target/7bb783beb79cce84 bido-s0=target/1aae2aaf74604d30) \
	evaluator-vgg16=evaluator/9d2aa0c6b8ea3a02 prior-stylegan2=prior/4af6e1319153491f
EVIDENCE := convergence lengths evidence early_stopping frontier

.PHONY: help setup demo all evidence evidence-2026 attacks-2026 $(TABLES) $(FIGURES) grid lfw worst claims site zoo doctor test test-slow test-slurm fidelity chaos smoke rehearse lint docs docs-serve benchmarks clean
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

table1:          ## where to erase: random, fixed, whole images. All tables: SCALE=mini|synth|paper LAUNCHER=basic|joblib|local_gpus|slurm ARGS=...
table2:          ## the 37 setups, undefended and under MIDRE
table3:          ## LOMMA and PLG-MI on VGG16: undefended, NLS, MIDRE
table4:          ## MIDRE beside other augmentations
table5:          ## MIDRE combined with NLS and with BiDO
fig2:            ## accuracy and attack accuracy over the erased share
fig3:            ## feature space: private, erased, reconstructed
fig4:            ## feature space: whether people stay apart
fig5:            ## accuracy against attack accuracy, six architectures, seven defenses
fig6:            ## MIRROR, undefended and under MIDRE
fig7:            ## IF-GMI, undefended and under MIDRE
grid:            ## reconstructions to look at, as one picture
$(TABLES) $(FIGURES) grid: setup
	@$(PY) -m midre_exp.report $@ scale=$(SCALE) hydra/launcher=$(LAUNCHER) $(ARGS)

all: setup       ## every table and figure, what they lack as one sweep, then the claims
	@$(PY) -m midre_exp.report $(TABLES) $(FIGURES) claims scale=$(SCALE) hydra/launcher=$(LAUNCHER) $(ARGS)

evidence: SCALE = evidence
evidence: setup  ## converged targets, controls, three seeds: tables, figures, claims and one page, results/evidence (docs/evidence.md; about 4 h)
	@$(PY) -m midre_exp.report $(EVIDENCE) claims forest summary scale=$(SCALE) hydra/launcher=$(LAUNCHER) $(ARGS)

evidence-2026: SCALE = evidence
evidence-2026: setup  ## arms of 2024 to 2026 and controls beside them, with diagnostics of every target (docs/evidence.md; an estimate: 5 core-hours)
	@$(PY) -m midre_exp.report $(EVIDENCE_2026) claims scale=$(SCALE) hydra/launcher=$(LAUNCHER) $(ARGS)

attacks-2026: setup   ## attacks of 2023 to 2025 beside those they build on, three seeds: table and claims (docs/attacks_2026.md; an estimate: 5 core-hours)
	@$(PY) -m midre_exp.report attacks_2026 claims scale=$(SCALE) hydra/launcher=$(LAUNCHER) $(ARGS)

worst: SCALE = evidence
worst: setup     ## suites of attacks: what a defense survives, informed attackers among them (docs/worst_case.md)
	@$(PY) -m midre_exp.report worst attackers claims scale=$(SCALE) hydra/launcher=$(LAUNCHER) $(ARGS)

lfw: setup       ## real faces (Labeled Faces in the Wild): PPA and PLG-MI, four defenses, three seeds. LFW=DIR: where they lie (default: data)
	@$(PY) -m midre_exp.report lfw scale=lfw hydra/launcher=$(if $(filter file,$(origin LAUNCHER)),joblib,$(LAUNCHER)) $(if $(LFW),data.root=$(LFW)) $(ARGS)

claims: setup    ## what the records of SCALE say to every claim of the paper; runs nothing
	@$(PY) -m midre_exp.report claims scale=$(SCALE) $(ARGS)

site: setup      ## leaderboards, tables, figures and claims of results/ as a folder that opens from disk, leaderboard/ (docs/site.md)
	@$(PY) -m midre_exp.report site $(ARGS)

zoo: setup       ## the files of zoo/ once more, in build/zoo, of what make evidence left in ZOO_STORE (default: artifacts)
	@$(PY) -m midre_exp.store export --store $(ZOO_STORE) --zoo --precision float16 --records results/evidence $(ZOO) build/zoo

doctor: setup    ## which of the 37 setups can run here at scale paper, what is missing for the others (SCALE=synth ARGS=S27: another, one)
	@$(PY) -m midre_exp.doctor $(if $(filter command environment,$(origin SCALE)),--scale $(SCALE)) $(ARGS)

test: lint       ## lint, types and the test suite
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist worksteal

test-slow: setup ## what make test leaves out: half a minute and more each, or the second of its kind. ARGS="-k damage": some
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m slow -n auto --dist worksteal $(ARGS)

test-slurm: setup   ## sweeps on a SLURM of its own, disturbed in every way (ten minutes; root gets slurm-wlm and munge installed)
	@if test "$$(id -u)" = 0 && command -v apt-get >/dev/null && ! command -v slurmctld >/dev/null; then \
		echo "installing slurm-wlm and munge"; \
		apt-get -qq update && apt-get -qq install --yes --no-install-recommends slurm-wlm munge >/dev/null || true; fi
	@$(PY) -m pytest -m slurm -rs tests/slurm

fidelity: setup  ## whole loops against recorded runs of the official programs, training against plain loops. ARGS="-k ppa": some
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m fidelity -n auto --dist worksteal tests/fidelity $(ARGS)

chaos: setup     ## kill, race and damage sweeps at random, then compare with undisturbed ones (an hour). ARGS='--kills 20 --only kills': less
	@$(PY) -m tests.chaos $(ARGS)

smoke: setup     ## every setup of the paper, full networks on tiny files in the official layouts, a few steps. DEVICE=cuda, ARGS="S01 S27": some
	@$(PY) -m midre_exp.doctor.smoke $(if $(DEVICE),--device $(DEVICE)) $(ARGS)

rehearse: setup  ## ten setups and every attack, defense, prior and target on a pretended GPU (13 minutes). ARGS="-k S01": some
	@$(PY) -m tests.rehearsal $(ARGS)

lint: setup      ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

$(VENV)/.docs: $(VENV)/.ready
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

docs: $(VENV)/.docs        ## the documentation site in build/site; a warning or a dead link is an error
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "the site lies in build/site; open build/site/index.html"

docs-serve: $(VENV)/.docs  ## the same while you write, on http://127.0.0.1:8000
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs serve

benchmarks: setup  ## measure speed on an idle machine and print it
	@for file in $(filter-out benchmarks/official.py benchmarks/measuring.py,$(wildcard benchmarks/*.py)); do $(PY) $$file || exit; done

.PHONY: dist lock
dist: setup      ## what PyPI gets, in dist/: source distribution and wheel, checked
	@rm -rf dist
	@$(PY) -m build --no-isolation --outdir dist .
	@$(PY) -m twine check --strict dist/*
	@if grep -q 'https://repository\.invalid' pyproject.toml; then \
		echo "not for PyPI yet: pyproject.toml names repository.invalid where the address of the repository belongs"; fi

lock:            ## renew requirements.lock from pyproject.toml and public PyPI (needs uv: https://docs.astral.sh/uv)
	@command -v uv >/dev/null || { echo "make lock needs uv; install it with: pip install uv" >&2; exit 2; }
	@uv --no-config pip compile --quiet --upgrade --universal --all-extras --python-version 3.10 \
		--default-index https://pypi.org/simple --annotation-style line --custom-compile-command 'make lock' \
		--output-file requirements.lock pyproject.toml

clean:           ## remove artifacts and run folders (results/ stays)
	rm -rf artifacts runs
