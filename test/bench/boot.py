#!/usr/bin/env python3
"""Time to userspace and instructions a second, against QEMU TCG.

usage: boot.py --joist JOIST [--rounds N] [--cpus N]
All boot the same kernel and initramfs (build/guest), one after the other and in turn, so that what
else happens on the machine hits all of them. Reported are the best and the median of the rounds:
seconds to the first line of userspace, seconds to the end of the process, and CPU seconds.
"""
import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time

GUEST = os.environ.get("JOIST_CACHE", os.path.join(os.getcwd(), "build/guest"))
APPEND = "console=ttyS0 quiet panic=-1 joist.run=true"


def one(command):
    """Runs it; (seconds to userspace, to the end, CPU seconds, stderr)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    up = None
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as p:
        for line in p.stdout:
            if b"joist-guest: up" in line and up is None:
                up = time.monotonic() - start
        err = p.stderr.read().decode(errors="replace")
    end = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if p.returncode or up is None:
        raise RuntimeError(f"{command[0]}: exit code {p.returncode}\n{err}")
    return up, end, cpu, err


def main():
    ap = argparse.ArgumentParser(usage=__doc__)
    ap.add_argument("--joist", required=True)
    ap.add_argument("--rounds", type=int, default=int(os.environ.get("BENCH_ROUNDS", "3")))
    ap.add_argument("--cpus", type=int, default=1)
    ap.add_argument("--kernel", default="vmlinuz-cloud")
    args = ap.parse_args()
    kernel = os.path.join(GUEST, args.kernel)
    initrd = os.path.join(GUEST, "initramfs.cpio.gz")
    if not os.path.exists(kernel):
        print(f"1..0 # SKIP no {args.kernel}; tools/fetch-guest takes one")
        return 0
    boot = ["-kernel", kernel, "-initrd", initrd, "-append", APPEND]
    joist = [os.path.abspath(args.joist), "run", "--timeout", "10m", "--memory", "512M", "--cpus",
             str(args.cpus), "--kernel", kernel, "--initrd", initrd, "--append", APPEND,
             "--engine-stats"]
    runs = {"soft,interp": joist + ["--engine", "soft,interp"], "soft": joist + ["--engine", "soft"]}
    # Before there is a translator, the engine's default is the interpreter.
    probe = subprocess.run(joist[:2] + ["--engine", "soft,jit", "/"], capture_output=True, check=False)
    if b"tier" in probe.stderr:
        del runs["soft"]
    qemu = shutil.which("qemu-system-x86_64")
    if qemu:
        runs["QEMU TCG"] = [qemu, "-accel", "tcg", "-cpu", "max", "-m", "512", "-smp", str(args.cpus),
                            "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
                            "-no-reboot", *boot]
    results = {name: [] for name in runs}
    rate = {}
    for _ in range(args.rounds):
        for name, command in runs.items():
            r = one(command)
            results[name].append(r)
            m = re.search(r"^instructions +(\d+)", r[3], re.MULTILINE)
            if m:
                rate.setdefault(name, []).append(int(m.group(1)) / r[2] / 1e6)
    print(f"1..{len(results)}")
    print(f"# {args.kernel}, {args.cpus} CPU, 512 MiB, {args.rounds} rounds; seconds, best (median)")
    print(f"# {'engine':<14}{'to userspace':>18}{'to the end':>18}{'CPU time':>18}   MIPS")
    for i, (name, rs) in enumerate(results.items(), 1):
        cells = "".join(f"{f'{min(x):.2f} ({statistics.median(x):.2f})':>18}"
                        for x in ([r[k] for r in rs] for k in range(3)))
        mips = f"{max(rate[name]):.0f}" if name in rate else "-"
        print(f"# {name:<14}{cells}   {mips}")
        print(f"ok {i} - {name}")
    if not qemu:
        print("# no QEMU to compare with (package qemu-system-x86)")
    return 0


sys.exit(main())
