# dlv3: make | make check | make demo | make help
#
# Everything is built under build/; the program is ./dlv3.
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += -j$(shell nproc) # another -j on the command line overrules it

SAN    ?= 0
CUDA   ?= 1
PREFIX ?= /usr/local
TESTS  ?=
V      ?= 0

# Other compilers and sanitizers build in folders of their own: make CC=clang gives build/clang/dlv3.
CLANG  := $(findstring clang,$(CC))
VARIANT := $(if $(CLANG),/clang)$(if $(filter 1,$(SAN)),/san)
B      := build$(VARIANT)
BIN    := $(if $(VARIANT),$(B)/dlv3,dlv3)
Q      := $(if $(filter 0,$(V)),@)
say     = $(if $(filter 0,$(V)),@printf '  %-5s %s\n' '$(1)' '$(2)')
COMMA  := ,

# What is built with: found once, by scripts/build/features.sh, which installs packages where it may.
NO_BUILD := clean help features lint
ifneq ($(filter-out $(NO_BUILD),$(or $(MAKECMDGOALS),all)),)
include build/features.mk
endif

# maybe-uninitialized: gcc can not know that fail() never returns DLV3_OK, so every TRY would trip it.
WARN   := -Wall -Wextra -Wshadow -Wformat-security -Wno-missing-field-initializers $(if $(CLANG),-Wno-unknown-pragmas -Wno-pass-failed,-Wno-clobbered -Wno-maybe-uninitialized) $(if $(filter 0,$(WERROR)),,-Werror)
OPT    := -O2 -g $(if $(filter 1,$(SAN)),-fsanitize=address$(COMMA)undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined -DDLV3_SANITIZE)
ALL_CFLAGS = -std=gnu11 $(OPT) $(WARN) -fvisibility=hidden -fno-math-errno -fopenmp -MMD -MP -Iruntime -Ikernels $(FEATURE_CFLAGS)
ALL_LIBS = $(FEATURE_LIBS) -lm -ldl -lpthread $(LDLIBS)

# The headers that the program shares with libraries that are opened at run time. A checksum of them is compiled into
# either side, so that a library of another version is refused (part_open in runtime/core/parts.c).
contract = '"$(shell cat $1 | sha256sum | cut -c1-16)"'
BACKEND_CONTRACT := -DDLV3_BACKEND_CONTRACT=$(call contract,runtime/dlv3.h runtime/ops.def runtime/core/core.h runtime/core/backend.h)
MPI_CONTRACT := -DDLV3_MPI_CONTRACT=$(call contract,runtime/dlv3.h runtime/collectives/mpi_library.h)

SRC := $(wildcard runtime/*/*.c kernels/cpu/*.c kernels/cpu/*/*.c)
OBJ := $(SRC:%.c=$(B)/%.o)

# The CUDA part is a library of its own, opened on first use: built where nvcc, cuDNN and cuBLAS are found.
CUDA_SRC := $(wildcard kernels/cuda/*.cu kernels/cuda/*/*.cu)
WITH_CUDA := $(if $(filter 0,$(CUDA)),,$(if $(filter 0,$(SAN)),$(NVCC)))

# An MPI is a library of its own too, opened where a launcher started the process: one a binary interface.
MPI_LIBS := $(foreach m,$(MPIS),$(B)/libdlv3_$m.so)

all: $(BIN) $(if $(WITH_CUDA),$(B)/libdlv3_cuda.so) $(MPI_LIBS)

# -rdynamic: LuaJIT's FFI finds the functions of dlv3.h in the program itself.
LINK = $(CC) $(OPT) -fopenmp -rdynamic
$(BIN): $(OBJ) $(B)/cdef.o
	$(call say,LINK,$@)
	$(Q)$(LINK) -o $@ $^ $(ALL_LIBS)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(ALL_CFLAGS) $(CFLAGS) -c -o $@ $<

# Kernels are compiled for vectorisation; the instruction set is chosen at run time (kernels/cpu/support/simd.h).
$(B)/kernels/%.o $(B)/runtime/images/%.o: OPT += -O3
# Hundreds of unrolled tiles: with sanitizers and optimised they take the compiler more than seven minutes.
build/san/kernels/cpu/conv/tiles.o: OPT += -O0 -fno-sanitize=undefined

$(B)/libdlv3_%.so: kernels/mpi/mpi.c kernels/shared/half.h runtime/dlv3.h runtime/collectives/mpi_library.h build/features.mk
	@mkdir -p $(@D)
	$(call say,MPI,$@)
	$(Q)$(CC) -std=gnu11 -O3 -g $(WARN) -fPIC -fvisibility=hidden -Iruntime -Ikernels $(MPI_CONTRACT) $($*_CFLAGS) -shared -o $@ $< $($*_LIBS)
$(B)/runtime/plugin/plugin.o: FEATURE_CFLAGS += $(BACKEND_CONTRACT)
$(B)/runtime/collectives/world.o: FEATURE_CFLAGS += $(MPI_CONTRACT) -DOPENMPI_VERSION='"$(openmpi_VERSION)"' -DMPICH_VERSION='"$(mpich_VERSION)"'

# Machine code for A100 and H100/H200; newer ones translate the PTX.
CUDA_ARCHS ?= 80 90
NVCC_FLAGS = -std=c++17 -Iruntime -Ikernels -O3 -lineinfo $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$a,code=sm_$a) \
  -gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS)) \
  -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-maybe-uninitialized $(if $(filter 0,$(WERROR)),,-Xcompiler -Werror -Werror all-warnings) -MD -MP
$(B)/cuda/%.o: kernels/cuda/%.cu build/features.mk
	@mkdir -p $(@D)
	$(call say,NVCC,$<)
	$(Q)$(NVCC) $(NVCC_FLAGS) -MF $(@:.o=.d) -c -o $@ $<
$(B)/cuda/support/backend.o: NVCC_FLAGS += $(BACKEND_CONTRACT)
$(B)/libdlv3_cuda.so: $(CUDA_SRC:kernels/cuda/%.cu=$(B)/cuda/%.o)
	$(call say,LINK,$@)
	$(Q)$(NVCC) -shared -cudart shared -Xlinker -z,defs -o $@ $^ $(CUDA_LIBS) -ldl

# The same sources for the host, with stand-ins for CUDA's headers and libraries: what the tests run without a GPU.
HOST_CUDA := $(B)/cuda_host/libdlv3_cuda.so
HOST_CUDA_SRC := $(wildcard tests/cuda_host/*.cpp)
HOST_CXX = $(CXX) -std=c++17 $(OPT) $(WARN) -Wno-unknown-pragmas -ffp-contract=off -Itests/cuda_host -Iruntime -Ikernels -fPIC -fvisibility=hidden -MMD -MP
$(B)/cuda_host/%.o: kernels/cuda/%.cu
	@mkdir -p $(@D)
	$(call say,CXX,$<)
	$(Q)$(HOST_CXX) -x c++ -c -o $@ $<
$(B)/cuda_host/host/%.o: tests/cuda_host/%.cpp
	@mkdir -p $(@D)
	$(call say,CXX,$<)
	$(Q)$(HOST_CXX) -c -o $@ $<
$(B)/cuda_host/support/backend.o: HOST_CXX += $(BACKEND_CONTRACT)
HOST_CUDA_OBJ := $(CUDA_SRC:kernels/cuda/%.cu=$(B)/cuda_host/%.o) $(HOST_CUDA_SRC:tests/cuda_host/%.cpp=$(B)/cuda_host/host/%.o)
$(HOST_CUDA): $(HOST_CUDA_OBJ)
	$(call say,LINK,$@)
	$(Q)$(CXX) $(OPT) -shared -o $@ $^ -ldl

# The graphs for cuDNN before the real one, which from 9.8 on makes plans without a GPU.
CUDNN_HEADER := $(if $(WITH_CUDA),$(firstword $(wildcard $(dir $(NVCC))../include/cudnn.h /usr/include/cudnn.h /usr/include/x86_64-linux-gnu/cudnn.h)))
PLANS := $(if $(CUDNN_HEADER),$(if $(shell grep -ls CUDNN_ATTR_ENGINEHEUR_DEVICEPROP $(dir $(CUDNN_HEADER))cudnn_graph*.h),$(B)/cudnn_plans))
comma := ,
$(B)/cudnn_plans: tests/cudnn/plans.cpp $(filter-out %/cudnn.o %/cudnn_plan.o,$(HOST_CUDA_OBJ))
	$(call say,CXX,$@)
	$(Q)$(HOST_CXX) -Itests/cudnn -DCUDNN_HEADER='"$(CUDNN_HEADER)"' -MF $(B)/cuda_host/plans.d -o $@ $(filter %.cpp %.o,$^) -ldl $(subst -Xlinker -rpath$(comma),-Wl$(comma)-rpath$(comma),$(CUDA_LIBS))
-include $(wildcard $(B)/cuda/*.d $(B)/cuda/*/*.d $(B)/cuda_host/*.d $(B)/cuda_host/*/*.d)

# The text of dlv3.h as LuaJIT's FFI reads it, inside the binary: the two can not drift apart.
$(B)/cdef.txt: runtime/dlv3.h
	@mkdir -p $(@D)
	$(Q)$(CC) -E -P -DDLV3_CDEF $< > $@
$(B)/cdef.o: $(B)/cdef.txt
	$(Q)printf '.section .rodata\n.global dlv3_cdef_text\n.type dlv3_cdef_text, @object\ndlv3_cdef_text:\n.incbin "%s"\n.byte 0\n.section .note.GNU-stack,"",@progbits\n' $< | $(CC) -c -x assembler -o $@ -

-include $(OBJ:.o=.d)

build/features.mk: scripts/build/features.sh scripts/build/install_packages.sh
	@mkdir -p build
	@CC='$(CC)' scripts/build/features.sh $@

features:
	@mkdir -p build
	@CC='$(CC)' scripts/build/features.sh build/features.mk

# -- Tests -----------------------------------------------------------------------------------------------------

# LuaJIT's heap is its own, so the leak check sees nothing that Lua holds; the program closes its state before it
# ends, and what is still there then is a leak. The suppressions are libraries' once-made tables.
SAN_ENV := ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
  LSAN_OPTIONS=suppressions=$(CURDIR)/tests/lsan.supp:print_suppressions=0

# Files of tests at once, each in a process of its own: most of them keep one processor busy.
TEST_JOBS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))

check: all $(if $(filter 0,$(CUDA)),,$(if $(HAVE_CXX),$(HOST_CUDA) $(PLANS)))
	@$(if $(filter 1,$(SAN)),$(SAN_ENV)) ./$(BIN) tests/run.lua --jobs $(TEST_JOBS) $(TESTS)

lint:
	@sh scripts/build/lint.sh

# -- A model from nothing in four minutes -----------------------------------------------------------------------

demo: all
	@sh scripts/build/demo.sh

# -- Beside PyTorch, ONNX Runtime and OpenVINO ------------------------------------------------------------------

# ARGS: options of scripts/bench.lua; PYTHON: a python that has the peers.
bench: all
	@$(if $(PYTHON),PYTHON='$(PYTHON)') ./dlv3 scripts/bench.lua $(ARGS)

# -- Installation ------------------------------------------------------------------------------------------------

SHARE := $(DESTDIR)$(PREFIX)/share/dlv3
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(SHARE)
	install -m 755 dlv3 $(DESTDIR)$(PREFIX)/bin/dlv3
	$(if $(WITH_CUDA),install -D -m 755 $(B)/libdlv3_cuda.so $(DESTDIR)$(PREFIX)/lib/dlv3/libdlv3_cuda.so)
	for f in $(MPI_LIBS); do install -D -m 755 $$f $(DESTDIR)$(PREFIX)/lib/dlv3/$$(basename $$f); done
	for f in $$(find lua models scripts bench -name '*.lua' -o -name '*.py'); do install -D -m 644 $$f $(SHARE)/$$f; done

clean:
	rm -rf build dlv3

help:
	@echo 'make              build ./dlv3; installs missing packages where it may, else says which'
	@echo 'make check        all tests; TESTS="conv loss" those whose names have one of the words'
	@echo 'make check SAN=1  the same under the address and undefined-behaviour sanitizers'
	@echo 'make demo         draw a small data set, train on it, validate, predict: under four minutes'
	@echo 'make bench        beside PyTorch, ONNX Runtime and OpenVINO; PYTHON=FILE one that has them, ARGS="--quick" options'
	@echo 'make lint         luacheck over all Lua, and the rules of the house'
	@echo 'make install      into PREFIX (/usr/local), below DESTDIR'
	@echo 'make features     look again for what dlv3 is built with'
	@echo 'make clean        remove build/ and ./dlv3'
	@echo
	@echo 'variables: SAN=1 sanitizers, TEST_JOBS=1 files of tests one after the other, CUDA=0 without the CUDA part, CUDA_ARCHS=90 for one GPU, V=1 whole commands, WERROR=0 warnings are not errors, CC, CFLAGS, PREFIX, DESTDIR; -j1 one at a time'

.PHONY: all check lint demo bench install clean help features
