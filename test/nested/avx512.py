#!/usr/bin/env python3
"""AVX-512 on machines without it: engine soft in a Debian kernel on a processor that Bochs emulates.

usage: avx512.py --build BUILD [--model MODEL] [--show] [CASE]...

Engine soft runs a guest's instruction as itself, so Bochs is host and oracle at once: insn-native
compares the instruction in the host's user mode with the same in a guest of the engine, lockstep
compares the engine's two tiers in streams that are AVX-512 by half. avx512-explained.txt has what
Bochs does otherwise than the manual says. --show: the machine's console to stderr as it comes.
"""
import os
import sys

sys.dont_write_bytecode = True  # the source folder stays clean
from bochs import Bochs  # noqa: E402
from nested import Report, arguments  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = "corei7_skylake_x"  # Linux does not boot on "tigerlake", with more of AVX-512
# Bochs's CPUID gives a size for the compacted XSAVE format, and a place for PKRU, that Linux
# finds wrong; then it does without XSAVE.
APPEND = "mitigations=off clearcpuid=xsavec,xsaves,pku"
# Bound late, functions are called through ld.so, whose XRSTOR faults there under the translator.
SETTINGS = "LD_BIND_NOW=1 JOIST_SOFT_VERIFY=1 "
NATIVE = SETTINGS + "/insn-native --avx512 --explained /explained.txt --count "
LOCKSTEP = SETTINGS + "/lockstep --count "
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
    ap = arguments()
    ap.add_argument("--model", default=MODEL)
    args = ap.parse_args()
    todo = {n: s for n, s in CASES.items() if n in (args.cases or DEFAULT)}
    guest = os.path.join(args.build, "test", "guest")
    images = {"explained.txt": os.path.join(HERE, "avx512-explained.txt")}
    for f in ("features.bin", "exceptions.bin"):
        images["images/" + f] = os.path.join(guest, f)
    programs = {"insn-native": "test/insn/insn-native", "lockstep": "test/insn/lockstep",
                "guest-tests": "test/guest/guest-tests"}
    report = Report({n: has_avx512 if n == "flags" else None for n in todo})
    return report.run(
        lambda scratch: Bochs({n: os.path.join(args.build, p) for n, p in programs.items()}, images,
                              todo, scratch, limit=1500, factor=args.factor, model=args.model,
                              module=None, append=APPEND), todo, args)


if __name__ == "__main__":
    sys.exit(main())
