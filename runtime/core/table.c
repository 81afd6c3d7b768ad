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

#define A(name, type, def) {#name, #def, ATTR_##type},
#define OP(name, signature, attrs, flags, doc) static const op_attribute name##_attributes[] = {attrs{0}};
#include "ops.def"
#undef OP
#undef A

#define OP(name_, signature_, attrs_, flags_, doc_) \
  [OP_##name_] = {.name = #name_, \
                  .signature = signature_, \
                  .attributes = name_##_attributes, \
                  .doc = doc_, \
                  .flags = (flags_), \
                  .n_attributes = (int32_t)(sizeof name_##_attributes / sizeof(op_attribute)) - 1, \
                  .attr_slots = (int32_t)(sizeof(name_##_attr) / sizeof(dlv3_attr)), \
                  .infer = name_##_infer, \
                  .backward = __builtin_choose_expr(((flags_)&GRAD) != 0, name_##_backward_rule, NULL)},
op_info op_table[OP_COUNT] = {
#include "ops.def"
};
#undef OP
#undef NONE

/* -- Signatures -------------------------------------------------------------------------------- */

/* One side of "x* w* b? -> y": names and marks. Returns how many. */
static int32_t parse_side(const char **p, const char **names, int32_t most, uint32_t *optional, uint32_t *kept,
                          uint32_t *in_place, bool *variadic) {
  int32_t n = 0;
  for (;;) {
    while (**p == ' ') ++*p;
    if (!**p || !strncmp(*p, "->", 2) || n == most) break;
    const char *begin = *p;
    while (isalnum((unsigned char)**p) || **p == '_') ++*p;
    names[n] = strndup(begin, (size_t)(*p - begin)); /* kept for good */
    if (!names[n]) names[n] = "?";
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
    info->n_in = parse_side(&p, info->in_name, MOST_NAMED_INPUTS, &info->in_optional, &info->in_saved, &info->in_place,
                            &info->variadic);
    if (!strncmp(p, "->", 2)) p += 2;
    info->n_out = parse_side(&p, info->out_name, DLV3_MAX_OUTPUTS, &ignored, &info->out_saved, &ignored, &no);
  }
}

/* -- The table, for Lua ----------------------------------------------------------------------- */

DLV3_API int32_t dlv3_op_count(void) { return OP_COUNT; }
static const op_info *info_of(int32_t op) {
  static const op_info nothing = {.name = "", .signature = "", .doc = ""};
  return op >= 0 && op < OP_COUNT ? &op_table[op] : &nothing;
}
DLV3_API const char *dlv3_op_name(int32_t op) { return info_of(op)->name; }
DLV3_API const char *dlv3_op_signature(int32_t op) { return info_of(op)->signature; }
DLV3_API const char *dlv3_op_doc(int32_t op) { return info_of(op)->doc; }
DLV3_API int32_t dlv3_op_flags(int32_t op) { return info_of(op)->flags; }
DLV3_API int32_t dlv3_op_is_variadic(int32_t op) { return info_of(op)->variadic; }

DLV3_API int32_t dlv3_op_input(int32_t op, int32_t i, dlv3_op_tensor *out) {
  const op_info *info = info_of(op);
  if (i < 0 || i >= info->n_in) return 0;
  *out = (dlv3_op_tensor){info->in_name[i], info->in_optional >> i & 1, info->in_place >> i & 1};
  return 1;
}

DLV3_API int32_t dlv3_op_output(int32_t op, int32_t i, dlv3_op_tensor *out) {
  const op_info *info = info_of(op);
  if (i < 0 || i >= info->n_out) return 0;
  *out = (dlv3_op_tensor){info->out_name[i], 0, 0};
  return 1;
}

#define TYPE(type) [ATTR_##type] = {#type, (int32_t)(sizeof(attr_##type) / sizeof(dlv3_attr))},
static const struct {
  const char *name;
  int32_t slots;
} attribute_types[ATTR_TYPE_COUNT] = {ATTR_TYPES(TYPE)};
#undef TYPE

int32_t attribute_slots(int32_t type) { return attribute_types[type].slots; }

DLV3_API int32_t dlv3_op_attr(int32_t op, int32_t i, dlv3_op_attribute *out) {
  const op_info *info = info_of(op);
  if (i < 0 || i >= info->n_attributes) return 0;
  const op_attribute *a = &info->attributes[i];
  int32_t slot = 0;
  for (int32_t k = 0; k < i; k++) slot += attribute_slots(info->attributes[k].type);
  *out = (dlv3_op_attribute){a->name, attribute_types[a->type].name, a->def, slot, attribute_slots(a->type)};
  return 1;
}

DLV3_API const char *dlv3_activation_name(int32_t activation) {
  static const char *const names[] = {"none", "relu", "relu6", "hardswish", "hardsigmoid"}; /* by ACT_* */
  return activation >= 0 && activation < (int32_t)(sizeof names / sizeof *names) ? names[activation] : NULL;
}
