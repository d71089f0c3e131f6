"""What the matrix products and attention of one distillation micro-step take by themselves, one behind another in a CUDA graph as a step has
them, for seconds on end, so that the chip reaches its power limit: the floor under any step on this GPU. Nothing elementwise is in it.

usage: gpu_floor.py [--batch 8] [--seq 512] [--seconds 3] [--teacher bf16|fp8|none]     (PyTorch: cuBLAS's own choices, its fused attention)
fp8: the teacher's MLP as products of e4m3 codes that are there, with a scale a row on both sides. none: cached keys.

Qwen2.5-1.5B -> 0.5B, keys of all layers concatenated, projector on the teacher's side without the gradient of its input; what nothing depends on
(all behind the last layers' keys) is left out, as in scripts/bench/step.lua. One line of JSON: ms a micro-step in the first tenth of a second
and at the end, TFLOP/s, the chip's power and clock there. A tool for measuring only: KAVA itself needs no Python."""
import argparse, json, statistics, subprocess
import torch, torch.nn.functional as F

ap = argparse.ArgumentParser()
ap.add_argument("--batch", type=int, default=8)
ap.add_argument("--seq", type=int, default=512)
ap.add_argument("--seconds", type=float, default=3)
ap.add_argument("--teacher", choices=("bf16", "fp8", "none"), default="bf16")
o = ap.parse_args()
B, T = o.batch, o.seq
M, bf16 = B * T, dict(device="cuda", dtype=torch.bfloat16)
flop = 0

def product(m, n, k, turned=False):
    """x[m, k] W[n, k]^T, or x[m, k] W[k, n]; a weight of its own, one x for all of its shape"""
    global flop
    flop += 2 * m * n * k
    x, w = given(m, k), torch.randn(*((k, n) if turned else (n, k)), **bf16) * k ** -0.5
    return (lambda: x @ w) if turned else (lambda: F.linear(x, w))

def codes(m, n, k):
    """product's, of e4m3 codes"""
    global flop
    if o.teacher != "fp8": return product(m, n, k)
    flop += 2 * m * n * k
    x, w = (t.mul(64).clamp(-448, 448).to(torch.float8_e4m3fn) for t in (given(m, k), torch.randn(n, k, **bf16)))
    rows, columns = (torch.full(shape, k ** -0.25 / 64, device="cuda") for shape in ((m, 1), (1, n)))
    return lambda: torch._scaled_mm(x, w.t(), scale_a=rows, scale_b=columns, out_dtype=torch.bfloat16, use_fast_accum=True)

def weight_gradient(m, n, k):
    """dy[m, n]^T x[m, k]"""
    global flop
    flop += 2 * m * n * k
    dy, x = given(m, n), given(m, k)
    return lambda: dy.t() @ x

inputs = {}
def given(m, k):
    if (m, k) not in inputs: inputs[m, k] = torch.randn(m, k, **bf16)
    return inputs[m, k]

def attention(heads, kv, dim, backward):
    global flop
    flop += B * heads * T * T * dim * 2 * (3.5 if backward else 1)  # causal: half of the tiles
    q = torch.randn(B, heads, T, dim, **bf16).requires_grad_(backward)
    k, v = (torch.randn(B, heads, T, dim, **bf16).requires_grad_(backward) for _ in range(2))
    g = torch.randn_like(q)
    def run():
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if backward: torch.autograd.grad(y, (q, k, v), g)
    return run

work = []
if o.teacher != "none":
    for _ in range(27):
        work += [product(M, 2048, 1536), attention(12, 2, 128, False), product(M, 1536, 1536), codes(M, 17920, 1536), codes(M, 1536, 8960)]
    work += [product(M, 256, 1536)]
for _ in range(23):
    work += [product(M, 1152, 896), attention(14, 2, 64, True), product(M, 896, 896), product(M, 9728, 896), product(M, 896, 4864)]
    for n, k in (896, 4864), (9728, 896), (896, 896), (1152, 896): work += [product(M, k, n, True), weight_gradient(M, n, k)]
work += [product(M, 7168, 7168), product(M, 3072, 7168), product(M, 7168, 3072, True), weight_gradient(M, 3072, 7168), weight_gradient(M, 7168, 7168)]

side = torch.cuda.Stream()
with torch.cuda.stream(side):
    for _ in range(2):
        for call in work: call()
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    for call in work: call()
torch.cuda.synchronize()
import time
time.sleep(2)
took, began, state = [], time.time(), ""
while time.time() - began < o.seconds:
    a, b = torch.cuda.Event(True), torch.cuda.Event(True)
    a.record(); graph.replay(); graph.replay(); b.record(); b.synchronize()
    took.append(a.elapsed_time(b) / 2)
    if not state and time.time() - began > o.seconds * 0.7:
        for _ in range(40): graph.replay()  # keeps it busy while it is asked
        state = subprocess.run(["nvidia-smi", "--query-gpu=power.draw.instant,clocks.sm", "--format=csv,noheader"], capture_output=True, text=True).stdout.strip()
        torch.cuda.synchronize()
first, last = statistics.median(took[:max(1, int(50 / took[0]))]), statistics.median(took[-len(took) // 4:])
print(json.dumps({"batch": B, "seq": T, "teacher": o.teacher, "tflop": round(flop / 1e12, 2), "ms_at_first": round(first, 2), "ms_at_the_power_limit": round(last, 2),
                  "tflop_s": round(flop / last / 1e9), "power_and_clock": state}))
