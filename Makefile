# Two commands from a clean clone, with nothing but Python >= 3.11 and make:
#   make demo    sets up what running needs, then the whole flow on drawn portraits
#   make test    sets up everything, then all checks and tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
BROWSERS := chromium chromium-browser google-chrome
SYSTEM_PACKAGES := libgl1 libglib2.0-0 libegl1 libgles2
# Detector models beside a checkout serve where the user names none.
FACEGAN_MODELS ?= $(wildcard $(abspath ../shared/models))
export FACEGAN_MODELS

.PHONY: help demo test install check slow clean

help:
	@echo "make demo      the whole flow on drawn portraits: draw, prep, train, sample"
	@echo "make test      every check and test"
	@echo "make install   set up $(VENV) with everything, $(BIN)/facegan in it"
	@echo "make slow      the tests that take longer than a few seconds"
	@echo "make clean     remove $(VENV) and what the demo made"

demo: $(VENV)/.ready-to-run
	$(BIN)/facegan demo facegan-demo

install: $(VENV)/.ready-to-test

test: check
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

check: $(VENV)/.ready-to-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

slow: $(VENV)/.ready-to-test
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m slow

clean:
	rm -rf $(VENV) facegan-demo

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("facegan needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another with: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

# Libraries that OpenCV and MediaPipe load: installed where that is possible, else named.
$(VENV)/.system-libraries: | $(VENV)/bin/python
	@missing=""; \
	for library in GL glib-2.0 EGL GLESv2; do \
	  $(BIN)/python -c "import ctypes.util, sys; sys.exit(not ctypes.util.find_library('$$library'))" || missing="$$missing $$library"; \
	done; \
	if [ -n "$$missing" ] && [ "$$(uname)" = Linux ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing $(SYSTEM_PACKAGES)"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(SYSTEM_PACKAGES) >/dev/null; \
	  else \
	    echo "missing system libraries:$$missing. Install them with: sudo apt-get install $(SYSTEM_PACKAGES)"; \
	  fi; \
	fi
	@touch $@

# The browser that reports are looked at with, in the tests alone.
$(VENV)/.browser: | $(VENV)/bin/python
	@for program in $(BROWSERS); do command -v $$program >/dev/null && found=yes; done; \
	if [ -z "$$found" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing chromium"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null \
	      || echo "chromium can't be installed here: tests of reports are skipped"; \
	  else \
	    echo "tests of reports are skipped without a browser. Install one with: sudo apt-get install chromium"; \
	  fi; \
	fi
	@touch $@

$(VENV)/.ready-to-run: pyproject.toml constraints.txt $(VENV)/.system-libraries
	@echo "installing what running needs into $(VENV): some 3 GB to download, torch and its CUDA libraries above all, and"
	@echo "6 GB on disk. It takes two minutes on a fast line, a quarter of an hour at 30 Mbit/s; pip reports as it goes."
	$(PIP) --editable .
	@touch $@

$(VENV)/.ready-to-test: pyproject.toml constraints.txt $(VENV)/.ready-to-run $(VENV)/.browser
	@echo "installing the extras and the tools of the tests into $(VENV): some 400 MB to download"
	$(PIP) --editable '.[dev]'
	@touch $@
