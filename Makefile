# make demo    classify inputs/vale.jpg under encryption, from nothing
# make test    every test of the Python side but the slow ones, and a part of them without asserts
# make slow    the slow tests, up to minutes each; those that want public data skip without it
# make lint    style, formatting, types, and the stubs of the core against the core
# make docs    the documentation as a site, in build/site; a broken link fails
# make sanitize  C++ tests under the address and undefined behaviour sanitizers, warnings as errors
# make wheel   dist/fheinfer-*.whl
# make clean   everything made here, except keys

PYTHON ?= python3
VENV   ?= .venv
SET    ?= turbo
IMAGE  ?= vale.jpg
# First and exact: a looser pin lets pip trade a CPU build that is there for a CUDA build.
TORCH  ?= torch==2.13.0
# For tests alone, which skip without it. Without what it asks for: an older PyTorch is part of that, and the rest is there.
BREVITAS := brevitas==0.13.4 dependencies==2.0.1 unfoldNd==0.2.3

CMAKE  ?= cmake
# What checks inputs has to do so with `python -O`, too.
WITHOUT_ASSERTS := tests/model tests/compiler/test_plan.py tests/crypto/test_artifact.py
# Warnings are errors in CI only: a newer compiler may know more of them.
WERROR ?= $(if $(CI),ON,OFF)
CTEST  ?= ctest

BIN     := $(VENV)/bin
NATIVE  := pyproject.toml CMakeLists.txt $(shell find cmake csrc -type f)

# Tests of the page in a browser skip without Node, npm and Chromium.
PAGE    := tests/page/node_modules/.installed

.PHONY: demo test slow lint docs sanitize wheel clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/fheinfer demo --set $(SET) --image $(IMAGE)

test: $(VENV)/.installed $(VENV)/.brevitas $(PAGE)
	$(BIN)/pytest
	$(BIN)/python -O -m pytest -q $(WITHOUT_ASSERTS)

slow: $(VENV)/.installed $(VENV)/.brevitas
	$(BIN)/pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest fheinfer._core --allowlist tests/stubtest.txt

docs: $(VENV)/.installed
	$(BIN)/python -m mkdocs build --strict

sanitize:
	$(CMAKE) -S . -B build/sanitize -DFHEINFER_TESTS=ON -DFHEINFER_WERROR=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DCMAKE_CXX_FLAGS='-fsanitize=address,undefined -fno-sanitize-recover=all'
	$(CMAKE) --build build/sanitize --parallel 2
	$(CTEST) --test-dir build/sanitize --output-on-failure

wheel: $(VENV)/.venv
	$(BIN)/pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) tests/page/node_modules build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.venv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fheinfer needs Python 3.11 or later: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	touch $@

$(VENV)/.torch: $(VENV)/.venv
	$(BIN)/pip install '$(TORCH)'
	touch $@

# One install serves the demo and the tests: the native part takes minutes to build. Editable, because a plain one would
# be hidden in this folder by the sources, which lack the native part.
$(VENV)/.installed: $(VENV)/.torch $(NATIVE)
	$(BIN)/pip install --editable '.[dev]' -C cmake.define.FHEINFER_WERROR=$(WERROR)
	touch $@

$(VENV)/.brevitas: $(VENV)/.installed
	$(BIN)/pip install --no-deps --retries 1 $(BREVITAS) && touch $@ || echo 'no Brevitas to be had: its tests skip' >&2

# In CI it has to be there, so that these tests run.
$(PAGE): tests/page/package-lock.json
	cd tests/page && npm ci --ignore-scripts --no-audit --no-fund && touch node_modules/.installed \
	  || { echo 'no npm packages to be had: tests of the page skip' >&2; test -z "$(CI)"; }
