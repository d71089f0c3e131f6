"""KAVA's step beside the PyTorch peer's, alternating in one run: prints each round and the median of the per-round ratios.

usage: side_by_side.py PEER_STEP.py KAVA [--rounds 5] [--threads 2] [--precision f32] [--variant tuned] [--batch 4] [--seq 256]
PEER_STEP.py is the peer benchmark (SmolLM2 shapes with --smol); its models are built once, its `run` is called once a round.
A tool for measuring only: KAVA itself never needs Python."""
import argparse, io, json, os, resource, subprocess, sys, contextlib

ap = argparse.ArgumentParser()
ap.add_argument("peer"); ap.add_argument("kava")
ap.add_argument("--rounds", type=int, default=5); ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--precision", default="f32"); ap.add_argument("--variant", default="tuned")
ap.add_argument("--batch", type=int, default=4); ap.add_argument("--seq", type=int, default=256); ap.add_argument("--accum", type=int, default=2)
ap.add_argument("--teacher", default="f32")
o = ap.parse_args()
os.environ.pop("OPENBLAS_CORETYPE", None); os.environ["OMP_NUM_THREADS"] = str(o.threads)
os.sched_setaffinity(0, set(list(sorted(os.sched_getaffinity(0)))[:o.threads]))

peer_args = ["peer", "--smol", "--device", "cpu", "--batch", str(o.batch), "--seq", str(o.seq), "--accum", str(o.accum), "--reps", "1", "--variants", o.variant]
if o.precision == "bf16": peer_args += ["--dtype", "bf16"]
source = open(o.peer).read().split("for v in a.variants.split")[0]
sys.argv = peer_args
peer = {"__name__": "peer"}
exec(compile(source, o.peer, "exec"), peer)
peer["torch"].set_num_threads(o.threads)

command = [o.kava, os.path.join(os.path.dirname(os.path.abspath(__file__)), "step.lua"), f"batch={o.batch}", f"seq={o.seq}", f"accum={o.accum}",
           "reps=1", f"precision={o.precision}", f"threads={o.threads}", "wait=1", f"teacher={o.teacher}"]
kava = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print(kava.stdout.readline().strip(), flush=True)

def peer_round():
    out = io.StringIO()
    with contextlib.redirect_stdout(out): peer["run"](o.variant)
    return json.loads(out.getvalue().strip().splitlines()[-1])

def kava_round():
    kava.stdin.write("\n"); kava.stdin.flush()
    line = kava.stdout.readline()
    if not line: sys.exit(f"kava ended: exit status {kava.wait()}")
    return json.loads(line)

ratios = []
for r in range(o.rounds):
    p, k = (peer_round(), kava_round()) if r % 2 == 0 else reversed((kava_round(), peer_round()))
    ratios.append(k["tok_s"] / p["tok_s"])
    print(json.dumps({"round": r, "peer_tok_s": p["tok_s"], "kava_tok_s": k["tok_s"], "ratio": round(ratios[-1], 3), "kava_peak_GiB": k["peak_GiB"]}), flush=True)
ratios.sort()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
kava.stdin.close(); kava.wait()
print(json.dumps({"threads": o.threads, "teacher": o.teacher, "precision": o.precision, "variant": o.variant, "median_ratio": round(ratios[len(ratios) // 2], 3),
                  "range": [round(ratios[0], 3), round(ratios[-1], 3)], "peer_peak_GiB": round(peak, 2), "kava_peak_GiB": k["peak_GiB"],
                  "memory_ratio": round(k["peak_GiB"] / peak, 3)}), flush=True)
