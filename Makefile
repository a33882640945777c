# The verbs of the project. They need Go and the module proxy, nothing else.
GO      ?= go
BIN     := bin
OPA     := $(BIN)/opa
export CGO_ENABLED = 0
# One kind of build for programs, tests and checks, so that each package is compiled once.
export GOFLAGS = -trimpath

.PHONY: help
help: ## list the verbs
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/assay and bin/assay-webhook
	$(GO) build -o $(BIN)/assay ./cmd/assay
	$(GO) build -ldflags '-s -w' -o $(BIN)/assay-webhook ./cmd/assay-webhook

.PHONY: demo
demo: build ## scan the example images, admit and reject their Deployments, fire an alert
	@BIN=$(BIN)/assay GO=$(GO) sh examples/quickstart/demo.sh

.PHONY: test
test: ## run all tests
	$(GO) test -timeout 30m $(TESTFLAGS) ./...

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, opa check and opa fmt
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt'; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@$(MAKE) --no-print-directory $(OPA)
	$(OPA) check --strict rego
	$(OPA) fmt --fail --list rego examples
	$(OPA) test rego

$(OPA): go.mod
	$(GO) build -o $@ github.com/open-policy-agent/opa

.PHONY: e2e
e2e: ## run the tests on a real Kubernetes and containerd (the first run builds them: 15 minutes)
	cd test/e2e && $(GO) vet ./... && $(GO) test -count=1 -p 1 -timeout 40m $(TESTFLAGS) ./...

.PHONY: deploy-test
deploy-test: ## lint and render the chart, and hold manifests, definitions and images to it
	cd test/deploy && $(GO) vet ./... && $(GO) test -count=1 $(TESTFLAGS) ./...

.PHONY: console-test
console-test: ## use the console's pages in headless Chromium, as people do
	cd test/console && $(GO) vet ./... && $(GO) test -count=1 $(TESTFLAGS) ./...

VERSION ?= dev
.PHONY: image
image: ## OCI archives of both programs in dist, without Docker
	$(GO) run ./deploy/image -o dist -version $(VERSION)

.PHONY: bench
bench: ## one table: the evaluator beside plain Go, CEL, Gatekeeper and Kyverno (BENCHFLAGS=-quick: 2 minutes)
	cd test/bench && $(GO) run . $(BENCHFLAGS)

.PHONY: mutants
mutants: ## drop or flip each condition of the Rego in turn: tests must catch it (half an hour)
	ASSAY_MUTATION=full $(GO) test -v -timeout 60m ./test/mutation

.PHONY: soak
soak: ## kill -9 the server SOAK (default 200) times while it works: nothing may be lost; then FLEET (default 1000) nodes report to it
	ASSAY_SOAK=$(or $(SOAK),200) ASSAY_FLEET=$(or $(FLEET),1000) $(GO) test -v -timeout 60m ./test/soak

.PHONY: fuzz
fuzz: ## fuzz every parser for FUZZTIME (default 10s; 2000x is a number of inputs) each
	sh test/fuzz.sh $(or $(FUZZTIME),10s)

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) examples/quickstart/build
