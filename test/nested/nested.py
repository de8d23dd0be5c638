#!/usr/bin/env python3
"""Engine kvm on a whole KVM: Joist inside a Debian kernel with kvm-amd, under QEMU's TCG.

usage: nested.py --build BUILD [--long] [--intel] [--show] [CASE]...
       nested.py --list [--long | --intel]

--intel: with kvm-intel in Bochs instead, see bochs.py; without CASE the doctor and the cases for it.
--show copies the machine's console to stderr as it comes. --list prints the names of the cases only.
In `make check-long` each case of --long and --intel is a test of its own, nested/CASE.

One level-1 machine runs all cases that it is given; each line "ok" or "not ok" of guest-tests counts by itself. See
level1.py for the machine, stuck.py for when it hangs; explained.txt has what this KVM or TCG does
differently, and why.
"""
import argparse
import os
import re
import sys
import tempfile

sys.dont_write_bytecode = True  # the source folder stays clean
from bochs import Bochs  # noqa: E402
from level1 import Level1, Missing, guest_file  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
APPEND = "console=ttyS0 quiet panic=-1 noxsave "
cases = {}


def case(name, script, check, long=False):
    """`long`: False for `make test`, True for --long, "intel" for --intel."""
    assert name not in cases, name
    cases[name] = (script, check, long)


def joist_run(extra="", run="true", append="", engine="--engine kvm", initrd="/initrd"):
    return (f"/joist run {engine} -m 256M --timeout 1200 --engine-stats {extra} --kernel /vmlinuz "
            f"--initrd {initrd} --append '{APPEND}{append}joist.run=\"{run}\"' 2>&1\n")


def wants(*patterns, code=0):
    def check(got, lines):
        text = "\n".join(lines)
        if got != code:
            return f"exit code {got}, not {code}"
        for p in patterns:
            if not re.search(p, text, re.MULTILINE):
                return f"no line {p!r}"
        return None
    return check


def never(check, pattern):
    def both(got, lines):
        for line in lines:
            if re.search(pattern, line):
                return f"a line {pattern!r}: {line}"
        return check(got, lines)
    return both


# ---- what `make test` does: the probe says yes, the guests, a stock kernel by `auto` ----------

case("doctor", "/joist doctor", wants(r"^ok +engine kvm +usable", r"lock cmpxchg16b: works",
                                      r"^engine: kvm"))
GUESTS = ("/guest-tests /images --engine kvm --explained /explained.txt --patience 8 ")
case("guests", GUESTS + "--tier split hello32 hello64 real segments paging32 task v86 paging64 "
     "longmode exceptions features apic smc smp2 triple nowhere spin holes poke off resets", None)
case("privileged", "/privileged --explained /explained.txt --count 4000", None)
case("parts", "/dirty --tier kvm --rounds 60; "
     "JOIST_KVM_OFF=dirty-ring /dirty --tier kvm --rounds 60; /bells --rounds 60; "
     "/late --rounds 60; JOIST_KVM_OFF=coalesced /late --rounds 60; "
     "/late-two --rounds 60; JOIST_KVM_OFF=coalesced /late-two --rounds 60; "
     "/routes --rounds 60; /routes --rounds 60 --tier kernel; JOIST_KVM_OFF=irqfd /routes --rounds 60; "
     "/stuck; /pieces kvm", None)
case("boot-auto", joist_run(engine=""),
     never(wants(r"^joist-guest: up ", r"^joist-guest: status 0", r"^kvm_entries +[1-9]"),
           r"engine: soft"))

# ---- the rest -----------------------------------------------------------------------------------

# All guest tests but codegen and codegen4, which load a translator, and smp8, which takes too long
# on two emulated processors; in pieces of some minutes each.
#
# late is no part of `make test`: some runs in hundreds end in a triple fault, and it is not known why. It is no
# NMI before the second processor has its IDT and its stack (the first one waits for that), and no state that
# the engine has half set: in tier split it sets none after the start, and IPIs and NMIs never leave KVM. What
# is special is that the next NMI mostly comes while the handler of the last one runs, for which KVM on AMD
# single-steps its IRET. Level 1 prints where it happens (TRACE in level1.py).
PIECES = {
    "cpu": "hello32 hello64 real segments paging32 task v86 paging64 longmode exceptions features "
           "features-base features-v2 features-v3 smc",
    "chips": "chips apic apic-micro late smp2 smp4 smp2-micro",
    "bad": "triple nowhere spin sleep holes endless flood poke junk chaos1 chaos2 chaos3 chaos4 "
           "off resets",
}
for tier in ("kernel", "split", "off"):
    for piece, names in PIECES.items():
        case(f"guests-{tier}-{piece}", GUESTS + f"--tier {tier} {names}", None, long=True)
    case(f"boot-{tier}", joist_run("--cpus 2", engine=f"--engine kvm,{tier}"),
         wants(r"^joist-guest: up .* cpus=2 ", r"^joist-guest: status 0"), long=True)
case("two-vms", "/two-vms /images --engine kvm", None, long=True)
for board in ("pc", "micro"):
    for cpus in (1, 2):
        case(f"boot-{board}-{cpus}", joist_run(f"--board {board} --cpus {cpus}", run="nproc"),
             wants(rf"^joist-guest: up .* cpus={cpus} ", r"^joist-guest: status 0"), long=True)
for name, board, cpus, hops in (
        ("soft-kvm", "pc", 1, "soft:8000 kvm,split"),
        # Soft is slow here, translating for a translator: it gets the end of the boot.
        ("kvm-soft", "pc", 1, "'kvm,split:@Key type encrypted' soft"),
        ("controllers", "pc", 2, "'kvm,off:@audit: type' 'kvm,kernel:@Disk quotas' "
         "'kvm,split:@Platform Keyring' 'kvm,kernel:@Loading compiled' kvm,off"),
        ("there-and-back", "micro", 1, "'kvm,split:@Linux version' soft:2000 kvm,off")):
    case(f"move-{name}", f"/joist-move /vmlinuz /initrd '{APPEND.replace('quiet', 'loglevel=6')}"
         f"joist.run=nproc' {board} {cpus} {hops} 2>&1",
         wants(rf"joist-guest: up .* cpus={cpus} ", r"^joist-guest: status 0",
               r"and the guest switched off", r"; saved \d+ KiB"), long=True)


def fewer_exits(got, lines):
    """The same reads from a disk twice, first without ioeventfd: same bytes, fewer exits."""
    text = "\n".join(lines)
    counts = {n: [int(x) for x in re.findall(rf"^{re.escape(n)} +(\d+)", text, re.MULTILINE)]
              for n in ("exits.mmio", "doorbells")}
    sums = re.findall(r"^(?:sum=)?([0-9a-f]{32})  -", text, re.MULTILINE)
    print(f"# {counts}")
    if len(sums) != 3 or len(set(sums)) != 1:
        return f"three checksums that agree, not {sums}"
    if any(len(c) != 2 for c in counts.values()):
        return f"counters {counts}"
    (before, after), (none, rings) = counts["exits.mmio"], counts["doorbells"]
    if none or rings < READS or after > before - READS:
        return f"no {READS} exits less by doorbells: {counts}"
    return None


READS = 500
for board in ("pc", "micro"):
    again = joist_run(f"--board {board} --disk /disk", append="joist.modules=1 ",
                      run=f"echo 0 >/sys/block/vda/queue/read_ahead_kb; "
                          f"dd if=/dev/vda of=/dev/null bs=4k count={READS}; md5sum </dev/vda")
    case(f"doorbells-{board}", "test -e /disk || dd if=/dev/urandom of=/disk bs=1M count=4\n"
         f"md5sum </disk\nJOIST_KVM_OFF=ioeventfd {again}{again}", fewer_exits, long=True)


def moved(eventfds):
    """The same bytes by disk and network while interrupts moved from one CPU to the other and back (on the
    pc the network's: a disk has a queue, and an interrupt, for each CPU, which cannot be moved), and some
    came to both; by eventfds, or by none (None: only its edge-triggered lines)."""
    def check(got, lines):
        text = "\n".join(lines)
        counts = {n: int(x) for n, x in re.findall(r"^(irq_\w+|kvm_entries) +(\d+)", text, re.MULTILINE)}
        moves = re.findall(r"^moves=(\d+)", text, re.MULTILINE)
        lines = [(int(a), int(b)) for a, b in re.findall(r"^ *\d+: +(\d+) +(\d+) .*virtio", text, re.MULTILINE)]
        sums = re.findall(r"^([0-9a-f]{32})  -", text, re.MULTILINE)
        print(f"# {counts} moves {moves} {lines}")
        if len(sums) != 1 + 2 * PASSES or len(set(sums)) != 1:
            return f"{1 + 2 * PASSES} checksums that agree, not {sums}"
        if not re.search(r"^joist-guest: status 0", text, re.MULTILINE):
            return "no status 0"
        if re.search(r"No irq handler|nobody cared|timed out", text):
            return "the guest's kernel complains"
        if not any(min(x) >= 10 for x in lines) or int((moves or [0])[0]) < 4:
            return "the interrupts did not move"
        if eventfds is not None and eventfds != (counts.get("irq_eventfds", 0) >= 100):
            return f"eventfds: {counts}"
        return None
    return check


PASSES = 2
MOVES = ("ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; echo 0 >/sys/block/vda/queue/read_ahead_kb; "
         "irqs=$(grep virtio /proc/interrupts | cut -d: -f1); "
         "(n=0; while [ ! -e /tmp/end ]; do for i in $irqs; do echo $((1 + n %% 2)) >/proc/irq/$i/smp_affinity; "
         "done; n=$((n + 1)); usleep 100000; done 2>/tmp/moves; echo moves=$n) & "
         "for k in %s; do echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=4k 2>/dev/null | md5sum; "
         "wget -q -O - http://10.0.2.2/disk | md5sum; done; "
         "echo 1 >/tmp/end; wait; grep virtio /proc/interrupts" % " ".join(str(k) for k in range(PASSES)))
for name, options, off, eventfds in (("split", "", "", True), ("no-irqfd", "", "irqfd", False),
                                     ("kernel", "--engine kvm,kernel", "", True),
                                     ("off", "--engine kvm,off", "", False),
                                     ("micro", "--board micro", "", None)):
    case(f"moving-{name}", "test -e /www/disk || { mkdir /www; dd if=/dev/urandom of=/www/disk bs=64k count=24; }\n"
         "ip link set lo up; httpd -p 80 -h /www 2>/dev/null\nmd5sum </www/disk\n"
         + (f"JOIST_KVM_OFF={off} " if off else "")
         + joist_run(f"--cpus 2 --net user,loopback --disk /www/disk {options}", append="joist.modules=1 ", run=MOVES),
         moved(eventfds), long=True)
case("privileged-intel", "/privileged --explained /explained.txt --count 300 --verbose", None,
     long="intel")
case("guests-intel", GUESTS + "--tier split hello32 hello64 real segments paging32 task v86 "
     "paging64 longmode exceptions features smc apic triple off", None,
     long="intel")
for tier in ("split", "kernel", "off"):
    case(f"boot-intel-{tier}", joist_run("--board micro", engine=f"--engine kvm,{tier}"),
         wants(r"^joist-guest: up ", r"^joist-guest: status 0"), long="intel")
case("two-at-once",
     "(" + joist_run().strip() + " >/tmp/a) &\n(" + joist_run().strip() + " >/tmp/b) &\n"
     "wait\ngrep -h status /tmp/a /tmp/b; test $(cat /tmp/a /tmp/b | grep -c 'status 0') = 2",
     wants(), long=True)
case("no-permission",
     "mkdir -p /etc; echo 'u:x:1000:1000::/:/bin/sh' >/etc/passwd; chmod 0 /dev/kvm\n"
     "su u -c '/joist doctor' 2>&1 | grep 'engine'; chmod 600 /dev/kvm",
     wants(r"may not be opened: add yourself to group kvm", r"^engine: soft"), long=True)


def tap_lines(name, lines):
    """The test lines of a program that printed TAP inside, under this case's name."""
    for line in lines:
        m = re.match(r"(not )?ok \d+ - (.*)", line)
        if m and "# SKIP KVM is there" in line:  # a whole one is what this is about
            yield False, f"{name}: {m.group(2).replace('# SKIP', '-')}"
        elif m:
            yield not m.group(1), f"{name}: {m.group(2)}"


class Report:
    """Says how the cases ended; checks: {name: None for a program that prints TAP itself, or
    check(exit code, lines) that gives the reason why not, or None}."""

    def __init__(self, checks):
        self.checks = checks
        self.n = self.failed = 0
        self.seen = set()

    def line(self, ok, text, notes=()):
        self.n += 1
        self.failed += not ok
        print(f"{'' if ok else 'not '}ok {self.n} - {text}")
        for note in notes:
            print("# " + note[:300])
        sys.stdout.flush()

    def on_case(self, name, code, lines, seconds):
        self.seen.add(name)
        check = self.checks[name]
        if check:
            why = check(code, lines)
            self.line(not why, f"{name}: {seconds:.1f} s", [why] + lines[-30:] if why else [])
            return
        found = list(tap_lines(name, lines))
        for ok, text in found:
            self.line(ok, text)
        if not found or (code and all(ok for ok, _ in found)):
            self.line(False, f"{name}: exit code {code}", lines[-30:])
        elif not all(ok for ok, _ in found):
            print("\n".join("# " + x[:200] for x in lines if x.startswith(("#", "joist"))))

    def run(self, make, todo, args):
        """Runs the cases {name: script} on the machine that make(scratch folder) gives; the exit code."""
        with tempfile.TemporaryDirectory(prefix="joist-nested-") as scratch:
            try:
                machine = make(scratch)
            except Missing as e:
                print(f"1..0 # SKIP {e}")
                return 0
            text = machine.run(self.on_case, sys.stderr if args.show else None)
        for name in todo:
            if name not in self.seen:
                self.line(False, f"{name}: level 1 did not come to its end", text.splitlines()[-40:])
                break
        print(f"1..{self.n}")
        return 1 if self.failed else 0


def arguments():
    """Those that every machine has."""
    ap = argparse.ArgumentParser()
    ap.add_argument("--build", required="--list" not in sys.argv)
    ap.add_argument("--show", action="store_true")
    ap.add_argument("--factor", type=float, default=float(os.environ.get("TIMEOUT_FACTOR", "1")))
    ap.add_argument("cases", nargs="*")
    return ap


def main():
    ap = arguments()
    ap.add_argument("--long", action="store_true")
    ap.add_argument("--intel", action="store_true")
    ap.add_argument("--list", action="store_true")
    args = ap.parse_args()
    unknown = [n for n in args.cases if n not in cases]
    if unknown:
        ap.error(f"there is no case {unknown[0]}; --list, --list --long and --list --intel tell which there are")
    todo = {n: c[0] for n, c in cases.items()
            if (n in args.cases if args.cases else
                n == "doctor" or c[2] == "intel" if args.intel else c[2] == args.long)}
    if args.list:
        print("\n".join(todo))
        return 0
    guest = os.path.join(args.build, "test", "guest")
    programs = {"joist": "joist", "guest-tests": "test/guest/guest-tests",
                "two-vms": "test/guest/two-vms", "dirty": "test/insn/dirty",
                "bells": "test/insn/bells", "late": "test/insn/late",
                "late-two": "test/insn/late-two", "stuck": "test/insn/stuck",
                "pieces": "test/insn/pieces", "routes": "test/insn/routes",
                "hold": "test/nested/hold",
                "privileged": "test/nested/privileged",
                "joist-move": "test/nested/joist-move"}

    def make(scratch):
        images = {"vmlinuz": guest_file("vmlinuz-cloud"),
                  "initrd": guest_file("initramfs.cpio.gz"),
                  "explained.txt": os.path.join(HERE, "explained.txt")}
        for f in sorted(os.listdir(guest)):
            if f.endswith(".bin"):
                images["images/" + f] = os.path.join(guest, f)
        return (Bochs if args.intel else Level1)(
            {n: os.path.join(args.build, p) for n, p in programs.items()}, images, todo, scratch,
            factor=args.factor, limit=5400 if args.long else 3600 if args.intel else 1800)

    return Report({n: cases[n][1] for n in todo}).run(make, todo, args)


if __name__ == "__main__":
    sys.exit(main())
