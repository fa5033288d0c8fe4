# One target per verb; CI runs the same ones. `make test` on a fresh machine does all the set-up it needs.

PYTHON ?= python3
DURATION ?= 10m
PORT := 10042
TOOLS := .tools
UV := $(TOOLS)/uv/bin/uv
BIN := .venv/bin
export UV_PYTHON_DOWNLOADS := never

.PHONY: setup demo test test-image test-browser test-all image chart lint type format docs chart-docs dist sbom audit fuzz bench soak clean

setup: .venv/.done

.venv/.done: pyproject.toml uv.lock .ci/uv.txt .ci/install-packages .ci/install-kubectl .ci/install-definitions
	.ci/install-packages $(TOOLS)
	test -x $(TOOLS)/uv/bin/pip || $(PYTHON) -m venv $(TOOLS)/uv
	$(TOOLS)/uv/bin/pip -q --disable-pip-version-check install --require-hashes -r .ci/uv.txt
	$(PYTHON) .ci/install-kubectl $(TOOLS)
	$(PYTHON) .ci/install-definitions $(TOOLS)/definitions
	$(UV) sync -q --locked --all-extras --python $(PYTHON)
	touch $@

# Beside another program on the exporter's port: make demo PORT=0
demo: setup
	@exec .ci/demo "$(CURDIR)/$(TOOLS)/bin" --web.listen-address localhost:$(PORT) --rules chart/files/rules

test: lint type
	$(BIN)/pytest

test-image: setup
	.ci/install-image-tools
	$(BIN)/pytest -m image

test-browser: setup
	.ci/install-browser
	@$(UV) sync -q --locked --all-extras --group browser --python $(PYTHON)
	$(BIN)/pytest -m browser

# The whole suite near the end, so that its closing line is the last one; docs says nothing when all is well.
test-all: test-image test-browser test docs

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
	@$(UV) sync -q --locked --all-extras --group docs --python $(PYTHON)
	@$(BIN)/python .ci/command-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs -q build

chart-docs: setup
	$(BIN)/python .ci/chart-docs

dist: setup
	.ci/build-dist $(UV) dist
	sha256sum dist/*.whl dist/*.tar.gz

sbom: setup
	.ci/sbom $(UV) build/calico-bpf-exporter.cdx.json

# Asks api.osv.dev, so it runs only where that is reached, and fails anywhere else.
audit: setup
	$(UV) audit --locked --no-dev --preview-features audit-command

# The laws of tests/fuzz with 20,000 examples each instead of 100; it takes some half an hour.
fuzz: setup
	$(BIN)/pytest --hypothesis-profile=long --timeout=0 tests/fuzz

# Compiled as in the image: memory and start are those of a node.
bench: setup
	$(UV) sync -q --locked --all-extras --compile-bytecode --python $(PYTHON)
	$(BIN)/python -m compileall -q exporter
	$(BIN)/python bench/scrape.py
	$(BIN)/python bench/rules.py
	$(BIN)/python bench/door.py
	$(BIN)/python bench/dependencies.py
	$(BIN)/python bench/growth.py
	$(BIN)/python bench/start.py
	$(BIN)/python bench/peer.py

# Ten minutes, or as long as you say: make soak DURATION=8h
soak: setup
	$(BIN)/python -m tests.soak $(DURATION)

clean:
	rm -rf .venv $(TOOLS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -r {} +
