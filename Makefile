# make demo: from a bare machine to runs/demo/report.html     make test: gates and tests     make docs: build/docs/index.html
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test docs install clean

demo: .venv/installed
	$(BIN)/python scripts/demo.py

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going --quiet -c docs -d build/doctrees . build/docs

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" sh scripts/make_venv.sh .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv runs
