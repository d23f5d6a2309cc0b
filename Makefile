SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

CONTROLLER_GEN := go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0
# Of the version that the schema is served with.
OPENAPI_GEN    := go run k8s.io/kube-openapi/cmd/openapi-gen@$(shell sed -nE 's|.*k8s.io/kube-openapi (v[^ ]+).*|\1|p' go.mod)
GOLANGCI_LINT  := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -ldflags "-X main.version=$(VERSION)"

# The modules of the repository: the product, and the local cluster, whose Kubernetes versions must
# never become the product's.
MODULES := . test/cluster

# One fuzz target a line: package, then name.
FUZZTIME ?= 30s

.PHONY: help build generate lint test fuzz bench demo up down cluster

help: ## Show what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  \1\t\2/' | expand -t 14

build: ## Build the server into bin/
	go build $(LDFLAGS) -o bin/ ./cmd/...

generate: ## Generate deep copies and CRDs from the types in store/v1, and the published API's schema
	$(CONTROLLER_GEN) object paths=./store/v1
	$(CONTROLLER_GEN) crd:generateEmbeddedObjectMeta=true output:crd:dir=deploy/crds paths=./store/v1
	$(OPENAPI_GEN) --go-header-file /dev/null --report-filename /dev/null --output-dir apiserver/openapi --output-pkg istag.dev/apiserver/openapi \
	  --output-file zz_generated.openapi.go github.com/openshift/api/image/v1 k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/version

lint: generate ## Check that generated files are current, and run the linters
	git diff --exit-code -- store/v1 deploy/crds apiserver/openapi
	for module in $(MODULES); do (cd $$module && $(GOLANGCI_LINT) run --config $(CURDIR)/.golangci.yml ./...); done

cluster: ## Build Kubernetes and its companions for the local cluster (minutes, once)
	go run -C test/cluster . build

# Packages without tests are left out: go test would vet them, and to vet all of Kubernetes takes a quarter of an hour.
test: cluster ## Run every test with the race detector, the end-to-end tests too
	for module in $(MODULES); do (cd $$module && \
	  go test -race -timeout 30m $$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...)); done

fuzz: ## Run each fuzz target for FUZZTIME
	go list -f '{{$$p := .ImportPath}}{{range .TestGoFiles}}{{$$p}}/{{.}}{{"\n"}}{{end}}' ./... | while read -r file; do \
	  path=$${file#istag.dev/}; \
	  sed -nE 's/^func (Fuzz[A-Za-z]+)\(.*/\1/p' "$$path" | while read -r target; do \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "./$$(dirname "$$path")"; \
	  done; \
	done

bench: ## Run the benchmarks, or those in BENCH (triggers, api, pods, admissions); figures are lines of "name: value unit"
	@go run ./test/bench $(BENCH)

demo: ## Play the story on a real cluster, from nothing
	go run ./test/dev demo

up: ## Start a local cluster with istag and leave it running
	@go run ./test/dev up

down: ## End what up started
	@go run ./test/dev down
