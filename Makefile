# make demo    quantize the embedded model, compare, print the tables
# make test    everything that has to be right (what CI runs first)
# make peers   install llama.cpp's Python package (builds for ten minutes, once) and run the tests against it
# make bench   speed, memory and quality next to llama.cpp in the same run; the figures go into README.md
# make fuzz    feed spoiled files to everything that reads files, MINUTES each (3), by SEED (0)
# make neon    compile the kernels for 64-bit ARM, and run their self-test where an emulator is installed
#
# A machine needs git, make, g++ and Python >= 3.10 with venv and headers; all else comes from PyPI into .venv.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
MODEL  := examples/models/pocket-llama
DEMO   := out/pocket-llama-Q4_K_M.gguf
TEXT   := out/reference-manual.txt

# Python edits need no new installation (it is editable); these do.
BUILT_FROM := pyproject.toml CMakeLists.txt scripts/setup.sh $(wildcard native/*.* native/*/*.*)

MINUTES ?= 3
SEED    ?= 0

.PHONY: setup demo test lint peers bench fuzz neon clean

setup: $(VENV)/.ready

$(VENV)/.ready: $(BUILT_FROM)
	@bash scripts/setup.sh "$(PYTHON)" "$(VENV)"
	@touch $@

demo: setup
	@mkdir -p out
	@$(BIN)/python scripts/demo_text.py $(TEXT)
	$(BIN)/fewbits quantize $(MODEL) -o $(DEMO) --to Q4_K_M --force
	$(BIN)/fewbits compare $(MODEL) $(DEMO) --text $(TEXT)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest --ignore=tests/peers -q -n auto

$(VENV)/.peers: $(VENV)/.ready
	@echo "Installing llama-cpp-python; without a cached wheel it is compiled, which takes about ten minutes."
	@bash scripts/install_peers.sh "$(VENV)"
	@touch $@

peers: $(VENV)/.peers
	@mkdir -p build
	$(BIN)/python -m pytest tests/peers -q -n auto --junit-xml=build/peers.xml
	$(BIN)/python scripts/count_peers.py build/peers.xml tests/peers/skips.toml

bench: $(VENV)/.peers
	$(BIN)/python scripts/readme_figures.py

fuzz: setup
	$(BIN)/python -m fuzz --minutes $(MINUTES) --seed $(SEED)

neon:
	bash scripts/neon.sh

clean:
	rm -rf build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis
