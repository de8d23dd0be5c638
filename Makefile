# A thin front of meson and ninja. One variable picks a variant, each in its own build folder:
#   make SAN=address,undefined test      sanitizers
#   make CC=clang                        another compiler
# JOBS limits parallel compiling, TESTS picks tests by name (a substring or glob).
BUILD_ROOT ?= .
JOBS ?= $(shell nproc)
TESTS ?=
SAN ?=
WERROR ?=
comma := ,

variant :=
setup_args :=
ifneq ($(SAN),)
variant := $(variant)-san
setup_args += -Db_sanitize=$(SAN) -Db_lundef=false -Dbuildtype=debug -Doptimization=1 \
	-Dc_args=-fno-sanitize-recover=all
endif
# WERROR=1: a warning is an error, as in CI.
ifneq ($(WERROR),)
setup_args += -Dwerror=true
endif
ifneq ($(filter command% environment%,$(origin CC)),)
ifneq ($(notdir $(CC)),gcc)
variant := $(variant)-$(notdir $(firstword $(CC)))
endif
export CC
endif
BUILD ?= $(BUILD_ROOT)/build$(variant)

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) -j $(JOBS)

# The packages that building and testing need; silent when all are there.
deps:
	@tools/install-deps

$(BUILD)/build.ninja:
	@tools/install-deps build
	meson setup $(setup_args) $(BUILD)

demo: deps all
	@tools/demo $(BUILD)

test: deps all
	@tools/run-tests $(BUILD) $(TESTS)

check-long: all
	@tools/install-deps long
	@tools/run-tests --long $(BUILD) $(TESTS)

# Against native execution and QEMU TCG; writes doc/bench.json and doc/bench.svg.
bench: all
	@tools/install-deps bench
	@tools/fetch-guest -q
	@tools/fetch-debian || echo "boot-systemd will be skipped"
	@BENCH_ROUNDS=$${BENCH_ROUNDS:-5} tools/run-tests --suite bench $(BUILD) $(TESTS)

# libFuzzer targets, a minute each; FUZZ_SECONDS for longer.
fuzz: deps all
	@tools/run-fuzz $(if $(FUZZ_SECONDS),-s $(FUZZ_SECONDS)) -b $(BUILD)

guest: deps
	@tools/fetch-guest

install: all
	meson install -C $(BUILD)

# A Debian package in the build folder.
deb: all
	@packaging/mkdeb $(BUILD)

format:
	@tools/check-format --fix .

clean:
	rm -rf $(BUILD_ROOT)/build $(BUILD_ROOT)/build-*

.PHONY: all deps demo test check-long bench fuzz guest install deb format clean
