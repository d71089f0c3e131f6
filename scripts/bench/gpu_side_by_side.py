"""KAVA's distillation step beside PyTorch's on one GPU, alternating in one run: each round's milliseconds a micro-step, and the median
of the per-round ratios.

usage: gpu_side_by_side.py KAVA [--shape qwen|smol] [--variants strong,compile,eager] [--rounds 7] [--steps 10] [--batch 8] [--seq 512] [--accum 4]
           [--kava "NAME key=value ..." ...]
--kava, as often as wanted: a name and keys for scripts/bench/step.lua; all of them take part in every round. Default: one without keys.

The work: teacher's and student's keys of all layers concatenated, a projector on the teacher's side, Mercator loss, AdamW every `accum`
micro-steps; random weights of Qwen2.5-1.5B -> 0.5B (or SmolLM2-135M -> its half), random tokens, dropout on. PyTorch's variants: eager: no
logits, fused AdamW; compile: the same compiled; strong: only the concatenated keys leave the compiled modules, so that the head and what
follows the last layer's keys drop out. A round is `steps` optimizer steps of each. A tool for measuring only: KAVA itself needs no Python."""
import argparse, json, os, statistics, subprocess, sys, time

ap = argparse.ArgumentParser()
ap.add_argument("program")
ap.add_argument("--shape", default="qwen")
ap.add_argument("--variants", default="strong")
ap.add_argument("--rounds", type=int, default=7)
ap.add_argument("--steps", type=int, default=10)
ap.add_argument("--batch", type=int, default=8)
ap.add_argument("--seq", type=int, default=512)
ap.add_argument("--accum", type=int, default=4)
ap.add_argument("--kava", dest="ways", action="append", default=[])
o = ap.parse_args()

class Kava:
    def __init__(self, words):
        self.name, *keys = words.split()
        started = time.time()
        command = [o.program, os.path.join(os.path.dirname(os.path.abspath(__file__)), "step.lua"), "device=cuda", f"shape={o.shape}",
                   f"batch={o.batch}", f"seq={o.seq}", f"accum={o.accum}", f"reps={o.steps}", "wait=1", *keys]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.read()
        while "ready" not in line: line = self.read()
        print(json.dumps({"kava": self.name, "keys": keys, "ready_s": round(time.time() - started, 2)}), flush=True)

    def read(self):
        line = self.process.stdout.readline()
        if not line: sys.exit(f"{self.name}: kava ended: exit status {self.process.wait()}")
        return json.loads(line)

    def round(self):
        self.process.stdin.write("\n"); self.process.stdin.flush()
        return self.read()

ways = [Kava(words) for words in o.ways or ["kava"]]

import torch, torch.nn as nn, torch.nn.functional as F  # after KAVA's start, whose time is its own
from transformers import Qwen2Config, Qwen2ForCausalLM
torch.manual_seed(0)
DEVICE, DTYPE = "cuda", torch.bfloat16

def model(hidden, layers, heads, kv, inter, vocab):
    config = Qwen2Config(vocab_size=vocab, hidden_size=hidden, intermediate_size=inter, num_hidden_layers=layers, num_attention_heads=heads,
                         num_key_value_heads=kv, max_position_embeddings=32768, rope_theta=1e6, rms_norm_eps=1e-6, tie_word_embeddings=True)
    config._attn_implementation = "sdpa"
    with torch.device(DEVICE): return Qwen2ForCausalLM(config).to(DTYPE)

SHAPES = {"qwen": ((1536, 28, 12, 2, 8960, 151936), (896, 24, 14, 2, 4864, 151936)), "smol": ((576, 30, 9, 3, 1536, 49152), (576, 15, 9, 3, 1536, 49152))}
teacher, student = (model(*shape) for shape in SHAPES[o.shape])
teacher.eval().requires_grad_(False)
student.train()
vocab = SHAPES[o.shape][0][-1]
ids = [torch.randint(0, vocab, (o.batch, o.seq), device=DEVICE) for _ in range(4)]

def keys(cache): return torch.cat([l.keys.permute(0, 2, 1, 3).flatten(2) for l in cache.layers], -1)

class Keys(nn.Module):
    """Only the concatenated keys leave: without the head (strong), or with logits of one position (eager, compile)."""
    def __init__(self, m, base): super().__init__(); self.m, self.base = m, base
    def forward(self, x):
        if self.base: return keys(self.m.model(x, use_cache=True).past_key_values)
        return keys(self.m(x, use_cache=True, logits_to_keep=1).past_key_values)

def mercator(s, t, alpha=1.0, beta=0.01, eps=1e-8):
    cosine = (F.normalize(s, dim=-1) * F.normalize(t, dim=-1)).sum(-1).mean()
    return alpha * (1 - cosine) + beta * F.mse_loss(torch.log(s.norm(dim=-1) + eps), torch.log(t.norm(dim=-1) + eps))

class Peer:
    def __init__(self, variant):
        T, S = Keys(teacher, variant == "strong"), Keys(student, variant == "strong")
        with torch.no_grad(): td, sd = T(ids[0][:1, :32]).shape[-1], S(ids[0][:1, :32]).shape[-1]
        adapter = nn.Sequential(nn.LayerNorm(td), nn.Linear(td, td), nn.SiLU(), nn.Dropout(0.1), nn.Linear(td, sd)).to(DEVICE, DTYPE)
        L = lambda tk, sk: mercator(sk.float(), adapter(tk).float()) / o.accum
        if variant != "eager": T, S, L = torch.compile(T), torch.compile(S), torch.compile(L)
        self.T, self.S, self.L = T, S, L
        self.opt = torch.optim.AdamW([{"params": list(student.parameters()), "lr": 5e-5}, {"params": list(adapter.parameters()), "lr": 1e-3}],
                                     weight_decay=0.01, fused=True)
        begun = time.time()
        self.steps(2)
        self.warm = time.time() - begun

    def steps(self, count):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(count):
            for i in range(o.accum):
                x = ids[i % 4]
                with torch.no_grad(): tk = self.T(x)
                self.L(tk, self.S(x)).backward()
            self.opt.step()
            self.opt.zero_grad()
        torch.cuda.synchronize()
        return (time.perf_counter() - begun) / (count * o.accum) * 1e3

for variant in o.variants.split(","):
    torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()
    peer = Peer(variant)
    peer_ms, rows = [], {k.name: [] for k in ways}
    for r in range(o.rounds):
        results, last = {}, {}
        def peer_turn(): results["peer"] = peer.steps(o.steps)
        turns = [peer_turn] + [lambda k=k: last.__setitem__(k.name, k.round()) for k in ways]
        for turn in turns if r % 2 == 0 else reversed(turns): turn()
        peer_ms.append(results["peer"])
        for k in ways: rows[k.name].append(last[k.name]["ms_per_microstep"])
        print(json.dumps({"variant": variant, "round": r, "peer_ms": round(results["peer"], 2), **{n: v[-1] for n, v in rows.items()}}), flush=True)
    for k in ways:
        ratios = sorted(p / v for p, v in zip(peer_ms, rows[k.name]))
        ms = statistics.median(rows[k.name])
        print(json.dumps({"variant": variant, "kava": k.name, "gpu": torch.cuda.get_device_name(), "shape": o.shape, "batch": o.batch, "seq": o.seq,
                          "accum": o.accum, "peer_ms": round(statistics.median(peer_ms), 2), "kava_ms": ms,
                          "kava_tok_s": round(o.batch * o.seq / ms * 1e3), "median_ratio": round(statistics.median(ratios), 3),
                          "range": [round(ratios[0], 3), round(ratios[-1], 3)], "peer_warm_s": round(peer.warm, 1),
                          "peer_peak_GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2), "kava_peak_GiB": last[k.name]["peak_GiB"]}), flush=True)
    del peer
    student.zero_grad(set_to_none=True)
for k in ways: k.process.stdin.close(); k.process.wait()
