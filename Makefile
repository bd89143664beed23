# Tools run by "go run tool@version": this is the one place that names the versions, except for the plugins of buf,
# which sdk/proto/buf.gen.yaml names.
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
BUF           := github.com/bufbuild/buf/cmd/buf@v1.75.0
# The S3 server that plugins/s3 is tested against.
VERSITYGW     := github.com/versity/versitygw/cmd/versitygw@v1.8.0

# Debian packages, each with a program, or a file, by which its presence is told. The server is what running needs; the tests run
# against real servers, too.
SERVER_PACKAGES := postgresql=postgres
# For examples/plugins/python-ntfy, whose build.sh generates its stubs.
PYTHON_PACKAGES := python3-grpcio=/usr/lib/python3/dist-packages/grpc/__init__.py \
  python3-protobuf=/usr/lib/python3/dist-packages/google/protobuf/__init__.py \
  python3-cryptography=/usr/lib/python3/dist-packages/cryptography/__init__.py \
  protobuf-compiler=protoc protobuf-compiler-grpc=grpc_python_plugin libprotobuf-dev=/usr/include/google/protobuf/duration.proto
# A private Postfix with Cyrus SASL, or Dovecot for OAuth 2.0, for the e-mail transport (sdk/plugintest/postfix).
MAIL_PACKAGES := postfix=postfix dovecot-core=dovecot sasl2-bin=saslpasswd2 libsasl2-modules-db=/usr/share/doc/libsasl2-modules-db \
  libsasl2-modules=/usr/share/doc/libsasl2-modules python3-dkim=/usr/lib/python3/dist-packages/dkim/__init__.py
TEST_PACKAGES   := $(SERVER_PACKAGES) openssh-server=sshd openssh-client=ssh-keygen pgbouncer=pgbouncer nodejs=node npm=npm faketime=faketime openssl=openssl age=age gnupg=gpg zstd=zstd $(PYTHON_PACKAGES) $(MAIL_PACKAGES)

VERSION ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null),dev)
# Static and without paths of the machine that built them: a binary runs on any Linux, and two builds are alike.
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
PLUGINS := $(filter-out sink,$(notdir $(patsubst %/,%,$(wildcard plugins/*/))))

# Narrow a run with, for example: make test PKG=./daemon/internal/store/... TESTFLAGS='-run TestLane -v'
PKG       ?= ./...
TESTFLAGS ?=
FUZZTIME  ?= 30s
BENCHFLAGS ?=
ROUNDS    ?= 50
WAYS      ?= notify poll pooler

.DEFAULT_GOAL := help
.PHONY: help build demo test lint generate check-generated bench chaos fuzz deps server-deps clean build/pgrun build/tools/versitygw

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/deliveryd and bin/plugins/deliveryd-transport-*
	$(GOBUILD) -o bin/deliveryd ./daemon/cmd/deliveryd
	@# Whatever the umask: the daemon refuses plugins that somebody else could write.
	@mkdir -p bin/plugins && chmod 0755 bin/plugins
	@set -e; for name in $(PLUGINS); do file=bin/plugins/deliveryd-transport-$$name; \
	  echo "build plugin $$name"; $(GOBUILD) -o $$file ./plugins/$$name; chmod 0755 $$file; done
	@# It misbehaves on demand, for the bench and for tests: not where a daemon would start it.
	@mkdir -p bin/testing && $(GOBUILD) -o bin/testing/deliveryd-transport-sink ./plugins/sink && chmod 0755 bin/testing bin/testing/*
	@rm -f bin/plugins/deliveryd-transport-sink

demo: server-deps build ## real deliveries from end to end on this machine, in under two minutes
	go run ./examples/demo -bin bin

# pgrun starts one PostgreSQL for all tests. It is built first, because "go run" does not pass signals on.
build/pgrun:
	@go build -o $@ ./daemon/internal/pglocal/pgtest/pgrun

# Tests that find it missing make it themselves.
build/tools/versitygw:
	@.ci/tool $@ $(VERSITYGW)

test: deps build/pgrun build/tools/versitygw ## all tests with the race detector, against a real PostgreSQL
	build/pgrun go test -race -timeout 20m $(TESTFLAGS) $(PKG)

lint: ## house rules, static analysis, formatting
	go run $(GOLANGCI_LINT) run $(PKG)

generate: server-deps ## gen/ from migrations and protobuf contract, docs/api.md and docs/configuration.md from the code
	.ci/generate $(BUF) gen docs

check-generated: server-deps ## fail when gen/ or a page of docs/ is not what "make generate" writes
	@# The underscore keeps what is written out of "./...".
	@rm -rf build/_generated
	.ci/generate $(BUF) build/_generated/gen build/_generated/docs
	@diff -r gen build/_generated/gen || { echo 'gen/ is stale: run "make generate" and commit'; exit 1; }
	@for page in build/_generated/docs/*; do diff docs/$${page##*/} $$page || \
	  { echo "docs/$${page##*/} is stale: run \"make generate\" and commit"; exit 1; }; done

# Not "go run", which does not pass signals on: an interrupted bench stops its servers.
bench: server-deps build ## rate, CPU by process, latency, beside a peer (BENCHFLAGS='--only latency'; --help lists them)
	@mkdir -p build
	go build -o build/deliverybench ./daemon/cmd/deliverybench
	build/deliverybench $(BENCHFLAGS)

chaos: deps build/pgrun build/tools/versitygw ## the fault tests (TestFault...), ROUNDS times as often as in "make test", for each of WAYS
	for way in $(WAYS); do \
	  DELIVERYD_FAULT_WAY=$$way DELIVERYD_FAULT_ROUNDS=$(ROUNDS) build/pgrun go test -race -count=1 -timeout 60m -run '^TestFault' $(TESTFLAGS) $(PKG) || exit 1; \
	done

fuzz: ## every fuzz test for FUZZTIME each
	.ci/fuzz $(FUZZTIME)

deps: ## install the servers that the tests need (root with apt-get), else name their packages
	@.ci/deps $(TEST_PACKAGES)

server-deps:
	@.ci/deps $(SERVER_PACKAGES)

clean: ## remove what was built
	rm -rf bin build
