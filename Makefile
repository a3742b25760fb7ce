# The commands that one needs. `make run` and `make test` set up a fresh machine first.

CARGO ?= cargo
TOOLS := target/tools/bin
CARGO_DENY_VERSION := 0.20.2

.DEFAULT_GOAL := help
.PHONY: help setup setup-test build run test lint fmt clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building and running need
	@deploy/setup build

setup-test: ## Install what the tests need besides
	@deploy/setup build test

build: setup ## Build the release binary: target/release/flowtap
	$(CARGO) build --release --locked

run: build ## Measure this machine's TCP flows; metrics on http://127.0.0.1:9464/metrics
	target/release/flowtap run

test: setup-test ## Run every test; as root, or those that need privileges say that they are skipped
	$(CARGO) test --workspace --locked

lint: setup-test $(TOOLS)/cargo-deny ## Formatting, clippy, clang-format, licences and advisories
	$(CARGO) fmt --all --check
	clang-format --dry-run --Werror ebpf/bpf/*.c ebpf/bpf/*.h
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	tests/deny $(TOOLS)/cargo-deny

fmt: ## Format everything
	$(CARGO) fmt --all
	clang-format -i ebpf/bpf/*.c ebpf/bpf/*.h

$(TOOLS)/cargo-deny:
	$(CARGO) install --locked --root target/tools cargo-deny@$(CARGO_DENY_VERSION)

clean: ## Remove everything that was built
	$(CARGO) clean
