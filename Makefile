# Every target sets up what it needs. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
# What is never imported, which is most of TensorFlow, is never compiled.
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
# `editable` for work on the project; `wheel` tests what users install.
INSTALL ?= editable
# For an example and a test. Most of what the first depends on is for its models, and not for orbit; the second wants an
# absl of before TensorFlow's.
WITHOUT_DEPENDENCIES = $(PIP) --no-deps tf-models-official tensorflow-model-optimization dm-tree
PROTOS := $(wildcard protos/holdfast_protos/v1/*.proto)
TEST ?= tests
# How many tests run at once. More than two need more memory: each process imports TensorFlow, and many start others.
JOBS ?= 2
SEEDS ?= 1000
FIRST ?= 0

export TF_CPP_MIN_LOG_LEVEL ?= 2
export CUDA_VISIBLE_DEVICES ?= -1

# Much goes into one environment, and tests need what is installed before them: `make -j` takes turns as well.
.NOTPARALLEL:
.PHONY: demo demo-ps test kills sim points test-cloud servers lint protos bench versions versions-oldest versions-upstream help clean

help:  ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/demo  ## Train, kill a worker in mid-save, resume, and compare with an uninterrupted run
	$(VENV)/bin/holdfast demo

demo-ps: $(VENV)/demo  ## The same with parameter servers, one of which is killed in mid-save
	$(VENV)/bin/holdfast demo-ps

test: $(VENV)/dev-$(INSTALL)  ## Run the tests (TEST=tests/core for a part; JOBS=2 at once; INSTALL=wheel: the built one)
	@echo "== running $(TEST) against the $(INSTALL) install, $(JOBS) at once"
	$(VENV)/bin/python -m pytest --numprocesses=$(JOBS) $(TEST)

kills: TEST := $(addprefix tests/,processes/test_random_kills.py processes/test_zombies.py processes/test_full_disk.py \
  processes/test_interrupts.py processes/test_forks.py \
  training/test_many_kills.py training/test_full_disk.py training/test_parameter_servers_fail.py)
kills: test  ## The tests that kill, interrupt, fork and fill up the disk of real processes, and what they measure

sim: $(VENV)/dev-$(INSTALL)  ## Simulate random histories in which much goes wrong (SEEDS=1000; FIRST=0)
	@echo "== simulating $(SEEDS) histories, from seed $(FIRST)"
	PYTHONPATH=tests $(VENV)/bin/python -m simulation $(SEEDS) --first $(FIRST)

points: $(VENV)/dev-$(INSTALL)  ## Simulate every fault at every point of a save and a restore (ARGS=--again TEXT)
	@echo "== simulating every fault at every point"
	PYTHONPATH=tests $(VENV)/bin/python -m simulation.every_point $(ARGS)

test-cloud: export HOLDFAST_TEST_SERVERS := required
test-cloud: servers test  ## The same with S3, GCS and Azure servers, which it installs (Debian; root or sudo)

servers:  ## Install the object stores that `make test-cloud` uses (a few hundred MB, once)
	PYTHONPATH=tests $(PYTHON) -m servers.install

lint: $(VENV)/dev-$(INSTALL)  ## Check style, types and deployment files
	@echo "== ruff" && $(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@echo "== mypy" && $(VENV)/bin/mypy && $(VENV)/bin/mypy -p benchmarks
	@echo "== deploy" && $(VENV)/bin/python deploy/check.py

protos: .venv-protos/ready  ## Generate the Python code of the protocol
	@echo "== generating protos"
	.venv-protos/bin/python -m grpc_tools.protoc -Iprotos \
	  --plugin=protoc-gen-mypy=.venv-protos/bin/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=.venv-protos/bin/protoc-gen-mypy_grpc \
	  --python_out=protos --mypy_out=quiet:protos $(PROTOS)
	.venv-protos/bin/python -m grpc_tools.protoc -Iprotos \
	  --plugin=protoc-gen-mypy_grpc=.venv-protos/bin/protoc-gen-mypy_grpc \
	  --grpc_python_out=protos --mypy_grpc_out=quiet:protos protos/holdfast_protos/v1/coordinator.proto

bench: $(VENV)/dev-editable  ## Measure saves and restores beside others (ARGS=--quick for a glance, ARGS='--storage s3')
	$(VENV)/bin/python -m benchmarks $(ARGS)

versions: VERSIONS := table
versions-oldest: VERSIONS := oldest
versions-upstream: VERSIONS := upstream
versions: .venv-versions/tools/ready  ## Try every supported TensorFlow on every supported Python that is here
versions-oldest: .venv-versions/tools/ready  ## Try the lowest versions of everything on the oldest Python
versions-upstream: .venv-versions/tools/ready  ## Try the newest of everything, supported or not, on the newest Python
versions versions-oldest versions-upstream:
	PYTHONPATH=tests .venv-versions/tools/bin/python -m versions $(VERSIONS)

clean:  ## Remove what the other targets have made
	rm -rf .venv .venv-protos .venv-versions .venv-servers .venv-peers build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-run

.venv-versions/tools/ready: Makefile
	@echo "== installing uv"
	$(PYTHON) -m venv .venv-versions/tools
	.venv-versions/tools/bin/python -m pip --disable-pip-version-check install --quiet uv==0.13.9
	@touch $@

$(VENV)/python:
	@echo "== making a virtual environment with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "constraints.txt is for Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/demo: $(VENV)/python pyproject.toml constraints.txt
	@echo "== installing Holdfast and TensorFlow (a few hundred MB, once)"
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/dev-editable: $(VENV)/python pyproject.toml constraints.txt
	@echo "== installing Holdfast, TensorFlow and the tools (a few hundred MB, once)"
	$(PIP) --editable '.[dev]'
	$(WITHOUT_DEPENDENCIES)
	@rm -f $(VENV)/dev-wheel && touch $@

$(VENV)/dev-wheel: $(VENV)/python pyproject.toml constraints.txt $(shell git ls-files protos storage coordinator worker)
	@echo "== building the wheel and installing it with TensorFlow and the tools"
	$(PIP) build hatchling
	rm -rf dist && $(VENV)/bin/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	$(VENV)/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes holdfast
	$(PIP) "$$(ls dist/holdfast-*.whl)[dev]"
	$(WITHOUT_DEPENDENCIES)
	@rm -f $(VENV)/dev-editable && touch $@

.venv-protos/ready: Makefile
	@echo "== installing the protocol compiler"
	$(PYTHON) -m venv .venv-protos
	@# 1.71 is the newest whose output loads with protobuf 5, which TensorFlow 2.18 and 2.19 need; it loads with 6 and 7
	@# too. The plugin for mypy needs a later protobuf than the compiler asks for, which itself uses none.
	.venv-protos/bin/python -m pip --disable-pip-version-check install --quiet mypy-protobuf==5.1.0 'setuptools<81'
	.venv-protos/bin/python -m pip --disable-pip-version-check install --quiet --no-deps grpcio-tools==1.71.2
	@touch $@
