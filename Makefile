# `make all` runs the study (SCALE=evidence: a larger one), `make test` tests the project, `make check`
# only lint, types, documentation and unit tests. Each sets up .venv on first use.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: all lint docs package check test coverage long-test image-test report-test docs-test viewer-test \
  box-test slurm-test punish smoke ui dream bench gpu-check fuzz soak audit setup libraries lock

CORES ?= all
PYTHON ?= python3.11 python3.12 python3
# Fresh: 2.13.0, the tested version. A CUDA build from 2.11 on stays. TORCH takes pip's options too.
export TORCH ?= torch>=2.11,<=2.13.0
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv

# Packages go to .venv only, whatever variables pip and uv would read.
unexport PIP_PREFIX PIP_PYTHON PIP_ROOT PIP_TARGET
export PIP_USER := 0
UV_PIP := uv pip install -q --python .venv/bin/python
# Caches of pip, uv and Snakemake, where there is no home folder or it is read-only.
export HOME ?= $(shell cd ~ && pwd)
ifndef XDG_CACHE_HOME
ifeq (,$(shell mkdir -p ~/.cache 2>/dev/null && test -w ~/.cache && echo yes))
export XDG_CACHE_HOME := $(CURDIR)/.snakemake/cache
endif
endif
# $(call quote,TEXT): one word of the shell.
quote = '$(subst ','\'',$(1))'

# Stamps are named by what went in: a second run finds them, a moved folder or a new lock does not.
stamp = .venv/$(1)-$(shell (echo $(call quote,$(CURDIR) $(TORCH)); cat $(2)) | sha256sum | cut -c 1-12)
LIBRARIES := $(call stamp,libraries,requirements.lock)
READY := $(call stamp,ready,requirements.lock pyproject.toml)

# Snakemake starts no more jobs on GPUs than there are places (config/config.yaml).
CARDS := $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU')
JOBS_PER_GPU := $(shell sed -n 's/^jobs_per_gpu: *\([0-9]*\).*/\1/p' config/config.yaml)
LIMIT := $(if $(filter-out 0,$(CARDS)),--resources gpu=$(shell echo $$(($(CARDS) * $(JOBS_PER_GPU)))))

SUDO := $(if $(filter 0,$(shell id -u)),,sudo -n)
APT := apt-get install -y --no-install-recommends
OPENGL := $(if $(wildcard /dev/nvidia[0-9]*),libegl1 libopengl0 libgl1,libosmesa6)
# $(call system,PACKAGE): install it where that is allowed, else say the line that does.
system = { $(SUDO) apt-get update && $(SUDO) $(APT) $(1); } >/dev/null 2>&1 || \
  { echo "A system package is missing. As root: $(APT) $(1)"; exit 1; }

all: setup
	@cwm doctor --unlock
	exec snakemake --cores $(CORES) $(LIMIT) $(if $(SCALE),--config scale=$(SCALE)) -- all

# Two processes; the tests of a file share one, so that its fixtures are set up once.
PYTEST := pytest -n 2 --dist loadfile --no-loadscope-reorder
# Unit tests: no simulator, no MLflow, and few child processes.
UNIT := $(addprefix tests/,analysis behavior infra nn world test_config.py test_layers.py) \
  --ignore=tests/infra/test_tracking.py

lint: setup
	@ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --lint
	hadolint Dockerfile
	zizmor --offline --quiet .github/workflows
	mypy

# The documentation, in site/; a broken link is an error.
docs: setup
	@python docs/generate.py
	zensical build --clean --strict

# The source archive and the wheel, in dist/.
package: setup
	@rm -rf dist
	uv build --quiet --no-build-isolation --python .venv/bin/python

check: lint docs
	@$(PYTEST) $(UNIT)

test: lint docs
	@$(PYTEST)

coverage: setup
	@$(PYTEST) --cov=cwm --cov=envs --cov-report=html

# Every test below whose system packages are installed, two hours or more; SEED, KILLS, INPUTS and
# MINUTES are passed on. Before a release, and recorded in docs/reliability.md.
long-test: setup
	@exec tests/long.sh

# The Dockerfile, built on a stand-in base, and its own commands in it.
image-test: setup
	@exec python tests/image/build.py

# The report in a real browser, which is installed where that is allowed.
report-test: setup
	@command -v chromium >/dev/null || $(call system,chromium)
	exec pytest tests/report/chromium.py

# The commands of every page of the documentation, and its site in a real browser.
docs-test: docs
	@command -v chromium >/dev/null || $(call system,chromium)
	exec pytest tests/docs/pages.py tests/docs/browser.py

# The viewer in a real browser.
viewer-test: setup
	@command -v chromium >/dev/null || $(call system,chromium)
	exec pytest tests/viewer/browser.py

# The services of compose.yaml, really run: a PostgreSQL, the tracking server, many runs at once.
box-test: setup
	@pytest -s tests/box/box.py

# On a SLURM cluster that it starts on this machine; says which Debian packages that needs.
slurm-test: setup
	@exec tests/slurm/cluster.sh pytest tests/slurm/test_slurm.py

# Kills every stage and a whole study at random moments, which follow from SEED.
KILLS ?= 150
punish: setup
	@exec python tests/punish.py --kills $(KILLS) $(if $(SEED),--seed $(SEED))

smoke: SCALE := smoke
smoke: all

ui: setup
	@exec cwm ui

# The published models in a browser.
dream: setup
	@exec cwm dream

# Three to five minutes on two cores. REFERENCE=DIR, a checkout of the official code, is timed beside
# ours, at the paper's sizes: a quarter of an hour more on a CPU.
bench: setup
	@for each in update loader environment decoding; do python "bench/$$each.py"; done
	$(if $(REFERENCE),python bench/reference.py --reference $(call quote,$(REFERENCE)))
	echo "The results are in bench/out; python bench/record.py A.json B.json compares two."

# The GPU path: right, and how fast; nine minutes at most, results in OUT. It needs no set-up.
# REFERENCE=DIR as for bench. `make gpu-check --dry` (or DRY=1) tries every step on a CPU, tiny.
DRY ?= $(findstring n,$(firstword -$(MAKEFLAGS)))
gpu-check:
	+@exec python3 bench/gpu_check.py $(if $(DRY),--dry) $(if $(REFERENCE),--reference $(call quote,$(REFERENCE))) \
	  $(if $(OUT),--out $(call quote,$(OUT))) $(if $(ONLY),--only $(ONLY))

# Bad input by the thousand: a quarter of an hour on two busy cores. INPUTS=20000 asks for more.
fuzz: setup
	@exec python tests/fuzz/fuzz.py $(if $(INPUTS),--inputs $(INPUTS))

# Training for an hour, or for MINUTES=5, while memory, files and threads are watched.
soak: setup
	@exec python tests/soak.py $(if $(MINUTES),--minutes $(MINUTES))

# Known vulnerabilities of what is locked, asked of osv.dev.
audit: setup
	@exec uv tool run pip-audit==2.10.1 --requirement requirements.lock --require-hashes \
	  --disable-pip --vulnerability-service osv --progress-spinner off

setup: $(READY)

libraries: $(LIBRARIES)

$(LIBRARIES):
	@right='import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])'
	for python in $(PYTHON); do "$$python" -c "$$right" 2>/dev/null && break; done || \
	  { echo "Python 3.11 or 3.12 is needed. As root: $(APT) python3 python3-venv"; exit 1; }
	odd='import os, sys; sys.exit(any(c in ":%[]{}" or c < " " for c in os.getcwdb().decode()))'
	"$$python" -c "$$odd" 2>/dev/null || { echo "The path of this folder has one of : % [ ] { }, a" \
	  "control character or no UTF-8, which Python's tools cannot take: rename it"; exit 1; }
	if ! { grep -qsF "$$VIRTUAL_ENV" .venv/pyvenv.cfg && .venv/bin/python -m pip -V >/dev/null; }; then
	  echo "set-up: an environment in .venv"
	  "$$python" -c 'import ensurepip' 2>/dev/null || $(call system,"$$(basename "$$python")-venv")
	  "$$python" -m venv --clear .venv
	fi
	echo "set-up: torch, which can take minutes"
	python -m pip install -qq $$TORCH
	echo "set-up: the libraries of requirements.lock"
	python -m pip install -qq "$$(grep -o '^uv==[^ ]*' requirements.lock)"
	lock='--require-hashes -r requirements.lock'
	$(UV_PIP) --compile-bytecode $$([ ! -e /etc/ssl/certs/ca-certificates.crt ] || echo --system-certs) $$lock || \
	  { echo "set-up: uv could not, so pip does (slower)"; python -m pip install -qq $$lock; }
	rm -f .venv/libraries-* && touch $@

$(READY): | $(LIBRARIES)
	@$(UV_PIP) --offline --no-deps --no-build-isolation -e .
	python -c 'import sys; from cwm import doctor; sys.exit(not doctor.opengl().ok)' || \
	  $(call system,$(OPENGL))
	cwm doctor
	rm -f .venv/ready-* && touch $@

lock: $(LIBRARIES)
	@uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command 'make lock' requirements.txt -o requirements.lock
