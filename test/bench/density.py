#!/usr/bin/env python3
"""What an idle VM costs in memory, and how many of 128 MiB fit into 8 GiB.

usage: density.py --joist JOIST [--vms N] [--settle SECONDS] [--report-order N] [--json FILE]
Starts N kept VMs (Debian's cloud kernel, busybox at a shell), lets them settle for so long that an idle VM
has given back what it keeps to be quick (host/linux/idle.h: 30 to 40 s), and adds up what their processes
have for themselves (PSS of all but files' pages: engine soft maps its code twice, which the kernel calls
shared) and what they share (the rest of their files' pages, counted once). The same 5 s after the boot tells
what that brings. Then the same with 40 MiB taken by each one's balloon (`joist update --memory 88M`). Linux
reports free pages by itself in pieces of 2 MiB and while a zone has 64 MiB of them, so small guests do not;
--report-order 4 has the guests do so in pieces of 64 KiB
(/sys/module/page_reporting/parameters/page_reporting_order).
TAP; the figures go to FILE. The count is computed from these, not tried.
"""
import argparse
import json
import os
import sys
import tempfile
import time

sys.dont_write_bytecode = True
here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "../cli"))
import vmlib  # noqa: E402
from vmlib import busybox, inspect, joist, until, until_log  # noqa: E402

BUDGET = 8 << 20  # KiB


def read(pid):
    """KiB by kind: of the guest's RAM, of files, of all else."""
    sums = {"ram": {}, "file": {}, "rest": {}}
    where = "rest"
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as f:
        for line in f:
            word = line.split()
            if not word[0].endswith(":"):
                name = word[5] if len(word) > 5 else ""
                where = "ram" if "joist-ram" in name else \
                    "file" if name.startswith("/") and not name.startswith("/memfd:") else "rest"
            elif word[0] in ("Pss:", "Private_Clean:", "Private_Dirty:"):
                sums[where][word[0][:-1]] = sums[where].get(word[0][:-1], 0) + int(word[1])
    return sums


def measure(args):
    names = [f"idle-{i}" for i in range(args.vms)]
    order = "" if args.report_order is None else f' joist.run="echo {args.report_order} >' \
        '/sys/module/page_reporting/parameters/page_reporting_order"'
    for name in names:
        joist("run", "-d", "--engine", args.engine, "--name", name, *busybox(
            append="joist.modules=1 joist.end=shell" + order), timeout=120)
    for name in names:
        until_log(name, "joist-guest: shell", 300)
    time.sleep(5)
    result = {"vms": len(names), "memory_mib": 128, "after_boot": figures(names)}
    time.sleep(args.settle)
    result |= figures(names)
    for name in names:
        joist("update", "--memory", "88M", name)
    for name in names:
        until("the balloon of " + name, lambda: json.loads(joist(
            "stats", "--json", "--interval", "0.1", name).stdout)[0]["memory-usable"] <= 90 << 20, 120)
    return {**result, "balloon_40_mib": figures(names)}


def figures(names):
    got = [read(inspect(name)["pid"]) for name in names]

    def mean(where, *kinds):
        return sum(g[where].get(k, 0) for g in got for k in kinds) / len(got)
    ram = mean("ram", "Pss")
    private = mean("file", "Private_Clean", "Private_Dirty")
    own = mean("rest", "Pss") + private
    shared = (mean("file", "Pss") - private) * len(got)
    return {"guest_ram_kib": round(ram), "own_kib": round(own),
            "shared_once_kib": round(shared), "fit_in_8_gib": int((BUDGET - shared) // (ram + own)),
            "fit_in_8_gib_ram_all_used": int((BUDGET - shared) // (128 * 1024 + own))}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--joist", required=True)
    ap.add_argument("--vms", type=int, default=4)
    ap.add_argument("--settle", type=float, default=60)
    ap.add_argument("--report-order", type=int)
    ap.add_argument("--engine", default="soft")
    ap.add_argument("--json")
    args = ap.parse_args()
    vmlib.joist_path = os.path.abspath(args.joist)
    with tempfile.TemporaryDirectory(prefix="joist-bench-") as vmlib.home:
        os.environ["XDG_DATA_HOME"] = vmlib.home + "/data"
        os.environ["XDG_RUNTIME_DIR"] = vmlib.home
        try:
            r = measure(args)
        except vmlib.Skip as e:
            print(f"1..0 # SKIP {e}")
            return 0
        finally:
            vmlib.clean()
    print("1..1")
    print(f"ok 1 - density: an idle VM of 128 MiB has {r['own_kib'] / 1024:.1f} MiB of its own beside "
          f"{r['guest_ram_kib'] / 1024:.1f} MiB of guest RAM in use, {r['shared_once_kib'] / 1024:.1f} MiB "
          f"are shared by all ({r['after_boot']['own_kib'] / 1024:.1f} MiB of its own when it has just booted); "
          f"{r['fit_in_8_gib']} fit into 8 GiB, {r['fit_in_8_gib_ram_all_used']} if "
          "each used all of its RAM; "
          f"{r['balloon_40_mib']['fit_in_8_gib']} with 40 MiB of each in its balloon")
    if args.json:
        with open(args.json, "w", encoding="ascii") as f:
            json.dump({"engine": args.engine, "report_order": args.report_order, **r}, f, indent=1)
            f.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
