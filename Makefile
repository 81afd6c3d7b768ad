# dlv3: make | make check | make demo | make help
#
# Everything is built under build/; the program is ./dlv3. Variables: SAN=1 sanitizers, WERROR=0, PREFIX, DESTDIR, CC.
.DELETE_ON_ERROR:
.SUFFIXES:

SAN    ?= 0
B      := build$(if $(filter 1,$(SAN)),/san)
CC     ?= gcc
# maybe-uninitialized: gcc can not know that fail() never returns DLV3_OK, so every TRY would trip it.
WARN   := -Wall -Wextra -Wshadow -Wformat-security -Wno-missing-field-initializers -Wno-clobbered -Wno-maybe-uninitialized $(if $(filter 0,$(WERROR)),,-Werror)
COMMA  := ,
OPT    := -O2 -g $(if $(filter 1,$(SAN)),-fsanitize=address$(COMMA)undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined -DDLV3_SANITIZE)
PKGS   := luajit libpng libjpeg zlib libedit
CFLAGS += -std=gnu11 $(OPT) $(WARN) -fvisibility=hidden -fno-math-errno -fopenmp -MMD -MP -Iruntime $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
LDLIBS += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -ldnnl -lm -ldl -lpthread
# BOOT=1: links while parts are still missing

ifdef BOOT
CFLAGS += '-DMAYBE=__attribute__((weak))'
endif

SRC := $(wildcard runtime/*.c runtime/ops/*.c kernels/cpu/*.c)
OBJ := $(SRC:%.c=$(B)/%.o)
BIN := $(if $(filter 1,$(SAN)),$(B)/dlv3,dlv3)

all: $(BIN)

LINK = $(CC) $(OPT) -fopenmp -rdynamic $(if $(BOOT),-no-pie)
# BOOT=1: what is missing becomes a null pointer
BOOT_STUBS = $(LINK) -Wl,--warn-unresolved-symbols -o $(B)/boot $^ $(LDLIBS) 2>&1 | sed -n "s/.*undefined reference to .\(.*\)'/\1/p" | \
  sort -u | sed 's/.*/.weak &; .set &, 0/' | $(CC) -Wa,--noexecstack -c -x assembler -o $(B)/boot.o -
$(BIN): $(OBJ) $(B)/cdef.o
	$(if $(BOOT),$(BOOT_STUBS))
	$(LINK) -o $@ $^ $(if $(BOOT),$(B)/boot.o) $(LDLIBS)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c -o $@ $<

# Kernels are compiled for vectorisation; the instruction set is chosen at run time (kernels/cpu/simd.h).
$(B)/kernels/%.o: OPT += -O3

# The text of dlv3.h as LuaJIT's FFI reads it, inside the binary: the two can not drift apart.
$(B)/cdef.txt: runtime/dlv3.h
	@mkdir -p $(@D)
	$(CC) -E -P -DDLV3_CDEF $< > $@
$(B)/cdef.o: $(B)/cdef.txt
	printf '.section .rodata\n.global dlv3_cdef_text\n.type dlv3_cdef_text, @object\ndlv3_cdef_text:\n.incbin "%s"\n.byte 0\n.section .note.GNU-stack,"",@progbits\n' $< | $(CC) -c -x assembler -o $@ -

-include $(OBJ:.o=.d)

clean:
	rm -rf build dlv3
.PHONY: all clean
