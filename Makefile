# superserve. `make demo` shows it, `make test` proves it; both set up what they need.
# The release of Go is the one of go.mod: older ones have known faults in net/http.
export GOTOOLCHAIN := go1.26.11
export CGO_ENABLED := 0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
FLAGS   := -trimpath -ldflags '-s -w -X github.com/superserve/superserve/cli.version=$(VERSION)'
ROOT    := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$(PATH)")
E2E     := $(ROOT) go test -tags e2e -count=1 -timeout 3h ./cli/e2e/

.PHONY: help setup build deb generate test unit race e2e chaos crowd neighbours limits bench bench-work demo doctor vm lint vet clean
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
setup: ## install what the tests need (Debian 12; quick when it is there)
	@scripts/setup test
build: ## bin/superserve (with gVisor inside) and bin/secretd, both static
	go build $(FLAGS) -o bin/ ./cli/superserve ./cli/secretd
deb: build ## the package: both programs, and secretd as a service (bin/*.deb)
	@scripts/deb
generate: ## compile the BPF programs again; a clean tree stays clean
	@scripts/setup generate
	go generate ./bpf

test: setup build vet unit e2e ## the whole suite: unit, privileged and end to end
unit: ## tests beside the code; as root the privileged ones too
	$(ROOT) go test ./...
race: ## the same under the race detector
	@scripts/setup race
	CGO_ENABLED=1 $(ROOT) go test -race ./bpf/... ./proxy/... ./runtime/... ./secretd/... ./cli
e2e: setup build ## real clients in real sandboxes against upstreams on this machine
	$(E2E)
chaos: setup build ## break 1,000 runs and look for what is left (CHAOS=n, CHAOS_SEED=n)
	CHAOS=$${CHAOS:-1000} $(E2E) -run '^TestChaos$$' -v
crowd: setup build ## 100 sandboxes at once: start-up, memory, and nothing left (CROWD=n)
	CROWD=$${CROWD:-100} $(E2E) -run '^TestCrowd$$' -v
neighbours: setup build ## how much an attack raises the p99 of a run beside it (on an idle machine)
	NEIGHBOURS=$${NEIGHBOURS:-40} $(E2E) -run '^TestNeighbours$$' -v
limits: ## attack a proxy and print what it costs (docs/LIMITS.md)
	@scripts/setup limits
	LIMITS=1 go test -count=1 -timeout 30m -v ./proxy/abuse
vm: ## the privileged tests on Debian's kernels, in QEMU (docs/KERNELS.md)
	$(ROOT) scripts/vm

bench: bench-work ## ratios against a splice, nginx, pgbouncer and runsc alone
	$(ROOT) go run ./cli/e2e/bench
	go test -run '^$$' -bench 'Scan/(append|memcpy)|Keys/(chunk|event)' ./proxy/redact
bench-work: setup build ## git, npm, ripgrep, Go and small files, against runsc alone and the host
	$(ROOT) go run ./cli/e2e/bench/work
demo: build ## the main job: what the agent sees and what the upstream sees
	@scripts/setup demo
	$(ROOT) go run ./examples/demo
doctor: build ## what this machine offers and lacks
	$(ROOT) bin/superserve doctor
lint: vet ## vet, and formatting
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
vet: ## the compiler's second opinion
	go vet ./... && go vet -tags e2e ./cli/e2e/
clean: ## remove what was built
	rm -rf bin cli/e2e/testdata/*/node_modules cli/e2e/testdata/*/bin secretd/bao/vaulttest/testdata/server/bin
