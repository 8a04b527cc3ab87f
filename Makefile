# make image    build the default image for this machine into dist/
# make push TO=HOST/NAME:TAG    build it for both architectures, and push one reference
# make test     lint, then every test, Docker's included (installs and starts Docker Engine when root and absent)
# make test-arm64    the arm64 image on an arm64 kernel, compared with amd64's; `make test` does it too
# make bench    the figures that README and docs name: a table, and bench.json
# make soak     10,000 runs of mixed programs, 16 at once: two runs of one program are denied the same
# make soak-service  100,000 mixed runs on one service, 16 at once; `make test` does a tenth of it
# make test-cpython    all of CPython's own tests that make sense in the jail (half an hour)
# make test-libraries  builds an image with thirty libraries, tries each at work in the jail, and traces it from the
#                      group core; the other architecture's image is built too, its imports tried through qemu
# make golden   write the golden files anew (read the diff before you commit it)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARCH := $(patsubst aarch64,arm64,$(patsubst x86_64,amd64,$(shell uname -m)))

# Installed editable, so anew only where these change.
VERSION := $(shell cat pyproject.toml hatch_build.py runtime/_syscall.c runtime/init.c | cksum | tr -d ' ')
INSTALLED := $(VENV)/installed-$(VERSION)
INSTALLED_TESTS := $(VENV)/installed-tests-$(VERSION)

# Debian's keys and gpg are what mmdebstrap checks packages with on a machine that is not Debian.
BASE_TOOLS := mmdebstrap gpg file:/usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring \
	lib:libseccomp.so.2:libseccomp2
MACHINES := qemu-system-aarch64:qemu-system-arm qemu-system-x86_64:qemu-system-x86
RUN_TOOLS := unshare:util-linux setpriv:util-linux mount:mount

.PHONY: image push test test-arm64 lint bench soak soak-service test-cpython test-libraries golden clean

image: $(INSTALLED)
	@bash .ci/require $(BASE_TOOLS) $(RUN_TOOLS)
	@$(BIN)/sandbox-build --arch $(ARCH)

push: $(INSTALLED)
	@bash .ci/require $(BASE_TOOLS) $(RUN_TOOLS)
	@$(BIN)/sandbox-build --arch amd64 --arch arm64 --push $(TO)

test: lint
	@bash .ci/require $(BASE_TOOLS) $(RUN_TOOLS) strace skopeo docker-registry zstd git hostname taskset:util-linux \
		qemu-aarch64-static:qemu-user-static $(MACHINES)
	@bash .ci/docker
	$(BIN)/pytest
	$(BIN)/python -m tests.benchmarks.soak_service 10000

test-arm64: $(INSTALLED_TESTS)
	@bash .ci/require $(BASE_TOOLS) $(RUN_TOOLS) $(MACHINES)
	$(BIN)/pytest tests/machine

lint: $(INSTALLED_TESTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED_TESTS)
	@bash .ci/require $(BASE_TOOLS) $(RUN_TOOLS) docker-registry
	$(BIN)/python -m tests.benchmarks

soak: $(INSTALLED)
	@bash .ci/require $(BASE_TOOLS) $(RUN_TOOLS)
	$(BIN)/python -m tests.benchmarks.soak

soak-service: $(INSTALLED)
	@bash .ci/require $(BASE_TOOLS) $(RUN_TOOLS)
	$(BIN)/python -m tests.benchmarks.soak_service

test-cpython: $(INSTALLED)
	@bash .ci/require $(BASE_TOOLS) $(RUN_TOOLS)
	$(BIN)/python -m tests.suite.cpython

test-libraries: $(INSTALLED)
	@bash .ci/require $(BASE_TOOLS) $(RUN_TOOLS) qemu-aarch64-static:qemu-user-static
	$(BIN)/python -m tests.suite.libraries

golden: $(INSTALLED_TESTS)
	$(BIN)/python -m tests.golden

clean:
	rm -rf $(VENV) dist build runtime/native bench.json

$(INSTALLED):
	@bash .ci/require python $(PYTHON)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(INSTALLED_TESTS): $(INSTALLED)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@
