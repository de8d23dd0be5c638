"""Level 1 of the nested tests: a Debian kernel under QEMU's TCG with KVM's modules loaded, in which
Joist runs guests of its own with hardware virtualization (which TCG emulates: slow, but whole).

A level-1 machine runs a list of shell scripts; each line of a script's output comes back by its
name. QEMU is only the test bed here.
"""
import gzip
import os
import re
import select
import shutil
import subprocess
import tempfile
import time

import stuck

GUEST = os.environ.get("JOIST_CACHE", os.path.join(os.getcwd(), "build/guest"))

# All that TCG has but AVX: TCG lets a guest execute XSETBV behind its hypervisor's back, so the XCR0
# that KVM knows is not the guest's. For the same reason nested kernels are told "noxsave".
CPU = "max,avx=off,avx2=off,f16c=off,fma=off,vaes=off,vpclmulqdq=off"

INSMOD = """insmod /kvm/irqbypass.ko && insmod /kvm/kvm.ko && insmod /kvm/%s
ls -l /dev/kvm
"""
# Where a triple fault happened: KVM on AMD resets the registers before it tells.
TRACE = """mount -t tracefs tracefs /sys/kernel/tracing && cd /sys/kernel/tracing/events/kvm/kvm_exit &&
	echo 'isa == 2 && exit_reason == 0x7f || isa == 1 && exit_reason == 2' >filter && echo 1 >enable
cd /
"""
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
exec </dev/console >/dev/console 2>&1
export PATH=/bin HOME=/ XDG_RUNTIME_DIR=/run
echo 1 >/proc/sys/kernel/printk
%(setup)s
for f in $(cat /cases/list); do
	echo "nested: begin $f"
	sh /cases/$f
	code=$?
	grep -h kvm_exit /sys/kernel/tracing/trace 2>/dev/null | sed 's/^ */# /'
	{ echo >/sys/kernel/tracing/trace; } 2>/dev/null
	echo "nested: end $f $code"
done
sleep 1 # until a slow serial port has sent all of it
poweroff -f
"""


class Missing(Exception):
    """A prerequisite is not there: the reason to skip."""


def need(path):
    if not os.path.exists(path):
        raise Missing(f"no {os.path.basename(path)}; tools/fetch-guest makes it")
    return path


def guest_file(name):
    return need(os.path.join(GUEST, name))


class Archive:
    """A cpio archive in "newc" format, which the kernel unpacks as its first file system."""

    def __init__(self):
        self.parts = []
        self.names = set()

    def entry(self, name, data, mode):
        fields = (len(self.names) + 1, mode, 0, 0, 1, 1, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0"
        self.parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]
        self.names.add(name)

    def add(self, name, data, mode=0o100755):
        name = name.lstrip("/")
        folder = os.path.dirname(name)
        missing = []
        while folder and folder not in self.names:
            missing.append(folder)
            folder = os.path.dirname(folder)
        for folder in reversed(missing):
            self.entry(folder, b"", 0o040755)
        if name not in self.names:
            self.entry(name, data, mode)

    def add_file(self, name, path):
        with open(path, "rb") as f:
            self.add(name, f.read())

    def add_program(self, name, path):
        """A program and the libraries that the loader would take."""
        with tempfile.NamedTemporaryFile() as small:
            if not shutil.which("strip") or subprocess.run(
                    ["strip", "-o", small.name, path], stderr=subprocess.DEVNULL).returncode:
                shutil.copyfile(path, small.name)
            self.add_file(name, small.name)
        libs = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
        for lib in re.findall(r"(/\S+) \(0x", libs):
            self.add_file(lib, os.path.realpath(lib))

    def write(self, path):
        self.entry("TRAILER!!!", b"", 0)
        with gzip.open(path, "wb", compresslevel=1) as f:
            for part in self.parts:
                f.write(part)


# no_timer_check: the timer is late on a busy host. tsc=reliable: Linux finds such a machine's TSC
# unstable on a busy host, although it is the host's and the same for all; with the HPET as its clock
# a tick of the nested guest can take longer than the time to the next one, and it never gets on.
APPEND = "console=ttyS0 quiet panic=-1 no_timer_check sysrq_always_enabled tsc=reliable"

QUIET = 60  # seconds without a word after which it is asked why, again and again
# Without a word it is given up after so many seconds of its processors; no case is silent for half of that
# on an idle host. One that halts for ever uses none, so BUSY times as much real time is the end, too. So
# it is with the limit of the whole machine: other programs on the host do not make a test fail.
DEAD = 600
BUSY = 3
RESTARTS = 2
BREAK = b"\x01b"  # on a console with QEMU's multiplexer


def make_initrd(path, programs, images, cases, module, setup=""):
    """What level 1 boots into; `cases` is {name: script}; `module`: KVM's, or None for no KVM;
    `setup`, a line of shell, runs first."""
    a = Archive()
    a.add("dev/console", b"", 0o020600)
    a.add_file("bin/busybox", guest_file("busybox"))
    a.add("init", (INIT % {"setup": (INSMOD % module + TRACE if module else "") + setup}).encode())
    for m in ("irqbypass.ko", "kvm.ko", module) if module else ():
        a.add_file("kvm/" + m, guest_file("kvm-cloud/" + m))
    for name, program in programs.items():
        a.add_program(name, program)
    for name, image in images.items():
        a.add_file(name, image)
    a.add("cases/list", "".join(n + "\n" for n in cases).encode())
    for name, script in cases.items():
        a.add("cases/" + name, script.encode())
    a.write(path)


def cpu_seconds(pid):
    """The time of a process's threads; of one that has ended 0."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            user, system = f.read().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


class Clock:
    """How long something has lasted, for limits that hold on a busy host, see BUSY."""

    def __init__(self):
        self.cpu, self.real = 0, time.monotonic()

    def used(self, cpu):
        """Seconds that count, where the machine has used `cpu` of its processors since the start."""
        return max(cpu - self.cpu, (time.monotonic() - self.real) / BUSY)

    def restart(self, cpu):
        self.cpu, self.real = cpu, time.monotonic()


class Level1:
    """Makes the machine, runs its scripts, gives their output."""

    def __init__(self, programs, images, cases, scratch, cpus=2, memory="1G", limit=300, factor=1,
                 cpu=CPU):
        self.qemu = shutil.which("qemu-system-x86_64")
        if not self.qemu:
            raise Missing("no qemu-system-x86_64 for level 1; package qemu-system-x86")
        self.initrd = os.path.join(scratch, "level1.cpio.gz")
        self.monitor = os.path.join(scratch, "monitor")
        self.parts = programs, images
        self.cases = dict(cases)
        self.restarts = 0
        self.prepare()
        self.command = [
            self.qemu, "-accel", "tcg,thread=multi", "-cpu", cpu, "-m", memory, "-smp", str(cpus),
            "-nographic", "-no-reboot", "-nic", "none", "-kernel", guest_file("vmlinuz-cloud"),
            "-initrd", self.initrd, "-append", APPEND,
            "-monitor", f"unix:{self.monitor},server=on,wait=off", "-serial", "mon:stdio"]
        self.limit, self.dead = limit * factor, DEAD * factor

    def prepare(self):
        make_initrd(self.initrd, *self.parts, self.cases, "kvm-amd.ko",
                    "/hold" if "hold" in self.parts[0] else "")

    def start(self):
        """The process, and a descriptor for its console's output."""
        p = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
        return p, p.stdout.fileno()

    def qemus_fault(self):
        """See stuck.py: the reason, or None where there is none or that cannot be asked."""
        if not self.monitor or not os.path.exists(self.monitor):
            return None
        return stuck.reason(self.monitor)

    def explain(self, p, read):
        """Has the machine say where it hangs: its processors by the monitor, its tasks by SysRq."""
        if not self.monitor:
            return []
        m = stuck.Monitor(self.monitor)
        lines = stuck.describe(m)
        m.close()
        for key in b"9", b"l", b"w", b"t":
            p.stdin.write(BREAK + key)
            p.stdin.flush()
            lines += read(3).splitlines()
        return lines

    def run(self, on_case, show=None, note=print):
        """on_case(name, exit code, lines, seconds) as each ends; `show`: a file for the console's
        text as it comes; note(line): what is to be known besides. Returns all of that text.

        A machine that hangs by a fault of QEMU's (stuck.py) is started again with the cases that are left, but
        not for ever; any other that hangs is ended, so its case never ends."""
        text, self.age = "", Clock()
        while True:
            more, fault = self.run_once(on_case, show, note)
            text += more
            if not fault:
                return text
            self.restarts += 1
            again = self.restarts <= RESTARTS
            note(f"# level 1 hung in {next(iter(self.cases))}: {fault}; "
                 + (f"start {self.restarts + 1}, from this case" if again else "given up"))
            if not again:
                return text
            self.prepare()

    def run_once(self, on_case, show, note):
        """(the console's text, QEMU's fault that ended it or None). Cases that end leave self.cases."""
        last = heard = asked = time.monotonic()
        silence = Clock()
        p, console = self.start()
        text, seen = "", 0

        def read(seconds):
            """What comes within this time, "" if nothing does, None at its end."""
            got = b""
            until = time.monotonic() + seconds
            while time.monotonic() < until and (not got or seconds > 1):
                if not select.select([console], [], [], 1)[0]:
                    if p.poll() is not None:
                        return None
                    continue
                data = os.read(console, 65536)
                if not data and not got:
                    return None
                if not data:
                    break
                got += data
            return got.decode(errors="replace").replace("\r", "")

        try:
            while self.age.used(cpu_seconds(p.pid)) < self.limit:
                piece = read(1)
                now, cpu = time.monotonic(), cpu_seconds(p.pid)
                if piece is None:
                    break
                if piece == "":
                    if now - max(heard, asked) > QUIET:
                        fault, asked = self.qemus_fault(), now
                        if fault and self.cases:
                            return text, fault
                    if silence.used(cpu) > self.dead and self.cases:
                        note(f"# level 1 says nothing for {now - heard:.0f} s ({cpu - silence.cpu:.0f} s of its "
                             f"processors), in {next(iter(self.cases))}")
                        for line in self.explain(p, lambda s: read(s) or ""):
                            note("# " + line[:200])
                        break
                    continue
                if re.search(r"^(?!\[ *\d+\.\d+\] ).*\S", piece, re.MULTILINE):
                    heard = now  # not only the kernel, which reports a hang again and again
                    silence.restart(cpu)
                text += piece
                if show:
                    show.write(piece)
                    show.flush()
                while True:
                    m = re.compile(r"nested: begin (\S+)\n(.*?)nested: end \1 (\d+)\n",
                                   re.DOTALL).search(text, seen)
                    if not m:
                        break
                    seen = m.end()
                    on_case(m.group(1), int(m.group(3)), m.group(2).splitlines(), now - last)
                    self.cases.pop(m.group(1), None)
                    last = now
        finally:
            self.age.cpu -= cpu_seconds(p.pid)  # what a machine has used that is started again counts
            ended = p.poll()
            if ended:
                note(f"# QEMU ended with {ended}")
            p.kill()
            p.wait()
        return text, None
