# One target per verb; CI runs the same ones. `make test` on a fresh machine does all the set-up it needs.

PYTHON ?= python3
DURATION ?= 10m
PORT := 10042
TOOLS := .tools
UV := $(TOOLS)/uv/bin/uv
# uv leaves its lock in the folder for temporary files.
SYNC := TMPDIR=$(CURDIR)/$(TOOLS) $(UV) sync -q --locked --python $(PYTHON)
BIN := .venv/bin
export UV_PYTHON_DOWNLOADS := never

# Tests wait about as much as they compute, so two processes more than CPUs.
PARALLEL := -n $(shell expr $$(nproc) + 2) --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-fast test-no-bpf test-image test-browser test-fresh test-all coverage image chart lint type format docs chart-docs dist sbom audit fuzz bench soak clean

setup: .venv/.done

# The demo's dependencies, then those that only the tests need.
.venv/.demo: pyproject.toml uv.lock .ci/uv.txt .ci/install-packages
	.ci/install-packages $(TOOLS) demo
	test -x $(TOOLS)/uv/bin/pip || $(PYTHON) -m venv $(TOOLS)/uv
	$(TOOLS)/uv/bin/pip -q --disable-pip-version-check install --require-hashes -r .ci/uv.txt
	$(SYNC) --inexact --no-dev --extra node
	touch $@

.venv/.done: .venv/.demo .ci/install-kubectl .ci/install-definitions
	.ci/install-packages $(TOOLS)
	$(PYTHON) .ci/install-kubectl $(TOOLS)
	$(PYTHON) .ci/install-definitions $(TOOLS)/definitions
	$(SYNC) --all-extras
	touch $@

# Where another program uses the port: make demo PORT=0
demo: .venv/.demo
	@exec .ci/demo "$(CURDIR)/$(TOOLS)/bin" --web.listen-address localhost:$(PORT) --rules chart/files/rules

test: lint type
	$(BIN)/pytest $(PARALLEL)

# About a minute, without root; CONTRIBUTING.md says what it leaves out.
test-fast: setup
	$(BIN)/pytest $(PARALLEL) -m "not kernel" -k "not promtool" $(addprefix tests/,bpf calico metrics node page snapshot) tests/test_*.py

# Also covers the processes of the installed program that tests start. Measured, they are slower and larger, and some
# cannot write the measurement and say so: tests of limits and errors can fail here, and the report is written anyway.
coverage: setup
	mkdir -p build/coverage
	$(BIN)/coverage erase
	-$(BIN)/coverage run -m pytest $(PARALLEL)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

test-no-bpf: lint type
	$(BIN)/pytest $(PARALLEL) -m "not kernel and not image and not browser"

test-image: setup
	.ci/install-image-tools
	$(BIN)/pytest -m image

test-browser: setup
	.ci/install-browser
	@$(SYNC) --all-extras --group browser
	$(BIN)/pytest -m browser

# The README's commands and then all tests, on minimal Debians 12 and 13; needs root, and an hour.
test-fresh:
	.ci/test-fresh --then 'make test' bookworm trixie

test-all:
	.ci/run

image:
	.ci/build-image

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

type: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

chart: setup
	$(TOOLS)/bin/helm lint --strict chart
	$(TOOLS)/bin/helm package -d build chart

docs: setup
	@$(SYNC) --all-extras --group docs
	@$(BIN)/python .ci/command-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs -q build

chart-docs: setup
	$(BIN)/python .ci/chart-docs

dist: setup
	.ci/build-dist $(UV) dist
	sha256sum dist/*.whl dist/*.tar.gz

sbom: setup
	.ci/sbom $(UV) build/calico-bpf-exporter.cdx.json

# Needs api.osv.dev and fails without it.
audit: setup
	$(UV) audit --locked --no-dev --preview-features audit-command

# The properties of tests/fuzz with 20,000 examples each instead of 100; about half an hour.
fuzz: setup
	$(BIN)/pytest --hypothesis-profile=long --timeout=0 tests/fuzz

# Byte-compiled as in the image, so that memory and start-up time are those on a node.
bench: setup
	$(SYNC) --all-extras --compile-bytecode
	$(BIN)/python -m compileall -q exporter
	$(BIN)/python bench/scrape.py
	$(BIN)/python bench/map_fill.py
	$(BIN)/python bench/rules.py
	$(BIN)/python bench/uncounted.py
	$(BIN)/python bench/connections.py
	$(BIN)/python bench/dependencies.py
	$(BIN)/python bench/growth.py
	$(BIN)/python bench/start.py
	$(BIN)/python bench/peer.py

# For a night: make soak DURATION=8h
soak: setup
	$(BIN)/python -m tests.soak $(DURATION)

clean:
	rm -rf .venv $(TOOLS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -r {} +
