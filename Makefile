# Development commands. `make run` and `make test` install dependencies first.

CARGO ?= cargo
TOOLS := target/tools/bin
CARGO_DENY_VERSION := 0.20.2
CARGO_NEXTEST_VERSION := 0.9.143
CARGO_LLVM_COV_VERSION := 0.9.1
MDBOOK_VERSION := 0.5.4
CARGO_CYCLONEDX_VERSION := 0.5.9
STATIC_TARGET := x86_64-unknown-linux-gnu
STATIC_BINARY := target/$(STATIC_TARGET)/release/flowtap
ARM64_BINARY := target/aarch64-unknown-linux-gnu/release/flowtap
MINIMAL_BINARY := target/minimal/$(STATIC_TARGET)/release/flowtap

.DEFAULT_GOAL := help
.PHONY: help setup setup-test setup-kernels setup-bench setup-deploy setup-lint setup-spark build static minimal static-arm64 packages sbom run test test-deploy test-reproducible test-sbom test-minimal test-arm64 test-loom test-busy test-roles test-docs test-newcomer test-kernels test-kernels-all test-kernels-arm64 test-verifier bench bench-overhead bench-compare fuzz soak lint features check-features references generate nextest nextest-e2e coverage fmt clean book test-fleet

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install build dependencies
	@deploy/setup build

setup-test: ## Install test dependencies
	@deploy/setup build test
	@tests/peers || echo 'tests that need newer programs of Debian are skipped'

setup-spark: ## Install Spark (500 MB) into target/venv-spark, for the test of history that reads with it
	@deploy/setup spark

setup-lint: ## Install the linters of scripts
	@deploy/setup lint

setup-deploy: ## Install dependencies of the tests of deploy/
	@deploy/setup build deploy

setup-kernels: ## Install dependencies for booting other kernels
	@deploy/setup build kernels

setup-bench: ## Install benchmark dependencies
	@deploy/setup build bench

build: setup ## Build the release binary: target/release/flowtap
	$(CARGO) build --release --locked

static: setup ## Build a binary that runs on any kernel and distribution: target/x86_64-unknown-linux-gnu/release/flowtap
	CARGO="$(CARGO)" deploy/build-static $(STATIC_TARGET)

# With link-time optimisation of the whole program, which finds functions that several crates have; it takes longer than that of `static`.
minimal: setup ## Build a static binary of at most 15 MiB, with `ebpf`, `prometheus` and `otlp`: target/minimal/x86_64-unknown-linux-gnu/release/flowtap
	CARGO="$(CARGO)" CARGO_TARGET_DIR="$(CURDIR)/target/minimal" CARGO_PROFILE_RELEASE_LTO=fat deploy/build-static $(STATIC_TARGET) --no-default-features $(if $(FEATURES),--features "$(FEATURES)")

test-minimal: setup-test minimal ## Check the minimal binary: its size, what it refuses, that it measures; as root
	tests/deploy/minimal $(MINIMAL_BINARY)

run: build ## Measure this machine's TCP flows; metrics on http://127.0.0.1:9464/metrics
	target/release/flowtap run

test: setup-test ## Run every test; as root, or those that need privileges are skipped with a message
	CARGO="$(CARGO)" tests/all

test-deploy: setup-deploy static ## Check the chart, the manifests, the unit, the package, the image, the rules; as root
	@tests/peers || echo 'what needs a Collector is skipped'
	tests/deploy/run --binary target/$(STATIC_TARGET)/release/flowtap

test-docs: setup-test setup-deploy static ## Run the commands and check the configs of README.md and docs/; as root
	tests/docs/run target/$(STATIC_TARGET)/release/flowtap

test-newcomer: setup-test setup-deploy ## Follow the README in a clean Debian, from `make run` on; as root
	tests/docs/newcomer

test-kernels: setup-kernels static ## Run the static binary on Debian's 5.10, 6.1, 6.12 and newest kernels, in qemu
	tests/vm/run --binary $(STATIC_BINARY) --kernels "5.10 newest" --checks "modes processes owners links drops"
	tests/vm/run --binary $(STATIC_BINARY) --kernels "6.1 6.12" --checks "processes links"
	tests/vm/run --binary $(STATIC_BINARY) --kernels newest:full --checks processes
	CARGO="$(CARGO)" tests/vm/udp --kernels newest
	tests/vm/arm64

test-kernels-all: setup-kernels static ## The same, with each preemption model of each kernel
	tests/vm/run --binary $(STATIC_BINARY) --kernels "5.10 5.10:full 6.1 6.1:full 6.12 6.12:full newest newest:full"
	CARGO="$(CARGO)" tests/vm/udp
	tests/vm/rdma --binary $(STATIC_BINARY)
	tests/vm/arm64

test-kernels-arm64: setup-kernels static-arm64 ## Run the static arm64 binary on Debian's 6.1 and 6.12 kernels for arm64, in qemu; as root
	tests/vm/run --arch arm64 --binary $(ARM64_BINARY) --kernels "6.1 6.12" --checks "modes processes owners links drops" --timeout 1800

test-verifier: setup-kernels ## Instructions that the verifier of each kernel processes for each BPF program, in each setting
	tests/vm/verifier

bench: setup-bench ## Every benchmark, and one report: target/bench.txt; as root, on a quiet machine, about half an hour
	CARGO="$(CARGO)" tests/benches/run
	tests/benches/history add

bench-compare: ## Compare the last two runs of `make bench`, or BEFORE=COMMIT AFTER=COMMIT
	tests/benches/history compare $(BEFORE) $(AFTER)

bench-overhead: setup-bench ## Cost of flowtap, compared with flowtap off and mode events; as root, on a quiet machine
	$(CARGO) bench --locked --bench overhead -- load scan

fuzz: setup-test ## Fuzz the parsers of foreign input, each for FUZZ_SECONDS (30); FUZZ_SANITIZER=address
	fuzz/run

test-busy: setup-test ## End-to-end tests next to other traffic, another flowtap, BPF programs and cgroups that come and go; as root
	tests/busy $(CARGO) test --locked --test e2e

test-roles: build ## Roles of connections over a mixed load with restarts, for ten minutes, against what the applications know; as root
	tests/roles --binary target/release/flowtap

test-fleet: setup-test build ## 10, 100 and 1,000 simulated nodes into one VictoriaMetrics: figures, and both ends' totals; 2 GiB, about ten minutes
	tests/fleet

test-reproducible: setup ## Build the release twice, in two folders and with two homes, and compare every byte; about half an hour
	CARGO="$(CARGO)" tests/deploy/rebuild

static-arm64: ## Build the static binary for arm64 on another machine, in a chroot: target/aarch64-unknown-linux-gnu/release/flowtap; as root
	@deploy/setup arm64
	deploy/build-arm64

test-arm64: setup-deploy static-arm64 ## Install, run, scrape, upgrade and purge the arm64 package in an emulated Debian; as root
	tests/deploy/arm64 $(ARM64_BINARY)

packages: static sbom ## Build target/packages: the Debian and the RPM package, the binary, the SBOM, SHA256SUMS
	@deploy/setup packages
	deploy/packages $(STATIC_TARGET) target/packages

sbom: setup $(TOOLS)/cargo-cyclonedx ## Write the components of the release binary as CycloneDX: target/flowtap.cdx.json
	CARGO="$(CARGO)" deploy/sbom $(STATIC_TARGET) target/flowtap.cdx.json

test-sbom: setup $(TOOLS)/cargo-cyclonedx ## Compare the SBOM with what cargo links
	tests/deploy/sbom

test-loom: setup ## The queues of exporters under every interleaving of their threads
	$(CARGO) test --locked -p flowtap-engine --features loom --lib loom_tests

soak: setup-test ## Sustained load for SOAK_SECONDS (600): memory and descriptors stay bounded, no byte is missing; as root
	FLOWTAP_TEST_SOAK_SECONDS=$(or $(SOAK_SECONDS),600) $(CARGO) test --locked --test e2e -- --nocapture under_lasting_load

lint: setup-test setup-lint $(TOOLS)/cargo-deny ## Formatting, clippy, rustdoc, clang-format, scripts, prose, links, licences and advisories
	$(CARGO) fmt --all --check
	clang-format --dry-run --Werror ebpf/bpf/*.c ebpf/bpf/*.h tests/benches/overhead/*.c
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --locked --document-private-items
	tests/scripts
	tests/prose --self-test
	tests/docs/links --self-test
	tests/benches/history --self-test
	tests/prose
	tests/docs/links
	tests/deny $(TOOLS)/cargo-deny

references: ## Regenerate pages of docs/, the schema of the config, and the lists of public items
	FLOWTAP_UPDATE_REFERENCES=1 $(CARGO) test --locked --test e2e -- references:: public_api::
	tests/docs/links --update

generate: references setup-deploy ## Regenerate every generated file: also rules, dashboards and manifests of deploy/
	deploy/prometheus/generate
	deploy/kubernetes/generate

book: $(TOOLS)/mdbook ## Build docs/ as a book with a search: target/book/index.html
	tests/docs/links
	$(TOOLS)/mdbook build deploy/book
	tests/docs/links --book target/book

nextest: setup-test $(TOOLS)/cargo-nextest ## Unit tests with cargo-nextest, each in a separate process
	PATH="$(CURDIR)/$(TOOLS):$$PATH" $(CARGO) nextest run --workspace --locked

nextest-e2e: setup-test $(TOOLS)/cargo-nextest ## End-to-end tests likewise; as root
	PATH="$(CURDIR)/$(TOOLS):$$PATH" $(CARGO) nextest run --locked --profile e2e --test e2e

coverage: setup $(TOOLS)/cargo-llvm-cov ## Coverage of the unit tests by lines: target/coverage/crates.txt, summary.txt and html
	PATH="$(CURDIR)/$(TOOLS):$$PATH" CARGO="$(CARGO)" tests/coverage

check-features: setup ## Check that the program compiles without a warning when its features are off
	CARGO="$(CARGO)" tests/features none

features: setup ## The same, and with each of the features alone
	CARGO="$(CARGO)" tests/features

fmt: ## Format everything
	$(CARGO) fmt --all
	clang-format -i ebpf/bpf/*.c ebpf/bpf/*.h tests/benches/overhead/*.c

# Unoptimised, which takes a third of the time to build: it runs once, for a second.
$(TOOLS)/cargo-deny:
	CARGO_PROFILE_DEV_DEBUG=false $(CARGO) install --debug --locked --root target/tools cargo-deny@$(CARGO_DENY_VERSION)

$(TOOLS)/mdbook:
	$(CARGO) install --locked --root target/tools --no-default-features --features search mdbook@$(MDBOOK_VERSION)

$(TOOLS)/cargo-nextest:
	$(CARGO) install --locked --root target/tools cargo-nextest@$(CARGO_NEXTEST_VERSION)

$(TOOLS)/cargo-llvm-cov:
	$(CARGO) install --locked --root target/tools cargo-llvm-cov@$(CARGO_LLVM_COV_VERSION)

$(TOOLS)/cargo-cyclonedx:
	$(CARGO) install --locked --root target/tools cargo-cyclonedx@$(CARGO_CYCLONEDX_VERSION)

clean: ## Remove everything that was built
	$(CARGO) clean
