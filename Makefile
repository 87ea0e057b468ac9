# Everything happens in a virtual environment of this checkout.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FOR_DEMO := $(VENV)/.installed_for_demo
STAMP := $(VENV)/.installed
# setuptools warns of the kind of editable installation that this is
INSTALL = PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable

.PHONY: demo test lint docs clean

demo: $(FOR_DEMO)  ## set up, then run the main job on the embedded database
	$(BIN)/framesieve demo

test: $(STAMP)  ## set up, then run every test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(STAMP)  ## the documents as a site: build/site/index.html; broken links fail
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(FOR_DEMO): pyproject.toml | $(BIN)/pip
	@echo "installing into $(VENV), 1.2 GB: this takes some minutes"
	$(INSTALL) '.[pocl,gui,offline]'
	@touch $@

$(STAMP): pyproject.toml | $(BIN)/pip
	@echo "installing into $(VENV), 1.5 GB: this takes some minutes"
	$(INSTALL) '.[test,gui,sardana]'
	@touch $(FOR_DEMO) $@

# the last that venv makes: where it has failed it is tried again
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "framesieve needs Python 3.11 or later: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip

clean:
	rm -rf $(VENV) build dist *.egg-info
