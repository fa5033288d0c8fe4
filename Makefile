# One target per verb; CI runs the same ones. `make test` on a fresh machine does all the set-up it needs.

PYTHON ?= python3
DURATION ?= 10m
NODES ?= 500
SECONDS ?= 330
PROMETHEUS ?= http://localhost:9090
PORT := 10042
TOOLS := .tools
UV := $(TOOLS)/uv/bin/uv
# uv leaves its lock in the folder for temporary files.
SYNC := TMPDIR=$(CURDIR)/$(TOOLS) $(UV) sync -q --locked --python $(PYTHON)
BIN := .venv/bin
# Kept outside the tree: Kubernetes takes twenty minutes to build.
KUBERNETES := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/calico-bpf-exporter/kubernetes
ACTIONLINT := $(TOOLS)/actionlint-1.7.12/actionlint
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
export UV_PYTHON_DOWNLOADS := never

# Tests wait about as much as they compute, so two processes more than CPUs.
PARALLEL := -n $(shell expr $$(nproc) + 2) --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-fast test-no-bpf test-image test-browser test-apiserver test-cluster test-fresh test-all coverage image chart lint type format docs screens chart-docs dist plugin sbom release-check workflows audit fuzz bench bench-cluster soak clean

help:  ## show this list (the default)
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1	\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: .venv/.done  ## install what development needs into .venv and .tools

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
demo: .venv/.demo  ## a small node with real packets and drops, and the exporter
	@exec .ci/demo "$(CURDIR)/$(TOOLS)/bin" --web.listen-address localhost:$(PORT) --rules chart/files/rules

test: lint type  ## lint, types and all tests on this machine
	$(BIN)/pytest $(PARALLEL)

# About a minute, without root; CONTRIBUTING.md says what it leaves out.
test-fast: setup  ## unit tests: a minute, without root
	$(BIN)/pytest $(PARALLEL) -m "not kernel" -k "not promtool" $(addprefix tests/,bpf calico metrics node page snapshot) tests/test_*.py

# Also covers the processes of the installed program that tests start. Measured, they are slower and larger, and some
# cannot write the measurement and say so: tests of limits and errors can fail here, and the report is written anyway.
coverage: setup  ## all tests with coverage
	mkdir -p build/coverage
	$(BIN)/coverage erase
	-$(BIN)/coverage run -m pytest $(PARALLEL)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

test-no-bpf: lint type  ## lint, types and the tests that need no BPF
	$(BIN)/pytest $(PARALLEL) -m "not kernel and not image and not browser and not apiserver and not cluster"

test-image: setup  ## build the image and test it
	.ci/install-image-tools
	$(BIN)/pytest -m image

test-browser: setup  ## test the node's page in Chromium
	.ci/install-browser
	@$(SYNC) --all-extras --group browser
	$(BIN)/pytest -m browser

# Builds Kubernetes once, in some twenty minutes, where Go and Debian's packages are there.
test-apiserver: setup  ## test the client against a real kube-apiserver
	.ci/install-kubernetes "$(KUBERNETES)"
	KUBERNETES="$(KUBERNETES)" $(BIN)/pytest -m apiserver tests/apiserver

# The same programs, with a kubelet and containerd on a node of their own; builds the image.
test-cluster: setup  ## install the chart in a cluster whose node is real (root)
	.ci/install-image-tools
	.ci/install-kubernetes "$(KUBERNETES)"
	.ci/cluster-images build/cluster "$(KUBERNETES)"
	KUBERNETES="$(KUBERNETES)" IMAGES=$(CURDIR)/build/cluster .ci/in-a-node $(BIN)/pytest -m cluster tests/cluster

# The README's commands and then all tests, on minimal Debians 12 and 13; needs root, and an hour.
test-fresh:  ## the README and all tests on minimal Debians (root, an hour)
	.ci/test-fresh --then 'make test' bookworm trixie

test-all:  ## what CI runs (root, hours)
	.ci/run

image:  ## build the image: IMAGE=name, BASE=, BCC=, PLATFORM=
	.ci/build-image

lint: setup  ## check style and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

type: setup  ## check types
	$(BIN)/mypy

format: setup  ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Its image is the one of `make image`, or for a release PUBLISHED=REGISTRY/REPOSITORY.
chart: setup  ## lint and package the chart into build/
	$(TOOLS)/bin/helm lint --strict chart
	rm -rf build/chart && mkdir -p build && cp -r chart build/chart
	@name='$(PUBLISHED)'; [ -z "$$name" ] || sed -i \
		-e "s|^  registry: localhost$$|  registry: $${name%%/*}|" \
		-e "s|^  repository: calico-bpf-exporter$$|  repository: $${name#*/}|" build/chart/values.yaml
	$(TOOLS)/bin/helm package -d build build/chart

docs: setup  ## generate docs/commands.md and build the site
	@$(SYNC) --all-extras --group docs
	@$(BIN)/python .ci/command-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs -q build

# From the Prometheus that `make demo` starts; after eight minutes it has something to show.
screens: setup  ## draw docs/images/dashboard-*.png: PROMETHEUS=address
	@$(SYNC) --all-extras --group screens
	PYTHONPATH=. $(BIN)/python .ci/dashboard-screens $(PROMETHEUS) 8

chart-docs: setup  ## generate the chart's README and schema
	$(BIN)/python .ci/chart-docs

dist: setup  ## build sdist and wheel into dist/, reproducibly
	.ci/build-dist $(UV) dist
	sha256sum dist/*.whl dist/*.tar.gz

# The kubectl plugin as one file, and its manifest for Krew.
plugin: dist  ## build the kubectl plugin for Krew into dist/
	$(BIN)/python .ci/build-plugin $(UV) dist/*-$(VERSION)-*.whl dist

sbom: setup  ## write the bill of materials into build/
	.ci/sbom $(UV) build/calico-bpf-exporter.cdx.json

# Builds all that a release publishes, for this machine's architecture, and compares its versions with the changelog, and
# with the tag if one is named: make release-check TAG=v1.2.3. The image takes minutes: IMAGE=none leaves it out.
release-check: plugin chart sbom  ## build all artefacts, compare versions, changelog and TAG=
	$(BIN)/python .ci/release-check $(TAG)
	@[ "$(IMAGE)" = none ] || .ci/build-image

$(ACTIONLINT):
	GOBIN=$(CURDIR)/$(@D) go install github.com/rhysd/actionlint/cmd/actionlint@v$(patsubst $(TOOLS)/actionlint-%/actionlint,%,$@)

workflows: $(ACTIONLINT)  ## check .github/workflows with actionlint (needs Go)
	$(ACTIONLINT)

# Needs api.osv.dev and fails without it.
audit: setup  ## check dependencies for known vulnerabilities (api.osv.dev)
	$(UV) audit --locked --no-dev --preview-features audit-command

# The properties of tests/fuzz with 20,000 examples each instead of 100; about half an hour.
fuzz: setup  ## the properties of tests/fuzz with many examples
	$(BIN)/pytest --hypothesis-profile=long --timeout=0 tests/fuzz

# Byte-compiled as in the image, so that memory and start-up time are those on a node.
bench: setup  ## measure time and memory
	$(SYNC) --all-extras --compile-bytecode
	$(BIN)/python -m compileall -q exporter
	$(BIN)/python bench/scrape.py
	$(BIN)/python bench/map_fill.py
	$(BIN)/python bench/rules.py
	$(BIN)/python bench/uncounted.py
	$(BIN)/python bench/top.py
	$(BIN)/python bench/packets.py
	$(BIN)/python bench/connections.py
	$(BIN)/python bench/page_load.py
	$(BIN)/python bench/dependencies.py
	$(BIN)/python bench/growth.py
	$(BIN)/python bench/flat.py
	$(BIN)/python bench/start.py
	$(BIN)/python bench/peer.py

# A real Prometheus over made nodes, in a network namespace: 500 take 15 minutes, 20 with SECONDS=90 four.
bench-cluster: setup  ## what a cluster costs Prometheus: NODES=500 SECONDS=330
	$(BIN)/python bench/cluster.py --nodes $(NODES) --seconds $(SECONDS) $(KEEP)

# For a night: make soak DURATION=8h
soak: setup  ## run under load: DURATION=8h
	$(BIN)/python -m tests.soak $(DURATION)

clean:  ## remove everything that was built or installed here
	rm -rf .venv $(TOOLS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -r {} +
