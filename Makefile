# infractl. "make help" lists the targets.
SHELL := /bin/bash
GO ?= go
export CGO_ENABLED ?= 0
LAB ?= $(CURDIR)/.lab
BIN := bin
FUZZTIME ?= 30s
PROGRAMS := $(BIN)/infractl $(BIN)/infractl-server $(BIN)/infractl-agent $(BIN)/infractl-compose
TOOLS := internal/tools/go.mod
# nfpm wants other versions of what golangci-lint uses, so it has a module of its own.
NFPM := internal/tools/nfpm.mod
DIST ?= dist
ARCH ?= $(shell $(GO) env GOARCH)
LDFLAGS := -s -w
# Without its request pages, gRPC needs no templates, and the linker drops methods that nobody calls: 5 MB of the agent. The other
# tags leave out collectors of the node exporter that Debian's package does not switch on either.
TAGS := $(shell cat packaging/tags)

.PHONY: help build packages demo demo-stacks demo-instances demo-down demo-clean test unit e2e e2e-all bench bench-instances check fmt lint vet generate docs tools proto-lint fuzz clean

help: ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

build: ## Build infractl, infractl-server, infractl-agent and infractl-compose into bin/
	@$(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cli/infractl ./server/infractl-server ./agent/infractl-agent ./agent/infractl-compose ./internal/lab/infractl-lab ./internal/lab/infractl-standin

packages: $(BIN)/nfpm ## Build dist/*.deb and the tarball for VyOS (VERSION=1.2.3, ARCH=arm64)
	@GO=$(GO) packaging/build.sh $(or $(VERSION),$(shell packaging/version.sh)) $(ARCH) $(DIST)

$(BIN)/nfpm: $(NFPM)
	$(GO) build -modfile=$(NFPM) -o $(BIN)/ tool
	@touch $@

demo: build ## Build a whole site in the lab, apply examples/projetpro to it and prove the flows
	@$(BIN)/infractl-lab demo --dir $(LAB) --bin $(CURDIR)/$(BIN)

demo-stacks: build ## The same with the two container stacks of the example, on stand-in images where there is no registry
	@$(BIN)/infractl-lab demo-stacks --dir $(LAB) --bin $(CURDIR)/$(BIN)

demo-instances: build ## The same with two Dolibarr instances, reached by name from the internet (DOLIBARR_SOURCE_DIR=TREE: a real one)
	@$(BIN)/infractl-lab demo-instances --dir $(LAB) --bin $(CURDIR)/$(BIN)

demo-down: ## Take the demo down; images stay
	@test -x $(BIN)/infractl-lab || $(MAKE) --no-print-directory build
	@$(BIN)/infractl-lab down --dir $(LAB)

demo-clean: demo-down ## Remove images and cache too
	@$(BIN)/infractl-lab clean

test: unit e2e ## All tests: unit tests with the race detector, then the lab

# Unit tests run real iptables in namespaces of their own, real PHP and MariaDB for what works on a Dolibarr, and the race detector needs
# a C compiler.
PHP_NEEDS := php-cli php-mysql php-gd php-intl php-xml php-zip php-curl php-mbstring php-imap
.PHONY: test-needs
test-needs:
	@need=; command -v gcc >/dev/null || need="$$need gcc libc6-dev"; command -v iptables >/dev/null || need="$$need iptables"; \
	  command -v ip >/dev/null || need="$$need iproute2"; \
	  command -v php >/dev/null || need="$$need $(PHP_NEEDS)"; command -v mariadbd >/dev/null || need="$$need mariadb-server mariadb-client"; \
	  test -z "$$need" || { echo "installing$$need"; apt-get -qq update && \
	  DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends $$need >/dev/null; }

unit: test-needs ## Unit tests with the race detector
	CGO_ENABLED=1 $(GO) test -race ./...

fuzz: ## Fuzz every parser, 30 s each (FUZZTIME=2m for longer)
	@set -e; git grep -oE '^func Fuzz[A-Za-z0-9]+' -- '*_test.go' | while IFS=: read -r file name; do \
	  name=$${name#func }; echo "$$(dirname $$file) $$name"; \
	  $(GO) test ./$$(dirname $$file) -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) </dev/null; done

# Each suite has a lab of its own name; a lab is seven machines, so that more cores are no reason for more labs. The long suites come
# first, or the last one would run alone.
LABS ?= 2
SLOW := instances stacks packaging identity demo

# The suites of "make test": the main job, and who may do what. The others take longer than all else together.
E2E ?= . demo identity

e2e: build ## End-to-end tests in a lab of their own (root; installs what is missing, cleans up)
	INFRACTL_BIN=$(CURDIR)/$(BIN) $(GO) test -tags lab -count=1 -timeout 18m -p $(LABS) -v $(E2E:%=./internal/lab/%)

e2e-all: build $(BIN)/nfpm ## Every end-to-end test: instances, stacks, metrics, packages, operators, restore, router, names too (half an hour)
	INFRACTL_BIN=$(CURDIR)/$(BIN) $(GO) test -tags lab -count=1 -timeout 60m -p $(LABS) -v $(SLOW:%=./internal/lab/%) ./internal/lab/...

bench: build ## Measure: a table, and .lab/bench.json
	@$(BIN)/infractl-lab bench --dir $(LAB)-bench --bin $(CURDIR)/$(BIN) --out $(LAB)/bench.json

bench-instances: build ## Measure Dolibarr instances (DOLIBARR_SOURCE_DIR=TREE: a real one): .lab/bench-instances.json
	@$(BIN)/infractl-lab bench --only instances --dir $(LAB)-bench --bin $(CURDIR)/$(BIN) --out $(LAB)/bench-instances.json

# The linter's govet is go vet, the lab's tests included.
check: test-needs fmt-check lint ## Format, vet, lint, unit tests with fewer faults, generated files current
	$(GO) test -short ./...

fmt: ## Format all Go files
	@gofmt -w $$(git ls-files '*.go' | grep -v '\.pb\.go$$')

.PHONY: fmt-check
fmt-check:
	@out=$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); test -z "$$out" || { echo "not formatted: $$out"; exit 1; }

vet: ## go vet, the lab's tests included
	$(GO) vet ./...
	$(GO) vet -tags lab ./internal/lab/...

lint: ## golangci-lint (built once into bin/)
	@test -x $(BIN)/golangci-lint || $(MAKE) --no-print-directory tools
	$(BIN)/golangci-lint run

tools: $(BIN)/nfpm ## Build buf, golangci-lint, nfpm and the generators into bin/ (minutes, once)
	$(GO) build -modfile=$(TOOLS) -o $(BIN)/ tool

generate: ## Generate Go from the contract (needs "make tools")
	@test -x $(BIN)/buf || $(MAKE) --no-print-directory tools
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/buf generate

proto-lint: ## buf lint and breaking against main
	@test -x $(BIN)/buf || $(MAKE) --no-print-directory tools
	$(BIN)/buf lint
	$(BIN)/buf breaking --against '.git#branch=main'

docs: ## Write the generated pages: CLI, site reference, schemas
	$(GO) test ./cli/cmd ./internal/site -run 'TestDocsAreCurrent|TestReferenceIsCurrent|TestSchemasAreCurrent' -update

clean: ## Remove bin/
	rm -rf $(BIN)
