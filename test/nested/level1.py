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

GUEST = os.environ.get("JOIST_CACHE", os.path.join(os.getcwd(), "build/guest"))

# All that TCG has but AVX: TCG lets a guest execute XSETBV behind its hypervisor's back, so the XCR0
# that KVM knows is not the guest's. For the same reason nested kernels are told "noxsave".
CPU = "max,avx=off,avx2=off,f16c=off,fma=off,vaes=off,vpclmulqdq=off"

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
exec </dev/console >/dev/console 2>&1
export PATH=/bin HOME=/ XDG_RUNTIME_DIR=/run
echo 1 >/proc/sys/kernel/printk
insmod /kvm/irqbypass.ko && insmod /kvm/kvm.ko && insmod /kvm/%(module)s
ls -l /dev/kvm
for f in $(cat /cases/list); do
	echo "nested: begin $f"
	sh /cases/$f
	echo "nested: end $f $?"
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


APPEND = "console=ttyS0 quiet panic=-1 no_timer_check"  # the timer is late on a busy host


def make_initrd(path, programs, images, cases, module):
    """What level 1 boots into; `cases` is {name: script}."""
    a = Archive()
    a.add("dev/console", b"", 0o020600)
    a.add_file("bin/busybox", guest_file("busybox"))
    a.add("init", (INIT % {"module": module}).encode())
    for m in ("irqbypass.ko", "kvm.ko", module):
        a.add_file("kvm/" + m, guest_file("kvm-cloud/" + m))
    for name, program in programs.items():
        a.add_program(name, program)
    for name, image in images.items():
        a.add_file(name, image)
    a.add("cases/list", "".join(n + "\n" for n in cases).encode())
    for name, script in cases.items():
        a.add("cases/" + name, script.encode())
    a.write(path)


class Level1:
    """Makes the machine, runs its scripts, gives their output."""

    def __init__(self, programs, images, cases, scratch, cpus=2, memory="1G", limit=300, cpu=CPU):
        self.qemu = shutil.which("qemu-system-x86_64")
        if not self.qemu:
            raise Missing("no qemu-system-x86_64 for level 1; package qemu-system-x86")
        initrd = os.path.join(scratch, "level1.cpio.gz")
        make_initrd(initrd, programs, images, cases, "kvm-amd.ko")
        self.command = [
            self.qemu, "-accel", "tcg,thread=multi", "-cpu", cpu, "-m", memory, "-smp", str(cpus),
            "-nographic", "-no-reboot", "-nic", "none", "-kernel", guest_file("vmlinuz-cloud"),
            "-initrd", initrd, "-append", APPEND]
        self.limit = limit

    def start(self):
        """The process, and a descriptor for its console's output."""
        p = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
        return p, p.stdout.fileno()

    def run(self, on_case, show=None):
        """on_case(name, exit code, lines, seconds) as each ends; `show`: a file for the console's
        text as it comes. Returns all of that text."""
        began = last = time.monotonic()
        p, console = self.start()
        text, seen = "", 0
        try:
            while True:
                left = began + self.limit - time.monotonic()
                if left <= 0:
                    break
                if not select.select([console], [], [], min(left, 1))[0]:
                    if p.poll() is not None:
                        break
                    continue
                data = os.read(console, 65536)
                if not data:
                    break
                piece = data.decode(errors="replace").replace("\r", "")
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
                    now = time.monotonic()
                    on_case(m.group(1), int(m.group(3)), m.group(2).splitlines(), now - last)
                    last = now
        finally:
            p.kill()
            p.wait()
        return text
