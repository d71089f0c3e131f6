"""Holds spec/golden/quant/checkpoints.safetensors against the code of the programs that write such checkpoints, taken from
their wheels as it is and run on numpy: their packers must make the same words of the same integers, their readers must
give the same values. Documentation of what was compared; the suite does not run it.

usage: check_quantised.py FOLDER        (numpy; FOLDER holds unpacked wheels, none of which needs to be installed)
  pip download --no-deps auto-gptq==0.7.1 autoawq==0.2.7.post3 compressed-tensors==0.20.0, then unzip each there"""
import ast
import json
import os
import struct
import sys
import types

import numpy as np

wheels = sys.argv[1]
golden = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quant/checkpoints.safetensors")


# ---- as much of torch as they use
class T(np.ndarray):
    device = types.SimpleNamespace(type="cpu")

    def to(self, kind=None, dtype=None, device=None):
        kind = dtype or kind
        return self.astype(kind) if isinstance(kind, (type, np.dtype)) else self

    def t(self): return self.T
    def contiguous(self): return np.ascontiguousarray(self).view(T)
    def clone(self): return self.copy()
    def half(self): return self.astype(np.float16)
    def long(self): return self.astype(np.int64)
    def numpy(self): return np.asarray(self)
    def transpose(self, a, b): return np.swapaxes(self, a, b)
    def unsqueeze(self, dim): return np.expand_dims(self, dim)
    def expand(self, *shape): return np.broadcast_to(self, [n if m == -1 else m for n, m in zip(self.shape, shape)]).copy().view(T)
    def repeat_interleave(self, n, dim): return np.repeat(self, n, dim)
    def any(self): return bool(np.any(np.asarray(self)))
    def view(self, *what):
        if isinstance(what[0], (type, np.dtype)): return np.ndarray.view(self, what[0])
        return self.reshape(*what)
    def scatter_add_(self, dim, index, source):
        rows = np.broadcast_to(np.arange(self.shape[0])[:, None], index.shape)
        np.add.at(self, (rows, np.asarray(index)), np.asarray(source).astype(self.dtype))


def tensor(x, dtype=None): return np.array(x, dtype).view(T)


class Module:
    def __init__(self, *a): pass
    def register_buffer(self, name, value): setattr(self, name, value)


torch = types.SimpleNamespace(
    Tensor=T, Size=tuple, int=np.dtype("i4"), **{name: np.dtype(name) for name in ("int8", "int16", "int32", "uint8", "float16")},
    tensor=tensor, from_numpy=tensor, round=np.round, sum=np.sum,
    zeros=lambda *shape, dtype=None, device=None: np.zeros(shape[0] if isinstance(shape[0], tuple) else shape, dtype).view(T),
    arange=lambda *a, device=None, dtype=None: np.arange(*a, dtype=dtype).view(T),
    cat=lambda x, dim: np.concatenate(x, dim).view(T), stack=lambda x, dim=0: np.stack(x, dim).view(T),
    unsqueeze=lambda x, dim: x.unsqueeze(dim), clamp=lambda x, max: np.minimum(x, max),
    bitwise_and=np.bitwise_and, bitwise_right_shift=np.right_shift, bitwise_left_shift=np.left_shift, matmul=np.matmul,
    nn=types.SimpleNamespace(Module=Module, Conv2d=type("Conv2d", (), {}), functional=types.SimpleNamespace(
        pad=lambda x, by: np.pad(x, [(0, 0)] * (x.ndim - 1) + [by]).view(T))))
transformers = types.SimpleNamespace(pytorch_utils=types.SimpleNamespace(Conv1D=type("Conv1D", (), {})))


def take(path, *names):
    """Classes and functions of a file, run with the shim for torch; nothing else of the file is."""
    tree = ast.parse(open(os.path.join(wheels, path)).read())
    tree.body = [n for n in tree.body if getattr(n, "name", None) in names or
                 isinstance(n, ast.Assign) and all(isinstance(t, ast.Name) and t.id.isupper() for t in n.targets)]
    space = {"torch": torch, "nn": torch.nn, "np": np, "math": __import__("math"), "sys": sys, "transformers": transformers,
             "Literal": {(0, 1): None}, "get_best_device": lambda: "cpu", "_autogptq_cuda_available": False,
             "autogptq_cuda_256": None, "autogptq_cuda_64": None}
    exec(compile(tree, path, "exec"), space)
    return [space[name] for name in names]


# ---- the golden file
raw = open(golden, "rb").read()
size = struct.unpack("<Q", raw[:8])[0]
header = json.loads(raw[8 : 8 + size])
configs = {case: json.loads(text) for case, text in header.pop("__metadata__").items() if case != "format"}
kinds = {"F16": np.float16, "F32": np.float32, "I32": np.int32, "I64": np.int64, "I8": np.int8, "U8": np.uint8, "BF16": np.uint16,
         "F8_E4M3": np.uint8}


def read(case, key):
    entry = header.get(f"{case}/{key}")
    if not entry: return None
    begin, end = entry["data_offsets"]
    value = np.frombuffer(raw[8 + size + begin : 8 + size + end], kinds[entry["dtype"]]).reshape(entry["shape"])
    if entry["dtype"] == "BF16": value = (value.astype(np.uint32) << 16).view(np.float32)
    return value.copy().view(T)


def to_bf16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


def twice(x): return np.concatenate([np.asarray(x)] * 2, 1).astype(np.float32)  # their packers take columns by 32
def same(a, b): return bool(np.array_equal(np.asarray(a), np.asarray(b)))
def linear(w): return types.SimpleNamespace(weight=types.SimpleNamespace(data=w, dtype=np.float32, device=None), bias=None,
                                            in_features=w.shape[1], out_features=w.shape[0])


gptq, = take("auto_gptq/nn_modules/qlinear/qlinear_cuda.py", "QuantLinear")
gptq_old, = take("auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py", "QuantLinear")
awq, = take("awq/modules/linear/gemm.py", "WQLinear_GEMM")
awq_order, awq_unpack, awq_values = take("awq/utils/packing_utils.py", "reverse_awq_order", "unpack_awq", "dequantize_gemm")
pack, unpack = take("compressed_tensors/compressors/pack_quantized/helpers.py", "pack_to_int32", "unpack_from_int32")
failed = 0


def report(case, **found):
    global failed
    failed += sum(1 for ok in found.values() if ok is False)
    print(f"{case:16}", ", ".join(f"{what}: {'same' if ok is True else 'DIFFERS' if ok is False else ok}" for what, ok in found.items()))


for case, config in configs.items():
    values = read(case, "values")
    if config["quant_method"] == "gptq":
        bits, group = config["bits"], config["group_size"]
        words, zeros, scales, g = (read(case, "l." + key) for key in ("qweight", "qzeros", "scales", "g_idx"))
        def fresh(cls):
            layer = cls(bits, group, g.shape[0], scales.shape[1], False)
            layer.qweight, layer.qzeros, layer.scales, layer.g_idx = words, zeros, scales, g
            layer.autogptq_cuda_available = False
            return layer
        eye = np.eye(g.shape[0], dtype=np.float16).view(T)
        in_order = not config["desc_act"]
        found = {}
        stored = 1 if config["checkpoint_format"] == "gptq" else 0
        def values_of(cls):  # their forward pass of the unit matrix, sums of one term each
            return np.asarray(fresh(cls).forward(eye)).T
        theirs = values_of(gptq)
        if stored:  # v1; what is stored as the largest code they read as one more than it, or, masked, as 0
            wrapped = np.asarray(theirs != values)
            if in_order: found["values, cuda-old"] = same(values_of(gptq_old), values) if bits != 3 else same(values_of(gptq_old), theirs)
            top = (1 << bits) - 1
            wide = (np.asarray(zeros, np.uint32)[:, :, None] >> (bits * np.arange(32 // bits, dtype=np.uint32)) & top).reshape(
                zeros.shape[0], -1) if bits != 3 else None
            if wide is not None: wrapped = wrapped & ~(wide[np.asarray(g)] == top).T
            found["values, cuda"] = not wrapped.any() if wide is not None else (
                True if not wrapped.any() else f"{int(wrapped.sum())} of {wrapped.size} by zero points of 0")
        # their packer, whose columns come by 32 (so twice): a zero point of 0 it lets run into its neighbours, so those are made 1
        plain = np.asarray(unpack(np.ascontiguousarray(np.asarray(zeros)).view(T), bits, scales.shape), np.float32) + (1 << bits - 1)
        z = (plain + stored) % (1 << bits)
        wide_s, wide_z = (np.asarray(x, np.float32)[np.asarray(g)] for x in (scales, z))
        q = np.round(np.asarray(values, np.float32).T / wide_s) + wide_z
        keeps = np.where(z == 0, 1, z)
        layer = gptq(bits, group, g.shape[0], 2 * scales.shape[1], False)
        weight = twice((q - keeps[np.asarray(g)]) * wide_s).T
        layer.pack(linear(np.ascontiguousarray(weight).view(T)), twice(np.asarray(scales)).T.copy().view(T), twice(keeps).T.copy().view(T), g)
        found["qweight"] = same(layer.qweight, np.concatenate([words, words], 1))
        if stored and bits != 3:
            each = 32 // bits
            fits = np.asarray((keeps == z).reshape(z.shape[0], -1, each).all(2))
            found["qzeros"] = same(np.asarray(layer.qzeros)[:, : zeros.shape[1]][fits], np.asarray(zeros)[fits])
        elif stored:
            found["qzeros"] = same(np.asarray(layer.qzeros)[:, : zeros.shape[1]], zeros) if (keeps == z).all() else "it has zero points of 0"
        report(case, **found)
    elif config["quant_method"] == "awq":
        words, zeros, scales = (read(case, "l." + key) for key in ("qweight", "qzeros", "scales"))
        theirs = awq_values(words, zeros, scales, 4, config["group_size"]).T
        q, z = (np.asarray(x) & 15 for x in awq_order(*awq_unpack(words, zeros, 4), 4))
        weight = ((q - z.repeat(config["group_size"], 0)) * np.asarray(scales, np.float32).repeat(config["group_size"], 0)).T
        weight = np.concatenate([weight, weight], 0)
        layer = awq.from_linear(linear(weight.astype(np.float32).view(T)), 4, config["group_size"], False, twice(scales).view(T),
                                twice(z).view(T))
        report(case, values=same(theirs, values), qweight=same(layer.qweight, np.concatenate([words, words], 1)),
               qzeros=same(layer.qzeros, np.concatenate([zeros, zeros], 1)))
    elif config["format"] == "pack-quantized":
        bits = config["config_groups"]["group_0"]["weights"]["num_bits"]
        words, scales, shape, zeros, g = (read(case, "l." + key) for key in ("weight_packed", "weight_scale", "weight_shape",
                                                                             "weight_zero_point", "weight_g_idx"))
        q = unpack(words, bits, tuple(shape))
        found = {"weight_packed": same(pack(q, bits), words)}
        group = np.asarray(g) if g is not None else np.arange(shape[1]) // 32
        wide = np.asarray(q, np.float32)
        if zeros is not None:
            z = unpack(zeros, bits, (shape[0], scales.shape[1]), 0)
            found["weight_zero_point"] = same(pack(z, bits, 0), zeros)
            wide = wide - np.asarray(z, np.float32)[:, group]
        found["values"] = same(to_bf16(wide * np.asarray(scales)[:, group]), values)
        report(case, **found)
sys.exit(failed > 0)
