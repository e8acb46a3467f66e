# make help is the manual.

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
PYTHON   ?= /usr/bin/python3
FUZZTIME ?= 30s
# Where bench and slow put their reports. Empty: bin/bench/report and bin/bench/slow.
REPORT   ?=
# More flags for anteroom serve while it is measured.
SERVE_FLAGS ?=
# What polyglot and bench-languages do about a language that is not installed. Empty: fail. skip: leave it out.
MISSING ?=
# What test does about missing Debian packages. Empty: install them. skip: nothing.
DEPS     ?=
# The image that the containers are built on. Empty: one built here from Debian packages, without a registry.
BASE_IMAGE ?=

# The version comes from git describe above, so go build need not ask git.
export GOFLAGS ?= -buildvcs=false
export PYTHONDONTWRITEBYTECODE := 1

# What is left running or hanging fails by these, well before CI's own limit.
UNIT_TIMEOUT        := 10m
PROCESS_TIMEOUT     := 10m
INTEGRATION_TIMEOUT := 15m

GO_TOOLS    := $(addprefix bin/tools/,benchstat grpcurl protoc-gen-go protoc-gen-go-grpc)
GOLANGCI    := bin/tools/golangci-lint
BUF         := bin/tools/buf
TOOL_MODULES := tools tools/buf tools/golangci-lint

PYTHON_SOURCES := sdk/python deploy/compose/app bench/cheroot
SHELL_SCRIPTS  := .ci/run docs/model/check deploy/image/build-base $(filter-out %.txt,$(wildcard scripts/*)) host/conformance/run \
	$(wildcard sdk/*/test sdk/*/conformance sdk/*/conformance-* sdk/c/tests/*.sh) sdk/java/build

MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

##@ Everyday

.PHONY: all
all: build test ## Build and test (the default target)

.PHONY: help
help: ## Show this manual
	@awk -v FS=':.*## ' ' \
		/^##@ /           { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## /  { printf "  %-16s %s\n", $$1, $$2 } \
		' $(MAKEFILE_LIST)
	@printf '\nVariables (make NAME=value)\n'
	@printf '  %-16s %s\n' \
		PYTHON     "the Python with Debian's packages: $(PYTHON)" \
		FUZZTIME   "how long to run each fuzz target: $(FUZZTIME)" \
		REPORT     "where bench or slow puts its report; empty: bin/bench/report, bin/bench/slow" \
		SERVE_FLAGS "more flags for anteroom serve while it is measured" \
		MISSING    "skip: polyglot and bench-languages leave out languages that are not installed; empty: they fail" \
		DEPS       "skip: test does not install Debian packages; empty: it does" \
		BASE_IMAGE "image under the containers, such as debian:bookworm-slim; empty: built from Debian packages" \
		VERSION    "what the binary calls itself: $(VERSION)"

.PHONY: build
build: ## Build bin/anteroom, a static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/anteroom ./cmd/anteroom

.PHONY: demo
demo: build ## Run the sidecar with a Go app behind it on http://127.0.0.1:8080 and print what to try
	bin/anteroom demo

.PHONY: test
test: ## Install what the tests need, and run every Go package's tests, every SDK's, and the process tests
	@MAKE='$(MAKE)' DEPS='$(DEPS)' scripts/test

.PHONY: ci
ci: test ci-rest ## Everything: test, then the race detector, property, model, conformance, polyglot, chaos, compose, linters

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin sdk/java/target sdk/rust/target
	find . -name __pycache__ -prune -exec rm -rf {} +

##@ Checks

# Linters come last: a newcomer's first news should be of tests.
.PHONY: ci-rest
ci-rest:
	@for suite in race property model conformance polyglot chaos-quick compose lint; do \
		began=$$(date +%s); $(MAKE) $$suite || exit 1; echo "ci: $$suite took $$(($$(date +%s) - began)) s"; \
	done

.PHONY: compose
compose: ## The compose suite, where a Docker engine runs; elsewhere it is left out, with the reason
	@if scripts/docker-engine; then $(MAKE) integration; else echo 'The compose suite was left out, for the reason above.'; fi

.PHONY: lint
lint: lint-go lint-proto lint-python lint-shell ## All linters, and that generated code is fresh

.PHONY: lint-go
lint-go: $(GOLANGCI) ## gofmt, go mod tidy, go vet, golangci-lint
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "Not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	go mod tidy -diff
	go vet -tags integration ./...
	$(GOLANGCI) run

.PHONY: lint-proto
lint-proto: $(BUF) generate-check breaking ## buf lint, generated code, wire compatibility
	$(BUF) lint

.PHONY: lint-python
lint-python: ## pyflakes
	$(PYTHON) -m pyflakes $(PYTHON_SOURCES)

.PHONY: lint-shell
lint-shell: ## shellcheck
	shellcheck $(SHELL_SCRIPTS)

.PHONY: race
race: ## Go tests under the race detector, fuzz seeds included
	go test -race -timeout $(UNIT_TIMEOUT) $$(go list ./... | grep -v /test/)

.PHONY: property
property: ## A million random events through the manager's policy (SEED=n repeats a run)
	@seed=$${SEED:-$$(od -An -N6 -tu8 /dev/urandom | tr -d ' ')}; echo "property: SEED=$$seed"; \
		go test ./manager -run 'TestPolicy$$' -count=1 -rapid.checks=20000 -rapid.steps=60 -rapid.seed=$$seed -rapid.nofailfile

.PHONY: model
model: ## Every order of steps of a takeover and of an upgrade (docs/model), and that wrong orders are found
	@docs/model/check

SDK_TESTS := $(wildcard sdk/*/test)

.PHONY: sdks
sdks: build ## Tests of every language's SDK (one: make sdk/ruby/test)
	@$(MAKE) --jobs 2 --output-sync=target $(SDK_TESTS)

.PHONY: $(SDK_TESTS)
$(SDK_TESTS): build
	PYTHON='$(PYTHON)' ANTEROOM_TEST_BINARY=$(CURDIR)/bin/anteroom $@

CONFORMANCE := host/conformance/run $(wildcard sdk/*/conformance sdk/*/conformance-*)

.PHONY: conformance
conformance: build ## Play the sidecar against every language's host, print a goal line for each; fails if one is short
	@scripts/conformance $(CONFORMANCE)

.PHONY: process
process: build ## End to end with real processes
	go test -count=1 -timeout $(PROCESS_TIMEOUT) ./test/process/...

.PHONY: chaos
chaos: bin/chaos build ## Kill 10,000 hosts, sidecars and keepers under load, and count what clients notice (some minutes; SEED=n repeats a script)
	bin/chaos $(if $(SEED),-seed $(SEED))

.PHONY: chaos-quick
chaos-quick: bin/chaos build ## The same with 500 kills, in under a minute
	bin/chaos -kills 500 $(if $(SEED),-seed $(SEED))

.PHONY: chaos-short
chaos-short: bin/chaos build ## The same with 40 kills of one sidecar's processes, in seconds
	bin/chaos -kills 40 -places 1 $(if $(SEED),-seed $(SEED))

.PHONY: bin/chaos
bin/chaos:
	go build -o $@ ./test/chaos

.PHONY: polyglot
polyglot: build ## Every language's servers behind the real sidecar, and a table of what came of it (MISSING=skip: those installed)
	@rm -f bin/polyglot.md
	@PYTHON='$(PYTHON)' ANTEROOM_POLYGLOT_MISSING='$(MISSING)' go test -race -count=1 -timeout $(PROCESS_TIMEOUT) ./test/polyglot/...; \
		status=$$?; [ ! -f bin/polyglot.md ] || cat bin/polyglot.md; exit $$status

.PHONY: integration
integration: images ## End to end with containers (needs a Docker engine)
	go test -race -count=1 -timeout $(INTEGRATION_TIMEOUT) -tags integration ./test/integration/...

.PHONY: fuzz
fuzz: ## Fuzz each target for FUZZTIME
	scripts/fuzz $(FUZZTIME)

##@ Measuring

BENCH := bin/bench/bench -root . -programs bin/bench -anteroom bin/anteroom -python '$(PYTHON)' -serve-flags '$(SERVE_FLAGS)'

.PHONY: bench
bench: bench-programs ## Measure beside nginx, haproxy, Apache and others (half an hour) and write REPORT; fails if a goal falls short
	$(BENCH) -out '$(or $(REPORT),bin/bench/report)'

.PHONY: bench-quick
bench-quick: bench-programs ## The same with less of everything, in under two minutes
	$(BENCH) -quick -out '$(or $(REPORT),bin/bench/report)'

.PHONY: slow
slow: bench-programs ## Measure beside slow clients, in a quarter of an hour, and write REPORT; fails if a goal falls short
	$(BENCH) -suite slow -out '$(or $(REPORT),bin/bench/slow)'

.PHONY: slow-quick
slow-quick: bench-programs ## The same with less of everything, in under a minute
	$(BENCH) -suite slow -quick -out '$(or $(REPORT),bin/bench/slow)'

.PHONY: bench-languages
bench-languages: build ## Requests per second of every language's servers, behind Anteroom, behind nginx and alone, in four minutes (on a quiet machine)
	@scripts/install-debian-packages scripts/debian-packages-bench.txt
	@PYTHON='$(PYTHON)' ANTEROOM_POLYGLOT_MISSING='$(MISSING)' go test -count=1 -timeout 30m -run '^TestRates$$' ./test/polyglot -rates 3s
	@cat bin/polyglot-rates.md

# With the sidecar, too, not stripped as it is by build: profilers need its symbols.
.PHONY: bench-programs
bench-programs: build
	@scripts/install-debian-packages scripts/debian-packages-bench.txt
	CGO_ENABLED=0 go build -trimpath -o bin/bench/ ./bench ./bench/worker ./bench/load ./bench/nethttp ./cmd/anteroom

##@ Setting up

.PHONY: deps
deps: ## Install the Debian packages that the tests need and that are missing
	@scripts/install-debian-packages

.PHONY: tools
tools: $(GO_TOOLS) $(GOLANGCI) $(BUF) ## Build the pinned Go tools to bin/tools

.PHONY: images
images: build image-apps bin/tools/grpcurl ## Build the container images of deploy/compose
	@scripts/docker-engine
	@base='$(BASE_IMAGE)'; [ -n "$$base" ] || base=$$(deploy/image/build-base) || exit 1; \
		BASE_IMAGE=$$base COMPOSE_PROFILES=tools scripts/compose build --parallel

# What the images of compiled languages hold.
.PHONY: image-apps
image-apps:
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/image/go ./host/conformance
	$(MAKE) -C sdk/c --silent BUILD='$(CURDIR)/bin/image/c' CFLAGS='-O2 -static -s' '$(CURDIR)/bin/image/c/server'
	sdk/java/build >/dev/null
	PATH=$$PATH:$$HOME/.cargo/bin RUSTFLAGS='-C target-feature=+crt-static -C strip=symbols' cargo build --quiet --offline --locked --release \
		--manifest-path sdk/rust/Cargo.toml --target-dir bin/image/rust --example conformance

.PHONY: tidy
tidy: ## go mod tidy, in the tools' modules too
	for module in . $(TOOL_MODULES); do go -C $$module mod tidy; done

##@ The gRPC contract

.PHONY: generate
generate: $(BUF) $(GO_TOOLS) ## Generate api/ from proto/
	$(BUF) generate

.PHONY: generate-check
generate-check: $(BUF) $(GO_TOOLS) ## Check that api/ is what proto/ generates
	@scripts/check-generated $(BUF)

.PHONY: breaking
breaking: $(BUF) ## Check that the contract still understands clients of the last release
	@release=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null) || { echo 'breaking: no release yet to compare with'; exit 0; }; \
		$(BUF) breaking --against ".git#tag=$$release"

# Versions stand in the go.mod files; a module builds all of its tools at once. Touched, since go leaves alone a binary that
# is as it should be.
define BUILD_TOOLS
CGO_ENABLED=0 go -C $(<D) build -trimpath -ldflags '-s -w' -o '$(CURDIR)/bin/tools/' tool
@touch $(1)
endef

$(GO_TOOLS) &: tools/go.mod tools/go.sum
	$(call BUILD_TOOLS,$(GO_TOOLS))

$(GOLANGCI): tools/golangci-lint/go.mod tools/golangci-lint/go.sum
	$(call BUILD_TOOLS,$@)

$(BUF): tools/buf/go.mod tools/buf/go.sum
	$(call BUILD_TOOLS,$@)
