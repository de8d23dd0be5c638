#!/usr/bin/env python3
"""AVX-512 on machines without it: engine soft in a Debian kernel on a processor that Bochs emulates.

usage: avx512.py --build BUILD [--model MODEL] [--show] [CASE]...

Engine soft runs a guest's instruction as itself, so Bochs is host and oracle at once: insn-native compares the
instruction in the host's user mode with the same in a guest of the engine, lockstep compares the engine's two tiers in streams that are AVX-512
by half. avx512-explained.txt has what Bochs does otherwise than the manual says. --show: the machine's console to stderr as it comes.
"""
import argparse
import os
import sys
import tempfile

sys.dont_write_bytecode = True  # the source folder stays clean
from bochs import Bochs  # noqa: E402
from level1 import Missing  # noqa: E402
from nested import Report  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = "corei7_skylake_x"  # Linux does not boot on "tigerlake", with more of AVX-512
# Bochs's CPUID gives a size for the compacted XSAVE format, and a place for PKRU, that Linux
# finds wrong; then it does without XSAVE.
APPEND = "mitigations=off clearcpuid=xsavec,xsaves,pku"
# Bound late, functions are called through ld.so, whose XRSTOR faults there under the translator.
NATIVE = "LD_BIND_NOW=1 JOIST_SOFT_VERIFY=1 /insn-native --avx512 --explained /explained.txt --count "
LOCKSTEP = "LD_BIND_NOW=1 JOIST_SOFT_VERIFY=1 /lockstep --count "
CASES = {
    "flags": "grep -o -m1 'avx512[_a-z0-9]*' /proc/cpuinfo | sort -u | tr '\\n' ' '; echo",
    "interp": NATIVE + "2000 --tier interp --seed 1",
    "jit": NATIVE + "1200 --tier jit --seed 2",
    "jit-hot": "JOIST_SOFT_OFF=tier " + NATIVE + "1200 --tier jit --seed 7",
    "lockstep": LOCKSTEP + "60 --seed 5 --off ''",
    "lockstep-hot": LOCKSTEP + "60 --seed 6 --off tier",
    "interp32": NATIVE + "2000 --tier interp --mode 32 --seed 3",
    "jit32": NATIVE + "2000 --tier jit --mode 32 --seed 4",
    "guests": "/guest-tests /images --engine soft features exceptions",
}
# The others have not been seen to pass: by name only.
DEFAULT = ("flags", "jit", "jit-hot", "lockstep", "lockstep-hot")


def has_avx512(code, lines):
    return None if any("avx512f" in x for x in lines) else f"no AVX-512 in level 1: {lines}"


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--build", required=True)
    ap.add_argument("--model", default=MODEL)
    ap.add_argument("--show", action="store_true")
    ap.add_argument("--factor", type=float, default=float(os.environ.get("TIMEOUT_FACTOR", "1")))
    ap.add_argument("cases", nargs="*")
    args = ap.parse_args()
    todo = {n: s for n, s in CASES.items() if n in (args.cases or DEFAULT)}
    report = Report({n: has_avx512 if n == "flags" else None for n in todo})
    guest = os.path.join(args.build, "test", "guest")
    with tempfile.TemporaryDirectory(prefix="joist-avx512-") as scratch:
        images = {"explained.txt": os.path.join(HERE, "avx512-explained.txt")}
        for f in ("features.bin", "exceptions.bin"):
            images["images/" + f] = os.path.join(guest, f)
        programs = {"insn-native": "test/insn/insn-native", "lockstep": "test/insn/lockstep",
                    "guest-tests": "test/guest/guest-tests"}
        try:
            machine = Bochs({n: os.path.join(args.build, p) for n, p in programs.items()}, images,
                            todo, scratch, limit=1500, factor=args.factor, model=args.model,
                            module=None, append=APPEND)
        except Missing as e:
            print(f"1..0 # SKIP {e}")
            return 0
        text = machine.run(report.on_case, sys.stderr if args.show else None)
    return report.end(todo, text)


if __name__ == "__main__":
    sys.exit(main())
