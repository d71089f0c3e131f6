"""How long `kava -i` takes from fork to its prompt on a pseudo-terminal. usage: python3 scripts/bench/prompt.py [PROGRAM]"""
import os
import pty
import statistics
import sys
import time

program = sys.argv[1] if len(sys.argv) > 1 else "build/release/kava"
spent = []
for _ in range(40):
    started = time.monotonic()
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(program, [program, "-i"])
    seen = b""
    while b"> " not in seen:
        seen += os.read(terminal, 4096)
    spent.append((time.monotonic() - started) * 1e3)
    os.write(terminal, b"\x04")
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:  # the other end is closed
        pass
    os.waitpid(child, 0)
    os.close(terminal)
print(f"best {min(spent):.1f} ms, median {statistics.median(spent):.1f} ms, most {max(spent):.1f} ms of {len(spent)}")
