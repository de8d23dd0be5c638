"""What the boot tests stand on: named cases, a VM run to its end, a VM to talk to, TAP.

Guest files come from build/guest (tools/fetch-guest makes it); without them cases are skipped.
A case's guest script travels in a second cpio archive behind the initramfs.
"""
import argparse
import itertools
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import termios
import time

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../common"))
import waiting  # noqa: E402

GUEST = os.environ.get("JOIST_CACHE", os.path.join(os.getcwd(), "build/guest"))
# Seconds for one boot: ten times what it takes. The generic kernel unpacks itself (xz) for most
# of its time.
LIMIT = 120
INTERP_LIMIT = 600

cases = {}
options = argparse.Namespace(joist=None, factor=waiting.factor)
scratch = tempfile.TemporaryDirectory(prefix="joist-boot-")


class Skip(Exception):
    pass


def case(name, long=False):
    def add(fn):
        assert name not in cases, name
        cases[name] = (fn, long)
        return fn
    return add


def guest_file(name):
    path = os.path.join(GUEST, name)
    if not os.path.exists(path):
        raise Skip(f"no {name}; tools/fetch-guest makes it")
    return path


def scratch_file(name, data=b"", size=None):
    path = os.path.join(scratch.name, name)
    with open(path, "wb") as f:
        f.write(data)
        if size is not None:
            f.truncate(size)
    return path


def cpio(name, data, mode=0o100755):
    """One file and the trailer in cpio's "newc" format, which the kernel unpacks."""
    out = b""
    for entry, content, bits in ((name, data, mode), ("TRAILER!!!", b"", 0)):
        fields = (1, bits, 0, 0, 1, 1, len(content), 0, 0, 0, 0, len(entry) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % f for f in fields) + entry.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + content
        out += b"\0" * (-len(out) % 4)
    return out


initrds = itertools.count()


def initrd_with(files, base="initramfs.cpio.gz"):
    with open(guest_file(base), "rb") as f:
        data = f.read()
    data += b"\0" * (-len(data) % 4)
    # Each VM has its own: one may start while the next one's is being written.
    return scratch_file(f"initrd-{next(initrds)}", data + b"".join(cpio(n, d) for n, d in files.items()))


class VM:
    """The command line of one VM, and where its output goes."""

    def __init__(self, kernel="cloud", board="pc", cpus=1, append="", script=None, files=None,
                 extra=(), memory="512M", engine="soft", limit=None, base="console=ttyS0 quiet panic=-1",
                 ramdisk=None):
        self.limit = (limit or (INTERP_LIMIT if "interp" in engine else LIMIT)) * options.factor
        ramdisk = ramdisk or ("initramfs-686.cpio.gz" if kernel == "686" else "initramfs.cpio.gz")
        initrd = guest_file(ramdisk)
        if script is not None:
            initrd = initrd_with({**(files or {}), "test.sh": script.encode()}, ramdisk)
            append += " joist.script=test.sh"
        self.command = [options.joist, "run", "--engine", engine, "--memory", memory, "--cpus",
                        str(cpus), "--board", board, "--timeout", str(self.limit), "--kernel",
                        guest_file("vmlinuz-" + kernel) if "/" not in kernel else kernel,
                        "--initrd", initrd, "--append", base + " " + append, *extra]
        self.code = None
        self.out = self.err = ""
        self.errors = None  # a file, if any
        self.start = time.monotonic()

    def fail(self, why):
        if self.errors:
            self.errors.seek(0)
            self.err = text_of(self.errors.read())
        tail = "\n".join(self.out.splitlines()[-40:])
        raise AssertionError(f"{why}\n{' '.join(self.command)}\nexit code {self.code} after "
                             f"{self.seconds():.1f} s; stderr:\n{self.err}\nstdout ends:\n{tail}")

    def seconds(self):
        return time.monotonic() - self.start

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

    def line(self, pattern):
        """What the pattern's group matches in the output."""
        m = re.search(pattern, self.out, re.MULTILINE)
        if not m:
            self.fail(f"no line {pattern!r}")
        return m.group(1)


def text_of(data):
    return data.decode(errors="replace").replace("\r", "")


class Run(VM):
    """A VM to its end, without input."""

    def __init__(self, *a, **kw):
        super().__init__(*a, **kw)
        try:
            p = subprocess.run(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, timeout=self.limit + 30)
        except subprocess.TimeoutExpired as e:
            self.out, self.err = text_of(e.stdout or b""), text_of(e.stderr or b"")
            self.fail("does not end, not even at --timeout")
        self.took = self.seconds()
        self.code = p.returncode
        self.out, self.err = text_of(p.stdout), text_of(p.stderr)


class Live(VM):
    """A VM that is talked to while it runs, over pipes or a pseudo terminal of its own."""

    def __init__(self, *a, tty=False, **kw):
        super().__init__(*a, **kw)
        self.tty = tty
        self.seen = 0
        self.errors = tempfile.TemporaryFile()
        if tty:
            self.fd, self.slave = pty.openpty()
            self.before = termios.tcgetattr(self.slave)
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    os.login_tty(self.slave) if hasattr(os, "login_tty") else self.own_tty()
                    os.execv(self.command[0], self.command)
                finally:
                    os._exit(127)
        else:
            p = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=self.errors)
            self.process = p  # keeps the pipes open
            self.pid, self.fd = p.pid, p.stdout.fileno()
        self.child = waiting.Child(self.pid)
        self.output = waiting.Output(self.fd)

    def own_tty(self):
        import fcntl
        os.setsid()
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            os.dup2(self.slave, fd)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self.tty:
            os.close(self.fd)
            os.close(self.slave)
        else:
            self.process.returncode = self.code or -9
            self.process.stdout.close()
            self.process.stdin.close()

    def poll(self):
        """True when it has ended; then `code` is set."""
        self.child.ended()
        self.code = self.child.code
        return self.code is not None

    def read(self, seconds, most=65536):
        """False at the end of the output or after this time."""
        got = self.output.read(seconds, most)
        self.out = text_of(self.output.data)
        return got

    def wait_for(self, pattern, seconds=None):
        """The match, after what was matched before."""
        pattern = re.compile(pattern, re.MULTILINE)

        def look():
            m = pattern.search(self.out, self.seen)
            # In steps: on a terminal, which we hold open ourselves, no end of the output is seen.
            if not m and not self.read(2) and self.poll() and not self.read(0):
                self.fail(f"{pattern.pattern!r} did not come")
            return m
        m = waiting.until(repr(pattern.pattern), look, seconds or self.limit / options.factor, 0,
                          self.fail)
        self.seen = m.end()
        return m

    def say(self, text):
        data = text.encode()
        while data:
            n = os.write(self.fd if self.tty else self.process.stdin.fileno(), data)
            data = data[n:]

    def signal(self, sig):
        os.kill(self.pid, sig)

    def end(self, seconds=None):
        """Its exit code; output is read on."""
        try:
            self.code = self.child.end(self.output, seconds or self.limit / options.factor, self.fail)
        finally:
            self.out = text_of(self.output.data)
        self.errors.seek(0)
        self.err = text_of(self.errors.read())
        return self.code

    def check_terminal(self):
        if termios.tcgetattr(self.slave) != self.before:
            self.fail("the terminal's settings are not restored")


def joist(*args, timeout=30):
    """The program with these arguments, to its end."""
    p = subprocess.run([options.joist, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=timeout * options.factor)
    return p.returncode, text_of(p.stdout), text_of(p.stderr)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--joist", required=True)
    ap.add_argument("--long", action="store_true", help="what `make check-long` adds")
    ap.add_argument("--list", action="store_true")
    ap.add_argument("--factor", type=float, default=float(os.environ.get("TIMEOUT_FACTOR", "1")))
    ap.add_argument("cases", nargs="*")
    args = ap.parse_args()
    if not os.access(args.joist, os.X_OK):
        sys.exit(f"no program {args.joist}")
    options.joist, options.factor = os.path.abspath(args.joist), args.factor
    waiting.factor = args.factor
    unknown = set(args.cases) - set(cases)
    if unknown:
        sys.exit(f"no such case: {' '.join(sorted(unknown))}")
    todo = [(n, fn) for n, (fn, long) in cases.items()
            if (n in args.cases if args.cases else long == args.long)]
    if args.list:
        print("\n".join(n for n, _ in todo))
        return 0
    print(f"1..{len(todo)}", flush=True)
    failed = 0
    for i, (name, fn) in enumerate(todo, 1):
        began = time.monotonic()
        try:
            note = fn()
            print(f"ok {i} - {name}: " + (note or f"{time.monotonic() - began:.1f} s"))
        except Skip as e:
            print(f"ok {i} - {name} # SKIP {e}")
        except Exception as e:  # a failing case must not hide the others
            failed += 1
            print(f"not ok {i} - {name}")
            for line in f"{type(e).__name__}: {e}".splitlines():
                print(f"# {line}")
        sys.stdout.flush()
    return 1 if failed else 0
