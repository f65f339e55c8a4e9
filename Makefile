# Two commands for a newcomer: `make run` and `make test`.  Everything lives in .venv and in the
# user's cache folder (KERNELPROF_HOME moves the latter).

VENV   := .venv
PYTHON := $(VENV)/bin/python
RUN    := quick.kprof
PAGE   := kernelprof-report.html

.PHONY: setup run test lint types docs clean

setup: $(VENV)/installed
	@$(PYTHON) -m kernelprof engines install --all || echo "going on without them"

$(VENV)/installed: pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kernelprof needs Python 3.11 or newer")'
	@test -x $(PYTHON) || python3 -m venv $(VENV)
	@echo "installing kernelprof into $(VENV)"
	@$(PYTHON) -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@

run: setup
	@rm -f $(RUN) $(RUN)-wal $(RUN)-shm
	@$(PYTHON) -m kernelprof run --quick --threads $(THREADS) -o $(RUN)
	@$(PYTHON) -m kernelprof report $(RUN) --format html -o $(PAGE)
	@echo "open file://$(CURDIR)/$(PAGE)"

# One thread, and all CPUs where there are more.
THREADS = $(shell $(PYTHON) -c 'import os; n = len(os.sched_getaffinity(0)); print(*sorted({1, n}), sep=",")')

test: setup
	@$(PYTHON) -m pytest

lint: setup
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check

types: setup
	@$(PYTHON) -m tests.typecheck

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict
	@echo "open file://$(CURDIR)/build/site/index.html"

clean:
	rm -rf $(VENV) build dist *.egg-info $(RUN) $(RUN)-wal $(RUN)-shm $(PAGE)
