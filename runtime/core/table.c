/* table.c - the op table: ops.def expanded into descriptions, with signatures parsed once at start.
 *
 * A missing infer or backward rule is a link error here; a missing kernel list is one in the
 * backend's table. */
#include "core.h"

#include <ctype.h>

#define NONE
#define A(name, type, def)
#define OP(name, signature, attrs, flags, doc) status name##_infer(op_call *);
#include "ops.def"
#undef OP

#define OP(name, signature, attrs, flags, doc) status name##_backward_rule(backward_call *);
#include "ops.def"
#undef OP
#undef A

#define A(name, type, def) #name ":" #type "=" #def " "
#define OP(name_, signature_, attrs_, flags_, doc_) \
  [OP_##name_] = {.name = #name_, \
                  .signature = signature_, \
                  .attrs = "" attrs_, \
                  .doc = doc_, \
                  .flags = (flags_), \
                  .attr_slots = (int32_t)(sizeof(name_##_attr) / sizeof(dlv3_attr)), \
                  .infer = name_##_infer, \
                  .backward = __builtin_choose_expr(((flags_)&GRAD) != 0, name_##_backward_rule, NULL)},
op_info op_table[OP_COUNT] = {
#include "ops.def"
};
#undef OP
#undef A
#undef NONE

/* One side of "x* w* b? -> y": names and marks. Returns how many. */
static int32_t parse_side(const char **p, char (*names)[20], int32_t most, uint32_t *optional, uint32_t *kept,
                          uint32_t *in_place, bool *variadic) {
  int32_t n = 0;
  for (;;) {
    while (**p == ' ') ++*p;
    if (!**p || !strncmp(*p, "->", 2) || n == most) break;
    int32_t length = 0;
    while (isalnum((unsigned char)**p) || **p == '_') {
      if (length < 19) names[n][length++] = **p;
      ++*p;
    }
    names[n][length] = 0;
    for (; **p && **p != ' '; ++*p) {
      if (**p == '?') *optional |= 1u << n;
      if (**p == '*') *kept |= 1u << n;
      if (**p == '!') *in_place |= 1u << n;
      if (**p == '.') *variadic = true;
    }
    n++;
  }
  return n;
}

__attribute__((constructor)) static void parse_signatures(void) {
  for (int32_t op = 0; op < OP_COUNT; op++) {
    op_info *info = &op_table[op];
    const char *p = info->signature;
    uint32_t ignored = 0;
    bool no = false;
    info->n_in =
        parse_side(&p, info->in_name, 12, &info->in_optional, &info->in_saved, &info->in_place, &info->variadic);
    if (!strncmp(p, "->", 2)) p += 2;
    info->n_out = parse_side(&p, info->out_name, DLV3_MAX_OUTPUTS, &ignored, &info->out_saved, &ignored, &no);
  }
}

DLV3_API int32_t dlv3_op_count(void) { return OP_COUNT; }
static const op_info *info_of(int32_t op) {
  static const op_info nothing = {.name = "", .signature = "", .attrs = "", .doc = ""};
  return op >= 0 && op < OP_COUNT ? &op_table[op] : &nothing;
}
DLV3_API const char *dlv3_op_name(int32_t op) { return info_of(op)->name; }
DLV3_API const char *dlv3_op_signature(int32_t op) { return info_of(op)->signature; }
DLV3_API const char *dlv3_op_attrs(int32_t op) { return info_of(op)->attrs; }
DLV3_API const char *dlv3_op_doc(int32_t op) { return info_of(op)->doc; }
DLV3_API int32_t dlv3_op_flags(int32_t op) { return info_of(op)->flags; }
