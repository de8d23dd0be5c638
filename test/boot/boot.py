#!/usr/bin/env python3
"""Boots real kernels to a known line and to their end.

usage: boot.py --joist JOIST [--long] [--engine E] [CASE]...
Kernels and initramfs come from build/guest (tools/fetch-guest makes it); without it all is skipped.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import time

GUEST = os.environ.get("JOIST_CACHE", os.path.join(os.getcwd(), "build/guest"))
cases = {}


class Skip(Exception):
    pass


def case(name, long=False):
    def add(fn):
        cases[name] = (fn, long)
        return fn
    return add


def guest_file(name):
    path = os.path.join(GUEST, name)
    if not os.path.exists(path):
        raise Skip(f"no {name}; tools/fetch-guest makes it")
    return path


# Seconds for one boot, ten times what it takes. Most of it is the generic kernel unpacking itself (xz).
LIMIT = 600


def command(kernel="cloud", board="pc", cpus=1, append="", extra=(), memory="512M"):
    return [args.joist, "run", "--engine", args.engine, "--memory", memory, "--cpus", str(cpus),
            "--board", board, "--timeout", str(LIMIT * args.factor),
            "--kernel", guest_file("vmlinuz-" + kernel),
            "--initrd", guest_file("initramfs.cpio.gz"),
            "--append", "console=ttyS0 quiet panic=-1 " + append, *extra]


class Run:
    """One joist process to its end."""

    def __init__(self, *a, **kw):
        self.command = command(*a, **kw)
        start = time.monotonic()
        p = subprocess.run(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, timeout=LIMIT * args.factor + 30)
        self.seconds = time.monotonic() - start
        self.code = p.returncode
        self.out = p.stdout.decode(errors="replace").replace("\r", "")
        self.err = p.stderr.decode(errors="replace").replace("\r", "")

    def fail(self, why):
        tail = "\n".join(self.out.splitlines()[-40:])
        raise AssertionError(f"{why}\n{' '.join(self.command)}\nexit code {self.code} after "
                             f"{self.seconds:.1f} s; stderr:\n{self.err}\nstdout ends:\n{tail}")

    def want(self, code=0, lines=(), err=()):
        if self.code != code:
            self.fail(f"exit code {self.code}, not {code}")
        for pattern in lines:
            if not re.search(pattern, self.out, re.MULTILINE):
                self.fail(f"no line {pattern!r}")
        for pattern in err:
            if not re.search(pattern, self.err, re.MULTILINE):
                self.fail(f"no message {pattern!r}")
        return self


def boots(kernel, board, cpus):
    r = Run(kernel, board, cpus, '"joist.run=grep -c ^processor /proc/cpuinfo; seq 1 5000 | md5sum"')
    r.want(0, [rf"^joist-guest: up .* cpus={cpus} ", rf"^{cpus}$",
               rf"^{SUM}  -$", r"^joist-guest: status 0$"])
    return f"{r.seconds:.1f} s"


for kernel in ("cloud", "amd64"):
    for board in ("pc", "micro"):
        for cpus in (1, 2, 4):
            quick = (kernel, board, cpus) in (("cloud", "pc", 2), ("cloud", "micro", 1),
                                              ("amd64", "pc", 1))

            def one(kernel=kernel, board=board, cpus=cpus):
                return boots(kernel, board, cpus)
            case(f"{kernel}/{board}/{cpus}", long=not quick)(one)


@case("panic")
def panic():
    r = Run(append="joist.end=panic")
    r.want(1, [r"Kernel panic - not syncing"], [r"^joist: guest panicked: "])


@case("no-init", long=True)
def no_init():
    r = Run(append="rdinit=/nothing root=/dev/nothing")
    r.want(1, [], [r"^joist: guest panicked: "])


@case("reboot")
def reboot():
    # Boots, resets itself, boots again: --timeout would end a machine that does not come back.
    r = Run(append="joist.end=reboot", extra=["--no-reboot"])
    r.want(0, [r"^joist-guest: reboot$"], [r"the guest asked for a reset"])


@case("reboot-twice", long=True)
def reboot_twice():
    p = subprocess.Popen(command(append="joist.end=reboot"), stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    seen = 0
    for line in p.stdout:
        seen += line.startswith(b"joist-guest: up ")
        if seen == 3:
            break
    p.terminate()
    p.communicate(timeout=30)
    assert seen == 3, f"came up {seen} times"


@case("virtio/pc")
def virtio_pc():
    virtio("pc")


@case("virtio/micro", long=True)
def virtio_micro():
    virtio("micro")


def virtio(board):
    """Disk and random numbers through Debian's own drivers, which are modules."""
    with tempfile.NamedTemporaryFile() as disk:
        disk.truncate(8 << 20)
        disk.seek(512)
        disk.write(b"from the host\n")
        disk.flush()
        r = Run(board=board, extra=["--disk", disk.name], append=(
            'joist.modules=1 "joist.run=dd if=/dev/vda bs=512 skip=1 count=1 2>/dev/null | head -n 1;'
            " echo from the guest | dd of=/dev/vda bs=512 seek=2 conv=fsync 2>/dev/null;"
            " dd if=/dev/vda of=/dev/null bs=1M 2>&1 | tail -n 1;"
            ' dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c"'))
        r.want(0, [r"^from the host$", r"^16$", r"^joist-guest: status 0$"])
        disk.seek(1024)
        got = disk.read(14)
        if got != b"from the guest":
            r.fail(f"the image holds {got!r}")


@case("serial-input")
def serial_input():
    """Standard input reaches the guest, all of it and in order, once the guest listens."""
    p = subprocess.Popen(command(append=(
        '"joist.run=stty -echo; echo ready; i=0; while read a b; do i=$((i+b)); '
        '[ $b = 199 ] && break; done; echo sum=$i"')),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out = b""
    for line in p.stdout:
        out += line
        if line.startswith(b"ready"):
            p.stdin.write("".join(f"line {i}\n" for i in range(200)).encode())
            p.stdin.flush()
        elif line.startswith(b"sum="):
            break
    rest, err = p.communicate(timeout=60 * args.factor)
    if b"sum=19900\r\n" not in out or p.returncode != 0:
        raise AssertionError(f"exit code {p.returncode}; {(out + rest)[-2000:]!r} {err!r}")


@case("small-memory", long=True)
def small_memory():
    Run(memory="128M", append='"joist.run=free -m"').want(0, [r"^joist-guest: status 0$"])


@case("twenty-in-a-row", long=True)
def twenty():
    times = []
    for i in range(20):
        r = Run(cpus=1 + i % 2, board=("pc", "micro")[i // 2 % 2], append='"joist.run=echo here"')
        r.want(0, [r"^here$"])
        times.append(r.seconds)
    return f"{min(times):.1f} to {max(times):.1f} s"


ap = argparse.ArgumentParser(usage=__doc__)
ap.add_argument("--joist", required=True)
ap.add_argument("--long", action="store_true")
ap.add_argument("--engine", default="soft")
ap.add_argument("--factor", type=float, default=float(os.environ.get("TIMEOUT_FACTOR", "1")))
ap.add_argument("cases", nargs="*")
args = ap.parse_args()
args.joist = os.path.abspath(args.joist)
SUM = subprocess.run("seq 1 5000 | md5sum", shell=True, capture_output=True, text=True,
                     check=True).stdout.split()[0]


def main():
    todo = [(n, fn) for n, (fn, long) in cases.items()
            if (n in args.cases if args.cases else long == args.long)]
    print(f"1..{len(todo)}")
    failed = 0
    for i, (name, fn) in enumerate(todo, 1):
        name = f"{name}/{args.engine}"
        try:
            note = fn()
            print(f"ok {i} - {name}" + (f": {note}" if note else ""))
        except Skip as e:
            print(f"ok {i} - {name} # SKIP {e}")
        except Exception as e:  # a failing case must not hide the others
            failed += 1
            print(f"not ok {i} - {name}")
            for line in f"{type(e).__name__}: {e}".splitlines():
                print(f"# {line}")
        sys.stdout.flush()
    return 1 if failed else 0


sys.exit(main())
