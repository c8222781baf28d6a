# Everything is installed into .venv; nothing here touches the system but `test`, which, as root on Debian, installs the
# packages its tests need (and says so).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SIDECAR := $(BIN)/lopower-sidecar
TAILNET := $(BIN)/lopower-test-tailnet
LAB    := .venv-lab

TEST_PACKAGES := wireguard-tools wireguard-go iperf3 dnsperf dnsutils tcpdump iproute2 nftables \
  zbar-tools faketime curl mosquitto iputils-ping openssl zsh fish systemd openssh-server ser2net

.PHONY: setup sidecar lab demo test lint types contracts check bench bench-check bench-publish bench-quick \
  bench-firmware flame-graph clean
.DEFAULT_GOAL := help

help:                     ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(STAMP) sidecar   ## .venv with lopower, what its tests need, and the sidecar

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed -e '.[dev]'
	@touch $@

demo: setup $(if $(shell command -v go),$(TAILNET))  ## a daemon, a tailnet, virtual devices and a board on loopback; KEEP=1 leaves it up
	@$(BIN)/python -m lopower_hil.demo $(if $(KEEP),--keep)

bench: $(STAMP)           ## every figure with its goal, in 12 minutes; ONLY="bulk dns" measures these anew
	$(BIN)/python -m tests.bench.suite $(if $(ONLY),--only $(ONLY))

bench-check: $(STAMP)     ## the results of `make bench` against the goals; fails if one is missed
	$(BIN)/python -m tests.bench.check

bench-publish: $(STAMP)   ## the results of `make bench` into README.md and docs/performance.md
	$(BIN)/python -m tests.bench.publish

flame-graph: $(STAMP)     ## where the microseconds go: tables, and docs/flame-graph.svg
	$(BIN)/python -m tests.bench.flame

bench-quick: $(STAMP)     ## CPU per GB and Mbit/s up and down, connects/s, against wireguard-go in the same run
	$(BIN)/python -m tests.bench.bench_quick

bench-firmware: $(STAMP)  ## the firmware's cryptography by emulation, and its heap with 32-bit objects
	$(BIN)/python -m tests.bench.bench_firmware
	$(BIN)/python -m tests.bench.bench_firmware_heap

sidecar: $(STAMP)         ## the Go program that joins a tailnet; without Go everything else works
	@if command -v go >/dev/null; then \
	  $(MAKE) --no-print-directory $(SIDECAR); \
	else \
	  echo "Go is not installed, so the tsnet driver is left out; the host driver works without it"; \
	fi

$(SIDECAR): $(wildcard host/sidecar/*.go) host/sidecar/go.mod host/sidecar/build.sh
	@echo "building the sidecar; the first time takes some minutes"
	sh host/sidecar/build.sh $@

$(TAILNET): $(wildcard hil/tailnet_world/*.go) hil/tailnet_world/go.mod host/sidecar/build.sh | $(SIDECAR)
	@echo "building the test tailnet"
	sh host/sidecar/build.sh $@ hil/tailnet_world

lab: $(LAB)/.installed    ## .venv-lab with labgrid, for boards of a lab

# labgrid's pyserial-labgrid and esptool's pyserial own the same files: the one that is installed last is there.
$(LAB)/.installed: pyproject.toml
	$(PYTHON) -m venv $(LAB)
	$(LAB)/bin/pip install --quiet --upgrade-strategy only-if-needed -e '.[lab]'
	$(LAB)/bin/pip install --quiet --force-reinstall --no-deps pyserial-labgrid
	@touch $@

lint: $(STAMP)            ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)           ## mypy, strict
	$(BIN)/mypy host hil provisioning tests hatch_build.py
	$(BIN)/mypy hil/tests/conftest.py

contracts: $(STAMP)       ## which package may import which
	$(BIN)/lint-imports

check: lint types contracts

test: setup lab test-packages test-programs check test-go   ## lint, types, import contracts and all tests
	@# A short base: the kernel takes 103 bytes for the path of a unix socket. Three at once: most of them wait for something.
	@base=$$(mktemp -d /tmp/lpXXXX) && \
	  $(BIN)/pytest -n 3 --dist loadgroup --basetemp=$$base/t $(PYTEST_ARGS); code=$$?; rm -rf $$base; exit $$code

.PHONY: test-packages test-programs test-go
test-go:                  # the sidecar's own tests
	@if command -v go >/dev/null; then \
	  cd host/sidecar && tags=$$(sh build.sh --tags) && test -z "$$(gofmt -l .)" && \
	  CGO_ENABLED=0 go vet -tags "$$tags" ./... && CGO_ENABLED=0 go test -tags "$$tags" ./...; \
	fi

test-programs:            # built or fetched once, so that no test waits for a compiler or a package index
	@$(BIN)/python -m tests.support.device_libraries
	@if command -v go >/dev/null; then \
	  echo "building the programs that tests talk to"; \
	  $(BIN)/python -m tests.support.wireguard_go && $(BIN)/python -m tests.support.tailnet_programs && \
	  $(MAKE) --no-print-directory $(TAILNET); \
	fi

test-packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  missing=$$(for p in $(TEST_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	  if [ -n "$$missing" ]; then \
	    echo "installing what the tests need:" $$missing; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  fi; fi

clean:                    ## remove what the other targets made
	rm -rf $(VENV) $(LAB) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
