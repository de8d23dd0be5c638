#!/usr/bin/env python3
"""Boots that move from engine to engine in the middle: stopped, saved, loaded, and on to userspace.

usage: move.py --build BUILD
On this host's engines; nested.py does the same between soft and kvm where this host has no KVM.
"""
import argparse
import json
import os
import subprocess
import sys

GUEST = os.environ.get("JOIST_CACHE", os.path.join(os.getcwd(), "build/guest"))
CASES = (
    ("tiers", "pc", "1", ["soft:300", "soft,interp:200", "soft"]),
    ("micro-smp2", "micro", "2", ["soft:300", "soft:300", "soft:300", "soft"]),
    ("soft-kvm-soft", "pc", "2", ["soft:300", "kvm:300", "soft:300", "kvm,off:300", "soft"]),
)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--build", required=True)
    args = ap.parse_args()
    kernel, initrd = (os.path.join(GUEST, n) for n in ("vmlinuz-cloud", "initramfs.cpio.gz"))
    if not os.path.exists(kernel) or not os.path.exists(initrd):
        print("1..0 # SKIP no guest kernel; tools/fetch-guest takes one")
        return 0
    doctor = subprocess.run([os.path.join(args.build, "joist"), "doctor", "--json"],
                            capture_output=True, text=True, timeout=60)
    engines = {e["name"]: e for e in json.loads(doctor.stdout)["engines"]}
    failed = 0
    print(f"1..{len(CASES)}")
    for n, (name, board, cpus, hops) in enumerate(CASES, 1):
        missing = [e for e in engines.values()
                   if not e["usable"] and any(h.startswith(e["name"]) for h in hops)]
        if missing:
            print(f"ok {n} - {name} # SKIP {missing[0]['why']}", flush=True)
            continue
        p = subprocess.run([os.path.join(args.build, "test", "nested", "joist-move"), kernel, initrd,
                            "console=ttyS0 quiet panic=-1 joist.run=nproc", board, cpus, *hops],
                           capture_output=True, text=True, timeout=200)
        ok = p.returncode == 0 and f"cpus={cpus} " in p.stdout and "joist-guest: status 0" in p.stdout
        ok = ok and p.stderr.count("; saved ") == len(hops) - 1
        print(f"{'' if ok else 'not '}ok {n} - {name}", flush=True)
        if not ok:
            print("\n".join("# " + x for x in (p.stdout + p.stderr).splitlines()[-30:]))
            failed += 1
    return 1 if failed else 0


sys.exit(main())
