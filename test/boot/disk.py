#!/usr/bin/env python3
"""Disks in a booted Linux: NVMe without modules, qcow2 overlays, and a host process that dies.

usage: disk.py --joist JOIST [--long] [--list] [CASE]...
"""
import hashlib
import os
import re
import signal
import sys

sys.dont_write_bytecode = True  # the source folder stays clean
from vm import Live, Run, case, joist, main, scratch_file  # noqa: E402

SIZE = 16 << 20

NVME = """
d=/dev/nvme0n1
echo "serial: $(cat /sys/class/nvme/nvme0/serial)"
echo "size: $(blockdev --getsize64 $d)"
echo "cache: $(cat /sys/block/nvme0n1/queue/write_cache)"
echo "queues: $(ls /sys/block/nvme0n1/mq | wc -l)"
echo "base: $(dd if=$d bs=64k count=32 2>/dev/null | md5sum)"
head -c 3145728 /dev/urandom >/tmp/r
dd if=/tmp/r of=$d bs=1M seek=2 conv=fsync 2>/dev/null || echo bad write
i=0
while [ $i -lt 4 ]; do
	{ head -c 65536 /dev/zero | tr '\\000' $i | dd of=$d bs=512 seek=$((12288 + i * 129)) 2>/dev/null; } &
	i=$((i + 1))
done
wait
sync
echo 3 >/proc/sys/vm/drop_caches
echo "written: $(md5sum </tmp/r)"
echo "back: $(dd if=$d bs=1M skip=2 count=3 2>/dev/null | md5sum)"
echo "odd: $(dd if=$d bs=512 skip=$((12288 + 2 * 129)) count=128 2>/dev/null | md5sum)"
blkdiscard -o 2097152 -l 3145728 $d || echo bad discard
echo "gone: $(dd if=$d bs=1M skip=2 count=3 2>/dev/null | tr -d '\\000' | wc -c)"
dmesg | grep -E 'I/O error|nvme.*(error|timeout)'
"""


@case("nvme-overlay/pc")
def nvme_overlay():
    """An NVMe disk, an overlay over a raw base, through the kernel's built-in driver."""
    base = os.urandom(2 << 20)
    path = scratch_file("base.raw", base, SIZE)
    top = os.path.join(os.path.dirname(path), "top.qcow2")
    if joist("disk", "create", top, "--backing", path)[0]:
        raise AssertionError("no overlay")
    r = Run(cpus=2, script=NVME, extra=["--disk", top + ",bus=nvme,serial=disk-7"])
    r.want(0, [r"^serial: disk-7", rf"^size: {SIZE}$", r"^cache: write back$", r"^queues: 2$",
               r"^gone: 0$", rf"^base: {hashlib.md5(base).hexdigest()}",
               rf"^odd: {hashlib.md5(b'2' * 65536).hexdigest()}"])
    if re.search(r"^bad|error", r.out, re.MULTILINE):
        r.fail("an error in the guest")
    if r.line(r"^back: (\w+)") != r.line(r"^written: (\w+)"):
        r.fail("reads other data than it wrote")
    if joist("disk", "check", top)[0]:
        r.fail("the image has errors")
    with open(path, "rb") as f:
        if f.read(2 << 20) != base:
            r.fail("the base image changed")


@case("killed/pc")
def killed():
    """The host's process dies; what the guest flushed is there."""
    path = scratch_file("unused")
    disk = os.path.join(os.path.dirname(path), "killed.qcow2")
    if os.path.exists(disk):
        os.remove(disk)
    if joist("disk", "create", disk, "8M")[0]:
        raise AssertionError("no image")
    script = ("seq 200000 >/tmp/s\ndd if=/tmp/s of=/dev/nvme0n1 bs=64k conv=fsync 2>/dev/null\n"
              "echo flushed\nwhile :; do dd if=/dev/urandom of=/dev/nvme0n1 bs=4k seek=512 count=9; "
              "done\n")
    with Live(script=script, extra=["--disk", disk + ",bus=nvme"]) as v:
        v.wait_for("^flushed")
        v.signal(signal.SIGKILL)
        os.waitpid(v.pid, 0)
        v.code = -9
    if joist("disk", "check", disk)[0]:
        raise AssertionError("the image has errors")
    want = "".join(f"{i}\n" for i in range(1, 200001)).encode()
    r = Run(script=f"head -c {len(want)} /dev/nvme0n1 | md5sum",
            extra=["--disk", disk + ",ro,bus=nvme"])
    r.want(0, [hashlib.md5(want).hexdigest()])


@case("killed-often/pc", long=True)
def killed_often():
    for _ in range(8):
        killed()


if __name__ == "__main__":
    sys.exit(main())
