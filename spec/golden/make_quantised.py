"""Makes spec/golden/quant/checkpoints.safetensors: one linear layer in each layout of GPTQ, AWQ and compressed-tensors, and
the values it stands for. Written from the formats' definitions with numpy alone: packing goes value by value, as the
programs that write such files do it.

usage: make_quantised.py OUT.safetensors        (numpy)
Tensors of case C are called C/<name in the checkpoint>, its values C/values [out, in]; metadata C = config.json's
quantization_config."""
import json
import struct
import sys

import numpy as np

rng = np.random.default_rng(11)
OUT, IN = 16, 64
tensors, configs = {}, {}


def bf16(x):
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def of_bf16(h):
    return (h.astype(np.uint32) << 16).view(np.float32)


def words_along_rows(values, bits):
    """[n, m] integers -> [n * bits / 32, m] words: GPTQ's loop; for 3 bits 32 values in 3 words."""
    n, m = values.shape
    out = np.zeros((n * bits // 32, m), np.uint64)
    if bits != 3:
        each = 32 // bits
        for i in range(n):
            out[i // each] |= values[i].astype(np.uint64) << np.uint64(bits * (i % each))
        return out.astype(np.uint32).view(np.int32)
    for block in range(n // 32):
        v, w = values[32 * block : 32 * block + 32].astype(np.uint64), out[3 * block : 3 * block + 3]
        u = lambda k: np.uint64(k)
        for j in range(10):
            w[0] |= v[j] << u(3 * j)
        w[0] |= (v[10] & u(3)) << u(30)
        w[1] |= v[10] >> u(2) & u(1)
        for j in range(10):
            w[1] |= v[11 + j] << u(3 * j + 1)
        w[1] |= (v[21] & u(1)) << u(31)
        w[2] |= v[21] >> u(1) & u(3)
        for j in range(10):
            w[2] |= v[22 + j] << u(3 * j + 2)
    return out.astype(np.uint32).view(np.int32)


def words_along_columns(values, bits):
    return np.ascontiguousarray(words_along_rows(np.ascontiguousarray(values.T), bits).T)


def half(x):
    return np.asarray(x, np.float16)


# ---- GPTQ: w[o, i] = s[g(i), o] (q[i, o] - z[g(i), o]), in f16
for bits in (2, 3, 4, 8):
    for symmetric, order, version in ((True, False, "gptq"), (False, True, "gptq"), (False, False, "gptq_v2")):
        if bits < 4 and version == "gptq_v2":
            continue
        group, top = 32, (1 << bits) - 1
        q = rng.integers(0, top + 1, (IN, OUT))
        z = np.full((IN // group, OUT), 1 << (bits - 1)) if symmetric else rng.integers(0, top + 1, (IN // group, OUT))
        s = rng.uniform(0.01, 0.1, (IN // group, OUT)).astype(np.float16)
        g = np.arange(IN) // group
        if order:
            g = g[rng.permutation(IN)]
        stored = z if version == "gptq_v2" else (z - 1) % (top + 1)
        c = f"gptq{bits}{'-sym' if symmetric else ''}{'-order' if order else ''}{'-v2' if version == 'gptq_v2' else ''}"
        if bits == 3:  # 32 outputs make whole words
            q, z, s, stored = (np.concatenate([x, x[:, ::-1]], 1) for x in (q, z, s, stored))
        tensors |= {
            c + "/l.qweight": words_along_rows(q, bits),
            c + "/l.qzeros": words_along_columns(stored, bits),
            c + "/l.scales": s,
            c + "/l.g_idx": g.astype(np.int32),
            c + "/values": half((q - z[g]).astype(np.float32) * s[g].astype(np.float32)).T,
        }
        configs[c] = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order, "sym": symmetric,
                      "checkpoint_format": version}

# ---- AWQ: w = (q - z) s; the integers of a word are those of columns 0 2 4 6 1 3 5 7
ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def awq_words(values):
    out = np.zeros((values.shape[0], values.shape[1] // 8), np.uint64)
    for c in range(out.shape[1]):
        for i in range(8):
            out[:, c] |= values[:, 8 * c + ORDER[i]].astype(np.uint64) << np.uint64(4 * i)
    return out.astype(np.uint32).view(np.int32)


q, z = rng.integers(0, 16, (IN, OUT)), rng.integers(0, 16, (IN // 32, OUT))
s = rng.uniform(0.01, 0.1, (IN // 32, OUT)).astype(np.float16)
g = np.arange(IN) // 32
tensors |= {
    "awq/l.qweight": awq_words(q), "awq/l.qzeros": awq_words(z), "awq/l.scales": s,
    "awq/values": half((q - z[g]).astype(np.float32) * s[g].astype(np.float32)).T,
}
configs["awq"] = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}


# ---- compressed-tensors: w = (q - z) s, signed; packed ones have half their range added
def compressed(name, weights, form, parts, values, round_to):
    tensors.update({f"{name}/l.{key}": value for key, value in parts.items()})
    tensors[name + "/values"] = round_to(values.astype(np.float32))
    configs[name] = {"quant_method": "compressed-tensors", "format": form,
                     "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


in_bf16 = lambda x: ("BF16", bf16(x))
shape = np.array([OUT, IN], np.int64)
for bits, symmetric, order in ((4, True, False), (4, False, False), (8, True, False), (4, False, True), (3, True, False)):
    low, high = -(1 << (bits - 1)), 1 << (bits - 1)
    q = rng.integers(low, high, (OUT, IN))
    z = np.zeros((OUT, IN // 32), int) if symmetric else rng.integers(low, high, (OUT, IN // 32))
    s = of_bf16(bf16(rng.uniform(0.01, 0.1, (OUT, IN // 32))))
    g = np.arange(IN) // 32
    if order:
        g = g[rng.permutation(IN)]
    parts = {"weight_packed": words_along_columns(q - low, bits), "weight_scale": ("BF16", bf16(s)), "weight_shape": shape}
    if not symmetric:
        parts["weight_zero_point"] = words_along_rows(z - low, bits)
    if order:
        parts["weight_g_idx"] = g.astype(np.int32)
    compressed(f"packed{bits}{'-sym' if symmetric else ''}{'-order' if order else ''}",
               {"num_bits": bits, "type": "int", "strategy": "group", "group_size": 32, "symmetric": symmetric},
               "pack-quantized", parts, (q - z[:, g]) * s[:, g], in_bf16)

q = rng.integers(-127, 128, (OUT, IN)).astype(np.int8)
s = of_bf16(bf16(rng.uniform(0.01, 0.1, (OUT, 1))))
z = rng.integers(-20, 20, (OUT, 1)).astype(np.int8)
compressed("int8-channel", {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}, "int-quantized",
           {"weight": q, "weight_scale": ("BF16", bf16(s))}, q * s, in_bf16)
compressed("int8-asymmetric", {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False}, "int-quantized",
           {"weight": q, "weight_scale": ("BF16", bf16(s)), "weight_zero_point": z},
           (q.astype(np.float32) - z.astype(np.float32)) * s, in_bf16)

codes = rng.integers(0, 256, (OUT, IN)).astype(np.uint8)
codes[(codes & 127) == 127] = 0  # NaN
sign, e, m = codes >> 7, (codes >> 3 & 15).astype(int), (codes & 7).astype(np.float64)
fp8 = np.where(e == 0, m * 2.0**-9, (8 + m) * 2.0 ** (e - 10.0)) * np.where(sign, -1, 1)
one = np.array([0.037], np.float32)
compressed("fp8-tensor", {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True}, "float-quantized",
           {"weight": ("F8_E4M3", codes), "weight_scale": one}, fp8.astype(np.float32) * one[0], lambda x: x)
compressed("fp8-channel", {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}, "float-quantized",
           {"weight": ("F8_E4M3", codes), "weight_scale": ("BF16", bf16(s))}, fp8.astype(np.float32) * s, in_bf16)
block = rng.uniform(0.01, 0.1, (2, 2)).astype(np.float32)
compressed("fp8-block", {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [8, 32], "symmetric": True},
           "float-quantized", {"weight": ("F8_E4M3", codes), "weight_scale": block},
           fp8.astype(np.float32) * block.repeat(8, 0).repeat(32, 1), lambda x: x)

# ---- the file
NAMES = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64", "int8": "I8", "uint8": "U8"}
header, data, at = {"__metadata__": {c: json.dumps(k) for c, k in configs.items()}}, b"", 0
for name, value in sorted(tensors.items()):
    kind, value = value if isinstance(value, tuple) else (NAMES[str(value.dtype)], value)
    raw = np.ascontiguousarray(value).tobytes()
    header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [at, at + len(raw)]}
    data, at = data + raw, at + len(raw)
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(sys.argv[1], "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + data)
print(len(configs), "cases,", len(text) + len(data), "bytes")
