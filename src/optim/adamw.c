#include "optim/adamw.h"
#include "kernels/kernels.h"
#include "tensor/rows.h"
#include "tensor/profile.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PART_M, PART_V, PART_STEP, PART_MASTER, PART_LOW, PART_MOST, PARTS };
static const char *const part_names[PARTS] = {"m", "v", "step", "master", "low", "most"};

typedef struct slot {
  int group;
  char *name;
  kava_tensor *param;
  kava_tensor *parts[PARTS]; /* all NULL before the first step; the last three where expected() says */
} slot;

typedef struct group {
  double lr, decay;
} group;

struct kava_adamw {
  kava_adamw_options options;
  group *groups;
  slot *slots;
  kava_tensor *rates; /* f64 [groups], on the parameters' device: put_rates */
  int group_count;
  int64_t count, room;
};

kava_status kava_adamw_new(const kava_adamw_options *options, kava_adamw **out) {
  const struct {
    const char *name;
    double value;
  } betas[2] = {{"beta1", options->beta1}, {"beta2", options->beta2}};
  for (int i = 0; i < 2; i++)
    if (!(betas[i].value >= 0 && betas[i].value < 1))
      return kava_fail(KAVA_MISUSE, "adamw: %s is %g; 0 <= %s < 1 expected", betas[i].name, betas[i].value,
                       betas[i].name);
  if (!(options->eps >= 0)) return kava_fail(KAVA_MISUSE, "adamw: eps is %g; 0 or more expected", options->eps);
  if (options->state_dtype != KAVA_F32 && options->state_dtype != KAVA_BF16 && options->state_dtype != KAVA_U8)
    return kava_fail(KAVA_MISUSE, "adamw: state_dtype is %s; f32, bf16 or 8bit expected",
                     kava_dtype_name(options->state_dtype));
  kava_adamw *opt = kava_calloc(1, sizeof *opt);
  if (!opt) return KAVA_MEMORY;
  opt->options = *options;
  kava_live_add(1);
  *out = opt;
  return KAVA_OK;
}

static void forget(slot *s) {
  for (int i = 0; i < PARTS; i++) kava_tensor_release(&s->parts[i]);
}

void kava_adamw_release(kava_adamw **at) {
  kava_adamw *opt = *at;
  *at = NULL;
  if (!opt) return;
  for (int64_t i = 0; i < opt->count; i++) {
    forget(&opt->slots[i]);
    kava_free(opt->slots[i].name);
    kava_tensor_release(&opt->slots[i].param);
  }
  kava_tensor_release(&opt->rates);
  kava_free(opt->slots);
  kava_free(opt->groups);
  kava_free(opt);
  kava_live_add(-1);
}

kava_status kava_adamw_add_group(kava_adamw *opt, double lr, double decay, int *index) {
  if (!(lr >= 0)) return kava_fail(KAVA_MISUSE, "adamw: lr is %g; 0 or more expected", lr);
  if (!(decay >= 0)) return kava_fail(KAVA_MISUSE, "adamw: weight_decay is %g; 0 or more expected", decay);
  group *grown = kava_realloc(opt->groups, (size_t)(opt->group_count + 1) * sizeof *grown);
  if (!grown) return KAVA_MEMORY;
  opt->groups = grown;
  opt->groups[opt->group_count] = (group){lr, decay};
  *index = opt->group_count++;
  return KAVA_OK;
}

kava_status kava_adamw_add(kava_adamw *opt, int at, const char *name, kava_tensor *param) {
  if (!kava_dtype_is_float(param->dtype))
    return kava_fail(KAVA_MISUSE, "adamw: parameter '%s' is %s; f32, f16, bf16 or f64 expected", name,
                     kava_dtype_name(param->dtype));
  if (!kava_tensor_is_contiguous(param)) return kava_fail(KAVA_MISUSE, "adamw: parameter '%s' is not contiguous", name);
  if (param->node) return kava_fail(KAVA_MISUSE, "adamw: parameter '%s' is the result of an op; a leaf expected", name);
  for (int64_t i = 0; i < opt->count; i++) {
    const slot *other = &opt->slots[i];
    if (other->param == param)
      return kava_fail(KAVA_MISUSE, "adamw: '%s' of group %d and '%s' of group %d are the same tensor", other->name,
                       other->group + 1, name, at + 1);
    if (other->group == at && strcmp(other->name, name) == 0)
      return kava_fail(KAVA_MISUSE, "adamw: group %d has two parameters named '%s'", at + 1, name);
  }
  if (opt->count == opt->room) {
    int64_t room = opt->room ? opt->room * 2 : 64;
    slot *grown = kava_realloc(opt->slots, (size_t)room * sizeof *grown);
    if (!grown) return KAVA_MEMORY;
    opt->slots = grown;
    opt->room = room;
  }
  char *copy = kava_strdup(name);
  if (!copy) return KAVA_MEMORY;
  opt->slots[opt->count++] = (slot){.group = at, .name = copy, .param = kava_tensor_retain(param)};
  return KAVA_OK;
}

int kava_adamw_groups(const kava_adamw *opt) { return opt->group_count; }
int64_t kava_adamw_params(const kava_adamw *opt) { return opt->count; }
kava_tensor *kava_adamw_param(const kava_adamw *opt, int64_t index) { return opt->slots[index].param; }
double kava_adamw_lr(const kava_adamw *opt, int at) { return opt->groups[at].lr; }
void kava_adamw_set_lr(kava_adamw *opt, int at, double lr) { opt->groups[at].lr = lr; }

static bool has_grad(const slot *s) { return s->param->grad || s->param->grad_rows; }

static kava_dtype moments_of(const kava_adamw *opt, const slot *s) {
  if (s->param->dtype == KAVA_F64) return KAVA_F64;
  bool coded = opt->options.state_dtype == KAVA_U8;
  return coded && kava_tensor_numel(s->param) < KAVA_ADAMW_CODED ? KAVA_F32 : opt->options.state_dtype;
}

/* A piece of a parameter's state; false: it has none such. */
typedef struct piece {
  kava_dtype dtype;
  int dims;
  int64_t shape[KAVA_MAX_DIMS];
} piece;
static bool expected(const kava_adamw *opt, const slot *s, int part, piece *out) {
  kava_dtype of = s->param->dtype;
  *out = (piece){.dtype = moments_of(opt, s), .dims = s->param->dims};
  memcpy(out->shape, s->param->shape, sizeof out->shape);
  switch (part) {
  case PART_STEP: *out = (piece){KAVA_I64, 1, {1}}; return true;
  case PART_MASTER: out->dtype = KAVA_F32; return of == KAVA_F16;
  case PART_LOW: out->dtype = KAVA_I16; return of == KAVA_BF16;
  case PART_MOST:
    *out = (piece){KAVA_F32, 2, {2, kava_moment_blocks(kava_tensor_numel(s->param))}};
    return moments_of(opt, s) == KAVA_U8;
  default: return true;
  }
}

static kava_status part_new(const kava_adamw *opt, slot *s, int part) {
  piece p;
  if (s->parts[part] || !expected(opt, s, part, &p)) return KAVA_OK;
  kava_status st = KAVA_OK;
  kava_tensor *made = NULL;
  kava_device device = s->param->device;
  kava_device_lasting(+1);
  st = kava_tensor_zeros_on(device, p.dtype, p.dims, p.shape, &made);
  kava_device_lasting(-1);
  if (st != KAVA_OK) goto out;
  if (part == PART_MASTER)
    KAVA_RUN(device, convert, s->param->dtype, kava_tensor_data(s->param), KAVA_F32, kava_f32(made),
             kava_tensor_numel(s->param));
  s->parts[part] = made;
  made = NULL;
out:
  kava_tensor_release(&made);
  return st;
}

kava_status kava_adamw_reserve(kava_adamw *opt) {
  for (int64_t i = 0; i < opt->count; i++) {
    slot *s = &opt->slots[i];
    if (!has_grad(s) || s->parts[PART_M]) continue;
    for (int part = 0; part < PARTS; part++) {
      kava_status st = part_new(opt, s, part);
      if (st == KAVA_OK) continue;
      forget(s); /* a parameter has all its pieces or none, in a checkpoint too */
      return st;
    }
  }
  return KAVA_OK;
}

/* The groups' rates where the kernel reads them: they change from step to step, and a recorded step is to see that. */
static kava_status put_rates(kava_adamw *opt, kava_device device) {
  kava_status st = KAVA_OK;
  int64_t groups = opt->group_count;
  double *lr = kava_alloc((size_t)groups * sizeof *lr);
  if (!lr) return KAVA_MEMORY;
  for (int64_t i = 0; i < groups; i++) lr[i] = opt->groups[i].lr;
  if (opt->rates && (opt->rates->device != device || opt->rates->shape[0] != groups)) kava_tensor_release(&opt->rates);
  if (!opt->rates) {
    KAVA_TRY(kava_tensor_from_on(device, KAVA_F64, 1, &groups, lr, &opt->rates));
  } else if (!kava_device_recording())
    KAVA_TRY(kava_device_copy(device, kava_f64(opt->rates), KAVA_CPU, lr, (size_t)groups * sizeof *lr));
out:
  kava_free(lr);
  return st;
}

kava_status kava_adamw_refresh(kava_adamw *opt) {
  if (kava_device_recording())
    return kava_fail(KAVA_MISUSE, "adamw: a rate is set while a step is being recorded; set it before the step runs");
  return opt->rates ? put_rates(opt, opt->rates->device) : KAVA_OK;
}

kava_status kava_adamw_step(kava_adamw *opt, const kava_tensor *gate) {
  kava_status st = KAVA_OK;
  kava_device device = KAVA_CPU;
  kava_adamw_args a = {.beta1 = opt->options.beta1, .beta2 = opt->options.beta2, .eps = opt->options.eps, .gate = NULL};
  kava_adamw_span *spans = kava_alloc((size_t)opt->count * sizeof *spans);
  if (!spans) return KAVA_MEMORY;
  int range = kava_range_begin("optimizer");
  for (int64_t i = 0; i < opt->count && kava_device_recording(); i++)
    if (has_grad(&opt->slots[i]) && (!opt->slots[i].parts[PART_M] || !opt->rates))
      KAVA_FAIL(KAVA_MISUSE, "adamw: the first step of '%s' cannot be recorded: it makes the state; run it once before",
                opt->slots[i].name);
  KAVA_TRY(kava_adamw_reserve(opt)); /* everything that can fail comes before anything is changed */
  for (int64_t i = 0; i < opt->count; i++) {
    slot *s = &opt->slots[i];
    if (!has_grad(s)) continue;
    if (a.count > 0 && s->param->device != device)
      KAVA_FAIL(KAVA_MISUSE, "adamw: parameters on %s and on %s; one device expected", kava_device_name(device),
                kava_device_name(s->param->device));
    device = s->param->device;
    const struct kava_rows *rows = s->param->grad_rows;
    const kava_tensor *grad = rows ? rows->values : s->param->grad;
    const kava_tensor *master = s->parts[PART_MASTER] ? s->parts[PART_MASTER] : s->parts[PART_LOW];
    spans[a.count++] = (kava_adamw_span){.count = kava_tensor_numel(s->param),
                                         .dtype = s->param->dtype,
                                         .state_dtype = s->parts[PART_M]->dtype,
                                         .grad_dtype = grad->dtype,
                                         .p = kava_tensor_data(s->param),
                                         .m = kava_tensor_data(s->parts[PART_M]),
                                         .v = kava_tensor_data(s->parts[PART_V]),
                                         .g = kava_tensor_data(grad),
                                         .slots = rows ? kava_i32(rows->slots) : NULL,
                                         .width = grad->dims ? grad->shape[grad->dims - 1] : 1,
                                         .master = master ? kava_tensor_data(master) : NULL,
                                         .most = s->parts[PART_MOST] ? kava_f32(s->parts[PART_MOST]) : NULL,
                                         .step = kava_i64(s->parts[PART_STEP]),
                                         .group = s->group,
                                         .number = (uint32_t)i,
                                         .decay = opt->groups[s->group].decay};
  }
  if (a.count == 0) goto out;
  if (gate && gate->device != device)
    KAVA_FAIL(KAVA_MISUSE, "adamw: the gate is on %s, the parameters are on %s", kava_device_name(gate->device),
              kava_device_name(device));
  KAVA_TRY(put_rates(opt, device));
  a.spans = spans;
  a.lr = kava_f64(opt->rates);
  a.gate = gate ? kava_f64(gate) : NULL;
  KAVA_RUN(device, adamw, &a);
  for (int64_t i = 0; i < opt->count; i++)
    if (has_grad(&opt->slots[i])) kava_tensor_touch(opt->slots[i].param);
out:
  kava_range_end(range);
  kava_free(spans);
  return st;
}

void kava_adamw_zero_grad(kava_adamw *opt) {
  for (int64_t i = 0; i < opt->count; i++) {
    kava_tensor_release(&opt->slots[i].param->grad);
    kava_rows_release(&opt->slots[i].param->grad_rows);
  }
}

int64_t kava_adamw_entries(const kava_adamw *opt) { return opt->count * PARTS; }

kava_adamw_entry kava_adamw_entry_at(const kava_adamw *opt, int64_t index) {
  const slot *s = &opt->slots[index / PARTS];
  return (kava_adamw_entry){s->name, part_names[index % PARTS], s->group, s->parts[index % PARTS]};
}

/* The slot and part that "<group>.<name>.<part>" names; false when there is none. */
static bool find(const kava_adamw *opt, const char *name, slot **at, int *part) {
  char *rest;
  long in_group = strtol(name, &rest, 10);
  const char *last = strrchr(name, '.');
  if (rest == name || *rest != '.' || last <= rest) return false;
  rest++;
  for (*part = 0; *part < PARTS && strcmp(last + 1, part_names[*part]) != 0;) ++*part;
  if (*part == PARTS) return false;
  for (int64_t i = 0; i < opt->count; i++) {
    *at = &opt->slots[i];
    if ((*at)->group + 1 == in_group && strlen((*at)->name) == (size_t)(last - rest) &&
        memcmp((*at)->name, rest, (size_t)(last - rest)) == 0)
      return true;
  }
  return false;
}

static kava_status check_piece(const char *name, const piece *p, const kava_tensor *value) {
  if (value->dtype != p->dtype || value->dims != p->dims ||
      memcmp(value->shape, p->shape, (size_t)p->dims * sizeof *p->shape) != 0) {
    char came[96], wanted[96];
    kava_shape_format(value->dims, value->shape, came, sizeof came);
    kava_shape_format(p->dims, p->shape, wanted, sizeof wanted);
    return kava_fail(KAVA_MISUSE, "adamw: state '%s' is %s %s; %s %s expected", name, kava_dtype_name(value->dtype),
                     came, kava_dtype_name(p->dtype), wanted);
  }
  if (!kava_tensor_is_contiguous(value)) return kava_fail(KAVA_MISUSE, "adamw: state '%s' is not contiguous", name);
  return KAVA_OK;
}

/* An f32 master of a bf16 parameter -> the parameter's bits and those below, as kava_adamw_span has them. */
static kava_status take_apart(const slot *s, const kava_tensor *master, kava_tensor **high, kava_tensor **low) {
  kava_status st = KAVA_OK;
  int64_t count = kava_tensor_numel(master);
  uint32_t *bits = kava_alloc((size_t)count * sizeof *bits);
  uint16_t *halves = kava_alloc(2 * (size_t)count * sizeof *halves);
  if (!bits || !halves) KAVA_TRY(KAVA_MEMORY);
  KAVA_TRY(kava_tensor_read(master, bits));
  for (int64_t i = 0; i < count; i++) {
    halves[i] = (uint16_t)((bits[i] + 0x8000u) >> 16);
    halves[count + i] = (uint16_t)bits[i];
  }
  KAVA_TRY(kava_tensor_from_on(s->param->device, KAVA_BF16, master->dims, master->shape, halves, high));
  KAVA_TRY(kava_tensor_from_on(s->param->device, KAVA_I16, master->dims, master->shape, halves + count, low));
out:
  kava_free(bits);
  kava_free(halves);
  return st;
}

kava_status kava_adamw_load(kava_adamw *opt, int64_t count, const char *const *names, kava_tensor *const *values) {
  kava_status st = KAVA_OK;
  piece p;
  /* the new pieces, slot by slot, until all are known to be good */
  kava_tensor **fresh = kava_calloc((size_t)opt->count * (PARTS + 1) + 1, sizeof *fresh);
  if (!fresh) return KAVA_MEMORY;
  kava_tensor **params = fresh + opt->count * PARTS; /* of those that come with an f32 master */
  for (int64_t i = 0; i < count; i++) {
    slot *s;
    int part;
    bool known = find(opt, names[i], &s, &part);
    bool older = known && part == PART_MASTER && s->param->dtype == KAVA_BF16;
    if (!known || (!expected(opt, s, part, &p) && !older))
      KAVA_FAIL(KAVA_MISUSE, "adamw: the state has '%s', which belongs to no parameter of this optimizer", names[i]);
    KAVA_TRY(check_piece(names[i], &p, values[i]));
    if (older) part = PART_LOW;
    kava_tensor **at = &fresh[(s - opt->slots) * PARTS + part];
    if (*at) KAVA_FAIL(KAVA_MISUSE, "adamw: the state has '%s' twice", names[i]);
    if (older) {
      KAVA_TRY(take_apart(s, values[i], &params[s - opt->slots], at));
      continue;
    }
    KAVA_TRY(kava_tensor_new_on(s->param->device, p.dtype, values[i]->dims, values[i]->shape, at));
    KAVA_TRY(kava_device_copy(s->param->device, kava_tensor_data(*at), values[i]->device, kava_tensor_data(values[i]),
                              (*at)->storage->bytes));
  }
  for (int64_t i = 0; i < opt->count; i++) {
    const slot *s = &opt->slots[i];
    int present = 0, missing = -1;
    for (int part = 0; part < PARTS; part++) {
      if (!expected(opt, s, part, &p)) continue;
      if (fresh[i * PARTS + part])
        present++;
      else
        missing = part;
    }
    if (present > 0 && missing >= 0)
      KAVA_FAIL(KAVA_MISUSE, "adamw: the state lacks '%d.%s.%s'", s->group + 1, s->name, part_names[missing]);
  }
  for (int64_t i = 0; i < opt->count; i++) {
    kava_tensor *param = opt->slots[i].param, *bits = params[i];
    if (!bits) continue;
    KAVA_TRY(kava_device_copy(param->device, kava_tensor_data(param), param->device, kava_tensor_data(bits),
                              bits->storage->bytes));
    kava_tensor_touch(param);
  }
  for (int64_t i = 0; i < opt->count * PARTS; i++) {
    kava_tensor **at = &opt->slots[i / PARTS].parts[i % PARTS], *old = *at;
    if (old && fresh[i]) { /* into its place, where a step that was recorded goes on; fails with the device alone */
      KAVA_TRY(kava_device_copy(old->device, kava_tensor_data(old), old->device, kava_tensor_data(fresh[i]),
                                old->storage->bytes));
      kava_tensor_touch(old);
      continue;
    }
    *at = fresh[i];
    fresh[i] = old;
  }
out:
  for (int64_t i = 0; i < opt->count * (PARTS + 1); i++) kava_tensor_release(&fresh[i]);
  kava_free(fresh);
  return st;
}
