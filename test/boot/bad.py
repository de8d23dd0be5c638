#!/usr/bin/env python3
"""What users and guests do wrong: one clear line and an exit code, no crash, no hang.

usage: bad.py --joist JOIST [--long] [--list] [CASE]...
"""
import os
import re
import signal
import struct
import sys
import time

sys.dont_write_bytecode = True  # the source folder stays clean
from vm import (  # noqa: E402
    Live, Run, case, guest_file, joist, main, options, scratch_file)
from waiting import until  # noqa: E402

CLOUD = "vmlinuz-cloud"


def refused(args, code, *patterns):
    """Ends by itself, before any guest runs into the time limit (which would be code 124), with one
    line that says what is wrong."""
    # The engine is named, so that none has to be explained on stderr.
    got, out, err = joist("run", "--engine", "soft", "--timeout", "20", *args)
    what = f"{' '.join(args)}\nexit code {got}; stderr: {err!r}"
    lines = [x for x in err.splitlines() if not x.startswith("Try ")]
    if got != code or out or len(lines) != 1 or not re.match(r"joist( run)?: ", lines[0]):
        raise AssertionError(f"not refused with {code} and one line: {what}")
    for p in patterns:
        if not re.search(p, err):
            raise AssertionError(f"no {p!r}: {what}")


# ---- kernels ---------------------------------------------------------------------------


@case("not-a-kernel")
def not_a_kernel():
    for name, data, why in (
            ("text", b"This is no kernel.\n" * 1000, r"is not a kernel"),
            ("zeros", bytes(1 << 20), r"is not a kernel"),
            ("one", b"x", r"is not a kernel"),
            ("gzip", b"\x1f\x8b\x08" + bytes(4096), r"gzip"),
            ("archive", b"!<arch>\ndebian-binary" + bytes(4096), r"archive"),
            ("cpio", b"070701" + b"0" * 4096, r"--initrd"),
            ("qcow2", b"QFI\xfb" + bytes(4096), r"--disk"),
            ("elf-arm", b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HH", 2, 183) + bytes(4096), r"x86"),
            ("elf-cut", b"\x7fELF\2\1\1", r"truncated"),
            ("random", bytes((i * i * 7 + i // 3) & 255 for i in range(70000)), r"is not a kernel")):
        refused(["--kernel", scratch_file(name, data)], 1 if name != "elf-arm" else 5, name, why)


@case("engine-options")
def engine_options():
    for options_, why in (("cache=9", "no size"), ("cache=1M", "4M to 1024M"), ("cache=", "no size"),
                          ("cache=99999999999999999999M", "no size"), ("fast", "no option"),
                          ("jit,,interp", 'no option ""'), ("jit,x", '"x"')):
        got, out, err = joist("run", "--engine", "soft," + options_, "--kernel", guest_file(CLOUD))
        if got != 1 or out or not re.search(r"^joist: engine soft.*" + why, err):
            raise AssertionError(f"{options_}: exit code {got}, {err!r}")


@case("truncated-kernel")
def truncated_kernel():
    """Cut at any length: refused, or (where only bytes behind the code are missing) not a crash."""
    with open(guest_file(CLOUD), "rb") as f:
        data = f.read()
    for n in (1, 511, 512, 513, 0x201, 0x206, 0x207, 0x208, 0x264, 1024, 4095, 16384, 65536, 1 << 20,
              len(data) // 2, len(data) - 65536, len(data) - 4096):
        refused(["--kernel", scratch_file("cut", data[:n])], 1, r"cut", r"not a kernel|truncated")


@case("bad-header")
def bad_header():
    """A bzImage header whose single fields are nonsense: refused, or it boots or ends somehow."""
    with open(guest_file(CLOUD), "rb") as f:
        data = f.read(1 << 20)
    # Of the boot protocol: setup_sects, syssize, version, code32_start, cmdline_size, alignment,
    # relocatable, pref_address, init_size.
    for at, size in ((0x1f1, 1), (0x1f4, 4), (0x206, 2), (0x214, 4), (0x238, 4), (0x230, 4),
                     (0x234, 1), (0x258, 8), (0x260, 4)):
        for value in (b"\0" * size, b"\xff" * size, b"\x7f".rjust(size, b"\0")):
            bad = data[:at] + value + data[at + size:]
            code, _, err = joist("run", "--timeout", "0.3", "--no-reboot", "--kernel",
                                 scratch_file("header", bad))
            if code not in (0, 1, 5, 124) or not err.startswith("joist: "):
                raise AssertionError(f"{at:#x} = {value.hex()}: exit code {code}, {err!r}")


@case("initrd-too-big")
def initrd_too_big():
    k = guest_file(CLOUD)
    for mem, size in (("64M", 65 << 20), ("64M", 64 << 20), ("64M", 60 << 20), ("256M", 255 << 20)):
        refused(["--kernel", k, "-m", mem, "--initrd", scratch_file("initrd.img", size=size)], 1,
                r"initrd", r"does not fit|needs|--memory")


@case("initrd-garbage")
def initrd_garbage():
    r = Run(append="rdinit=/init root=/dev/nothing",
            extra=["--initrd", scratch_file("garbage", os.urandom(100000))])
    r.want(1, [r"Kernel panic"], [r"^joist: guest panicked: "])


@case("little-memory")
def little_memory():
    k = guest_file(CLOUD)
    refused(["--kernel", k, "-m", "16M"], 1, r"16 MiB", r"--memory")
    refused(["--kernel", k, "-m", "8M"], 1, r"8 MiB", r"--memory")
    refused(["--kernel", k, "-m", "4M"], 2, r"--memory 4M")


@case("just-enough-memory", long=True)
def just_enough():
    """From refused to booting, each size ends with a message or with a running guest."""
    for mem in range(32, 129, 16):
        code, out, err = joist("run", "-m", f"{mem}M", "--timeout", "60", "--kernel",
                               guest_file(CLOUD), "--initrd", guest_file("initramfs.cpio.gz"),
                               "--append", "console=ttyS0 quiet panic=-1 joist.run=true", timeout=90)
        if code not in (0, 1) or (code == 1 and not err.startswith("joist: ")):
            raise AssertionError(f"{mem} MiB: exit code {code}; {err!r} {out[-500:]!r}")


@case("long-command-line")
def long_command_line():
    refused(["--kernel", guest_file(CLOUD), "--append", "x" * 5000], 1, r"command line")


# ---- options ---------------------------------------------------------------------------


@case("too-many-cpus")
def too_many_cpus():
    k = guest_file(CLOUD)
    for n in ("0", "65", "1000", "4294967297", "18446744073709551617", "-1", "two", ""):
        refused(["--kernel", k, "--cpus", n], 2, r"--cpus")


@case("missing-files")
def missing_files():
    k = guest_file(CLOUD)
    for option in (["--kernel", "/nowhere/x"], ["--kernel", k, "--initrd", "/nowhere/x"],
                   ["--kernel", k, "--disk", "/nowhere/x"], ["--kernel", k, "--disk", "/nowhere/x,ro"]):
        refused(option, 3, r"/nowhere/x: No such file")
    refused(["--kernel", k, "--disk", "/proc/self/mem"], 1, r"/proc/self/mem")
    refused(["--kernel", k, "--disk", "/"], 1, r"disk /")


@case("too-many-disks")
def too_many_disks():
    disk = scratch_file("many.img", size=4096)
    refused(["--kernel", guest_file(CLOUD)] + ["--disk", disk + ",ro"] * 17, 2, r"--disk")
    refused(["--kernel", guest_file(CLOUD)] + ["--disk", disk] * 2, 1, r"in use")


@case("busy-disk")
def busy_disk():
    """Two VMs must not write to one image; two may read it."""
    disk = scratch_file("busy.img", size=1 << 20)
    with Live(extra=["--disk", disk], base="console=ttyS0 panic=-1") as v:
        v.wait_for(r"Linux version")
        refused(["--kernel", guest_file(CLOUD), "--disk", disk], 1, r"busy.img", r"in use")
        refused(["--kernel", guest_file(CLOUD), "--disk", disk + ",ro"], 1, r"busy.img", r"in use")
        v.signal(signal.SIGTERM)
        v.end(10)
    # Free again; and nobody minds a second reader.
    with Live(extra=["--disk", disk + ",ro"], base="console=ttyS0 panic=-1") as v:
        v.wait_for(r"Linux version")
        code, _, err = joist("run", "--kernel", guest_file(CLOUD), "--timeout", "0.2",
                             "--disk", disk + ",ro")
        if code != 124:
            v.fail(f"a second reader: {code}, {err}")
        refused(["--kernel", guest_file(CLOUD), "--disk", disk], 1, r"in use")


# ---- guests ----------------------------------------------------------------------------


def elf(code, entry=0x200000):
    """A kernel of some bytes, entered in 32-bit mode as PVH has it."""
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", entry)
    head, phs = 64, 2 * 56
    at_note, at_code = head + phs, 4096
    header = b"\x7fELF\2\1\1" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, entry, head, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, at_code, 0x200000, 0x200000, len(code), len(code), 4096)
    notes = struct.pack("<IIQQQQQQ", 4, 4, at_note, 0, 0, len(note), len(note), 4)
    return (header + load + notes + note).ljust(at_code, b"\0") + code


def guest(name, code, *args, entry=0x200000, engine="soft", board="pc"):
    """Ends by --timeout at the latest; else joist() raises."""
    return joist("run", "--engine", engine, "--board", board, "--timeout", "3", "--kernel",
                 scratch_file(name, elf(code, entry)), *args)


def ends(name, code, want, pattern, *args, **kw):
    for engine in ("soft", "soft,interp"):
        for board in ("pc", "micro"):
            got, _, err = guest(name, code, *args, engine=engine, board=board, **kw)
            if got != want or not re.search(pattern, err, re.MULTILINE):
                raise AssertionError(f"{name} on {board} with {engine}: exit code {got}, {err!r}")
            if len(err.splitlines()) > 5:
                raise AssertionError(f"{name} on {board} with {engine}: too many lines: {err!r}")


NO_IDT = b"\x0f\x01\x1d" + struct.pack("<I", 0x200100)  # lidt [0x200100], where zeros are


def kernel(*parts):
    return b"".join(parts).ljust(0x200, b"\0")


@case("guest/triple-fault")
def triple_fault():
    ends("triple", kernel(NO_IDT, b"\x0f\x0b"), 1, r"^joist: guest panicked: triple fault")
    ends("triple-once", kernel(NO_IDT, b"\x0f\x0b"), 0, r"reset: triple fault", "--no-reboot")


@case("guest/jump-to-nowhere")
def nowhere():
    # Half a million instructions that run once, again after each reset: to prove all of their
    # translation takes so long that the resets are none too close to one another any more.
    verify = os.environ.pop("JOIST_SOFT_VERIFY", None)
    try:
        for where in (0xb0000000, 0xfec00000, 0xfee00000, 0xffffff00, 0xa0000):
            ends("nowhere", kernel(NO_IDT, b"\xb8", struct.pack("<I", where), b"\xff\xe0"), 1,
                 r"^joist: guest panicked: triple fault")
    finally:
        if verify is not None:
            os.environ["JOIST_SOFT_VERIFY"] = verify


@case("guest/entry-outside")
def entry_outside():
    for where in (0, 0xfffffff0, 0x7fffffff):
        got, _, err = guest("outside", kernel(NO_IDT, b"\x0f\x0b"), entry=where)
        if got not in (1, 124) or not err.startswith("joist: "):
            raise AssertionError(f"entry {where:#x}: exit code {got}, {err!r}")


@case("guest/spins-or-sleeps")
def spins():
    over = r"^joist: .*--timeout"
    for name, code in (("spin", b"\xfa\xeb\xfe"), ("halt", b"\xfa\xf4\xeb\xfd"),
                       ("halt-if", b"\xfb\xf4\xeb\xfd")):
        got, _, err = guest(name, kernel(NO_IDT, code))
        # The last one takes interrupts without a table.
        if not (got == 124 and re.search(over, err) or name == "halt-if" and got == 1):
            raise AssertionError(f"{name}: exit code {got}, {err!r}")


@case("guest/writes-everywhere")
def everywhere():
    """Every page of the first 4 GiB written and read, then every port; the VM goes on or ends."""
    walk = (b"\x31\xff"                          # xor edi, edi
            b"\x81\xff\x00\x00\x20\x00\x72\x08"  # 1: cmp edi, 2 MiB; jb 2f
            b"\x81\xff\x00\x00\x40\x00\x72\x06"  # cmp edi, 4 MiB; jb 3f: not ourselves
            b"\x8b\x07\xf7\xd0\x89\x07"          # 2: mov eax, [edi]; not eax; mov [edi], eax
            b"\x81\xc7\x04\x10\x00\x00"          # 3: add edi, 4100
            b"\x73\xe2")                         # jnc 1b
    ports = (b"\x31\xd2"                         # xor edx, edx
             b"\xec\xee\x42"                     # 1: in al, dx; out dx, al; inc edx
             b"\x66\x85\xd2\x75\xf8")            # test dx, dx; jnz 1b
    for name, code in (("memory", walk), ("ports", ports), ("both", walk + ports)):
        for board in ("pc", "micro"):
            got, _, err = guest(name, kernel(NO_IDT, code, b"\x0f\x0b"), board=board)
            if got not in (0, 1, 124) or not err.startswith("joist: "):
                raise AssertionError(f"{name} on {board}: exit code {got}, {err!r}")


@case("guest/code-of-chance", long=True)
def chance():
    """Random bytes as a kernel."""
    import random
    for seed in range(60):
        rng = random.Random(seed)
        got, _, err = joist("run", "--timeout", "0.5", "--engine", ("soft", "soft,interp")[seed & 1],
                            "--cpus", "2", "--kernel",
                            scratch_file("chance", elf(rng.randbytes(65536))))
        if got not in (0, 1, 124) or not err.startswith("joist: "):
            raise AssertionError(f"seed {seed}: exit code {got}, {err!r}")


@case("flood/slow-reader")
def slow_reader():
    """The guest waits for a reader that takes its time; nothing is lost."""
    with Live(script="stty -opost; echo begin; seq 20000; echo end") as v:
        v.wait_for(r"^begin$")
        time.sleep(3)  # the ring and the pipe fill

        def look():
            v.read(2, 2048)
            return "\nend\n" in v.out
        until("the end", look, 60, 0.005)
        v.end()
        v.want(0)
        numbers = re.findall(r"^(\d+)$", v.out, re.MULTILINE)
        if numbers != [str(i) for i in range(1, 20001)]:
            v.fail(f"{len(numbers)} of 20000 lines came")


def ends_unread(v, seconds, code):
    """Waits for its end without reading a byte."""
    until("its end", v.poll, seconds, fail=v.fail)
    if v.code != code:
        v.fail(f"not exit code {code}")


@case("flood/no-reader")
def no_reader():
    """Nobody reads: the guest waits, and SIGTERM ends it all the same."""
    with Live(cpus=2, script="echo begin; cat /dev/zero >/dev/ttyS0") as v:
        v.wait_for(r"^begin$")
        time.sleep(3)
        v.signal(signal.SIGTERM)
        ends_unread(v, 10, 128 + signal.SIGTERM)


@case("flood/unread-end")
def unread_end():
    """The guest is off, and its last words still wait for their reader: as long as he likes."""
    with Live(script="echo begin; seq 18000; echo end") as v:
        v.wait_for(r"^begin$")
        time.sleep(6 * options.factor)
        if v.poll():
            v.fail("ended with output unread")
        v.signal(signal.SIGTERM)
        ends_unread(v, 5, 128 + signal.SIGTERM)


@case("flood/reader-leaves")
def reader_leaves():
    """As in `joist run | head`: the VM ends, and not by SIGPIPE."""
    with Live(script="while :; do echo again; done") as v:
        v.wait_for(r"^again$")
        os.dup2(os.open("/dev/null", os.O_RDONLY), v.fd)  # closes our end of the pipe
        ends_unread(v, 15, 1)


if __name__ == "__main__":
    sys.exit(main())
