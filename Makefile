# make demo   set up and run the main job: train, sample and measure on handwritten digits
# make test   set up and run the whole test suite
# make lint   style and format
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.complete

.PHONY: demo test lint setup

demo: setup
	$(BIN)/python -m image.train

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("LayerSync needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -e '.[vae,wan,motion,efficientnet,hf,ode,eval,log,dev]' -c constraints.txt
	touch $@
