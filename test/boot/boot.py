#!/usr/bin/env python3
"""Boots Debian's kernels to userspace, looks around there, and ends them in every way.

usage: boot.py --joist JOIST [--long] [--list] [CASE]...
Cases are named KERNEL-BOARD-CPUS/ENGINE, or by what they show.
"""
import calendar
import hashlib
import os
import re
import signal
import sys
import time

sys.dont_write_bytecode = True  # the source folder stays clean
from vm import Live, Run, case, main, scratch_file  # noqa: E402

# Lines of a kernel log that only a broken machine brings forth.
BAD_LOG = re.compile(
    r"BUG:|WARNING:|Oops|stuck|soft lockup|hard LOCKUP|detected stall|self-detected|Call Trace"
    r"|NMI watchdog: Watchdog|timekeeping watchdog|unstable|nobody cared|unchecked MSR"
    r"|Firmware Bug|ACPI.*Error|spurious interrupt|lost interrupt|general protection|segfault"
    r"|hung_task|blocked for more than|failed to|timed out|timeout")
# ... and what resembles it in every VM, with this or with other hypervisors.
GOOD_LOG = re.compile(r"Perf NMI watchdog permanently disabled")

NUMBERS = "".join(f"{i}\n" for i in range(1, 3001)).encode()
SUM = hashlib.md5(NUMBERS).hexdigest()

LOOK = """
echo "uname: $(uname -s -m)"
echo "nproc: $(nproc)"
echo "source: $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "sources: $(cat /sys/devices/system/clocksource/clocksource0/available_clocksource)"
timer() { awk -v n=$(($1 + 2)) '$1 == "LOC:" { print $n }' /proc/interrupts; }
i=0
while [ $i -lt $(nproc) ]; do
	a=$(timer $i)
	echo "sum$i: $(taskset -c $i sh -c 'seq 3000 | md5sum; usleep 30000')"
	echo "ticks$i: $(($(timer $i) - a))"
	i=$((i + 1))
done
echo "free: $(awk '/MemFree/ { print $2 }' /proc/meminfo)"
echo "date: $(date +%s)"
dmesg
"""


def boots(kernel, board, cpus, engine, **more):
    began = time.time()
    r = Run(kernel, board, cpus, script=LOOK, engine=engine, **more)
    over = time.time()
    machine = "i686" if kernel == "686" else "x86_64"
    r.want(0, [rf"^joist-guest: up .* cpus={cpus} ", rf"^uname: Linux {machine}$",
               rf"^nproc: {cpus}$", r"^sources:.* kvm-clock", r"^joist-guest: status 0$",
               r"kvm-clock: Using msrs"])
    # With an invariant TSC, Linux prefers it to kvm-clock.
    if r.line(r"^source: (.*)$") not in ("kvm-clock", "tsc"):
        r.fail("the wrong clock source")
    for i in range(cpus):
        if r.line(rf"^sum{i}: (\w+)  -$") != SUM:
            r.fail(f"CPU {i} calculates wrongly")
        if int(r.line(rf"^ticks{i}: (.*)$")) < 1:
            r.fail(f"CPU {i} has no timer interrupts")
    if not began - 2 < int(r.line(r"^date: (\d+)$")) < over + 2:
        r.fail("the date is wrong")
    if int(r.line(r"^free: (\d+)$")) < 200000:
        r.fail("half of the memory should be free")
    bad = [x for x in r.out.splitlines() if BAD_LOG.search(x) and not GOOD_LOG.search(x)]
    if bad:
        r.fail("in the kernel's log: " + "; ".join(bad))
    return f"{r.took:.1f} s"


QUICK = ("cloud-pc-1", "cloud-pc-2", "cloud-pc-4", "cloud-micro-1", "cloud-micro-2", "amd64-pc-2")
for engine in ("soft", "soft,interp"):
    for kernel in ("cloud", "amd64"):
        for board in ("pc", "micro"):
            for cpus in (1, 2, 4):
                def one(a=(kernel, board, cpus, engine)):
                    return boots(*a)
                name = f"{kernel}-{board}-{cpus}"
                tier = engine.split(",")[-1]
                case(f"{name}/{tier}", long=name not in QUICK or tier != "soft")(one)


# Eight vCPUs on whatever cores there are; a code cache that has to be thrown away all the time.
case("cloud-pc-8/soft", long=True)(lambda: boots("cloud", "pc", 8, "soft"))
case("small-cache/soft")(lambda: boots("cloud", "pc", 2, "soft,cache=4M"))

# A 32-bit kernel; and 32-bit programs under a 64-bit one.
for board, cpus in (("pc", 1), ("pc", 2), ("micro", 1)):
    case(f"686-{board}-{cpus}/soft")(lambda a=(board, cpus): boots("686", *a, "soft"))
case("cloud-with-686-programs/soft")(
    lambda: boots("cloud", "pc", 2, "soft", ramdisk="initramfs-686.cpio.gz"))


def in_a_row(count):
    times = []
    for i in range(count):
        r = Run(cpus=1 + i % 2, board=("pc", "micro")[i // 2 % 2], script="echo here")
        r.want(0, [r"^here$"])
        times.append(r.took)
    return f"{min(times):.1f} to {max(times):.1f} s"


@case("5-in-a-row")
def five():
    return in_a_row(5)


@case("20-in-a-row", long=True)
def twenty():
    return in_a_row(20)


# ---- ends ----------------------------------------------------------------------------


@case("panic")
def panic():
    """A crash on request; panic=-1 makes Linux reset, which must not boot it again."""
    r = Run(append="joist.end=panic")
    r.want(1, [r"Kernel panic - not syncing: sysrq"], [r"^joist: guest panicked: sysrq"])
    if r.out.count("joist-guest: up") != 1:
        r.fail("boots again after a panic")


@case("panic-no-init")
def no_init():
    r = Run(cpus=2, append="rdinit=/nothing root=/dev/nothing")
    r.want(1, [r"Kernel panic - not syncing: VFS"], [r"^joist: guest panicked: VFS"])


@case("panic-notifier", long=True)
def panic_notifier():
    """Without panic= Linux stays where it is; the notifier's driver ends the VM."""
    r = Run(base="console=ttyS0 quiet", append="joist.modules=1 joist.end=panic")
    r.want(1, [r"Kernel panic - not syncing: sysrq"], [r"^joist: guest panicked"])


@case("panic-unseen", long=True)
def panic_unseen():
    """A panic that the serial line does not show is a reset like any other: it boots on."""
    r = Run(base="console=tty0 quiet panic=-1", append="rdinit=/nothing root=/dev/nothing",
            limit=20, extra=["--verbose"])
    r.want(124, [], [r"^joist: .*--timeout"])
    if r.err.count("the guest resets the machine") < 2:
        r.fail("does not boot again")


@case("no-reboot")
def no_reboot():
    Run(append="joist.end=reboot", extra=["--no-reboot"]).want(
        0, [r"^joist-guest: reboot$"], [r"the guest asked for a reset"])


REBOOTS = """
n=$(head -c 1 /dev/vda)
echo "round: $n"
[ $n = %d ] && exit 0
echo $((n + 1)) | dd of=/dev/vda bs=512 conv=fsync,sync 2>/dev/null
%s
"""


def reboots(board, cpus, rounds, how):
    disk = scratch_file("rounds.img", b"1", 1 << 20)
    r = Run(board=board, cpus=cpus, script=REBOOTS % (rounds, how),
            extra=["--disk", disk], append="joist.modules=1")
    r.want(0, [r"^joist-guest: status 0$"])
    seen = [int(x) for x in re.findall(r"^round: (\d)$", r.out, re.MULTILINE)]
    if seen != list(range(1, rounds + 1)):
        r.fail(f"the rounds were {seen}")


@case("reboot/pc")
def reboot_pc():
    """The disk counts the boots: what was written before the reset is there after it."""
    reboots("pc", 2, 2, "reboot -f")


@case("reboot/micro", long=True)
def reboot_micro():
    reboots("micro", 2, 4, "reboot -f")


@case("reboot-sysrq", long=True)
def reboot_sysrq():
    reboots("pc", 4, 4, "echo b >/proc/sysrq-trigger")


for method in ("acpi", "kbd", "triple", "pci"):
    def by(method=method):
        Run(append=f"joist.end=reboot reboot={method[0]}", extra=["--no-reboot"]).want(
            0, [r"^joist-guest: reboot$"], [r"the guest asked for a reset" + (
                ": triple fault" if method == "triple" else "$")])
    case(f"reboot-by/{method}", long=True)(by)


@case("sigterm")
def sigterm():
    """A guest whose CPUs are all busy and which reads nothing ends, without being asked."""
    with Live(cpus=2, tty=True, script="(while :; do :; done) & echo busy; while :; do :; done") as v:
        v.wait_for(r"^busy$")
        v.signal(signal.SIGTERM)
        if v.end(60) != 128 + signal.SIGTERM:
            v.fail("wrong exit code")
        v.check_terminal()
        if "Terminated" not in v.out:
            v.fail("no message")


# ---- the serial line -----------------------------------------------------------------


@case("terminal")
def terminal():
    """A shell on a terminal: what is typed arrives, Ctrl-C goes to the guest, Ctrl-] leaves."""
    with Live(tty=True) as v:
        v.wait_for(r"^guest# ")
        v.say("echo $((6 * 7)) 'in the guest'\r")
        v.wait_for(r"^42 in the guest$")
        v.wait_for(r"^guest# ")
        v.say("sleep 1000\r")
        v.wait_for(r"sleep 1000$")
        time.sleep(0.5)
        v.say("\x03")
        v.wait_for(r"^guest# ", 30)
        v.say("echo $?\r")
        v.wait_for(r"^130$")
        v.say("\x1d")
        if v.end(10) != 0 or "left with Ctrl-]" not in v.out:
            v.fail("Ctrl-] does not leave")
        v.check_terminal()


@case("shell-on-pipe", long=True)
def shell_on_pipe():
    """Commands from a pipe that is closed after the last one."""
    with Live(cpus=2) as v:
        v.wait_for(r"^guest# ")
        v.say("cat /proc/loadavg; poweroff -f\n")
        v.process.stdin.close()
        if v.end() != 0:
            v.fail("does not power off")
        v.want(0, [r"^\d+\.\d+ \d+\.\d+ "])


@case("serial-input")
def serial_input():
    """Nothing of 20 KB is lost or swapped, far faster than the guest reads."""
    lines = [f"line {i} {'x' * 20}" for i in range(600)]
    with Live(script="stty -echo; echo ready; head -n 600 | md5sum") as v:
        v.wait_for(r"^ready$")
        text = "".join(x + "\n" for x in lines)
        v.say(text)
        v.end()
        v.want(0, [hashlib.md5(text.encode()).hexdigest(), r"^joist-guest: status 0$"])


@case("virtio-console")
def virtio_console():
    """hvc0 both ways; Debian has the driver as a module, so the kernel's log is not there."""
    with Live(append="joist.modules=1", extra=["--console", "virtio"], script=(
            "{ stty -echo; echo ready; read a; echo \"got $a\"; seq 3000; } "
            "</dev/hvc0 >/dev/hvc0 2>&1")) as v:
        v.wait_for(r"^ready$")
        v.say("a line\n")
        v.wait_for(r"^got a line$")
        v.end()
        v.want(0)
        numbers = re.findall(r"^(\d+)$", v.out, re.MULTILINE)
        if numbers != [str(i) for i in range(1, 3001)]:
            v.fail(f"{len(numbers)} of 3000 lines came")


# ---- disks and random numbers ----------------------------------------------------------

DISKS = """
echo "size: $(blockdev --getsize64 /dev/vda) $(blockdev --getro /dev/vdb)"
echo "cache: $(cat /sys/block/vda/queue/write_cache)"
echo "read: $(dd if=/dev/vda bs=64k count=32 2>/dev/null | md5sum)"
head -c 1048576 /dev/urandom >/tmp/r
dd if=/tmp/r of=/dev/vda bs=64k seek=32 conv=fsync 2>/dev/null || echo bad write
i=0
while [ $i -lt 4 ]; do
	{ head -c 262144 /dev/zero | tr '\\000' $i | dd of=/dev/vda bs=4k seek=$((1024 + i * 64)) 2>/dev/null; } &
	i=$((i + 1))
done
wait
sync
echo 3 >/proc/sys/vm/drop_caches
echo "written: $(md5sum </tmp/r)"
echo "back: $(dd if=/dev/vda bs=64k skip=32 count=16 2>/dev/null | md5sum)"
echo "small: $(dd if=/dev/vda bs=512 skip=3 count=1 2>/dev/null | md5sum)"
dd if=/dev/zero of=/dev/vdb bs=512 count=1 conv=fsync 2>/dev/null && echo "bad: wrote to a read-only disk"
dd if=/dev/vda of=/dev/null bs=512 skip=16384 count=1 2>&1 | grep -q '^0+0' && echo "end is the end"
echo "rng: $(cat /sys/class/misc/hw_random/rng_current)"
echo "random: $(dd if=/dev/hwrng bs=32 count=1 2>/dev/null | md5sum) $(dd if=/dev/hwrng bs=32 count=1 2>/dev/null | md5sum)"
dmesg | grep -E 'I/O error|vda.*error|virtio.*(fail|error)'
"""


def virtio(board, cpus):
    """Disks and random numbers through Debian's own drivers, which are modules."""
    size = 8 << 20
    first = os.urandom(2 << 20)
    disk = scratch_file("disk.img", first, size)
    fixed = scratch_file("fixed.img", b"r" * 4096, 1 << 20)
    r = Run(board=board, cpus=cpus, append="joist.modules=1", script=DISKS,
            extra=["--disk", disk, "--disk", fixed + ",ro"])
    r.want(0, [rf"^size: {size} 1$", r"^cache: write back$", r"^end is the end$",
               r"^rng: virtio_rng", rf"^read: {hashlib.md5(first).hexdigest()}",
               rf"^small: {hashlib.md5(first[1536:2048]).hexdigest()}"])
    if re.search(r"^bad|error", r.out, re.MULTILINE):
        r.fail("an error in the guest")
    with open(disk, "rb") as f:
        data = f.read()
    wrote = r.line(r"^written: (\w+)")
    if r.line(r"^back: (\w+)") != wrote:
        r.fail("reads other data than it wrote")
    if hashlib.md5(data[2 << 20:3 << 20]).hexdigest() != wrote:
        r.fail("the image has other data than the guest wrote")
    if data[4 << 20:5 << 20] != b"".join(b"%d" % i * 262144 for i in range(4)):
        r.fail("writes side by side went wrong")
    if data[:2 << 20] != first or any(data[5 << 20:]) or len(data) != size:
        r.fail("the image changed where nobody wrote")
    with open(fixed, "rb") as f:
        if f.read(4096) != b"r" * 4096:
            r.fail("the read-only image changed")
    a, b = re.search(r"^random: (\w+)  - (\w+)", r.out, re.MULTILINE).groups()
    if a == b or a == hashlib.md5(b"").hexdigest():
        r.fail("no random numbers")


@case("virtio/pc")
def virtio_pc():
    virtio("pc", 2)


@case("virtio/micro")
def virtio_micro():
    virtio("micro", 1)


@case("virtio/pc-4", long=True)
def virtio_pc4():
    virtio("pc", 4)


# ---- time ------------------------------------------------------------------------------

TIME = """
i=0
while [ $i -lt 3 ]; do
	a=$(cut -d' ' -f1 /proc/uptime)
	echo "sleeps"
	sleep 2
	echo "awake: $a $(cut -d' ' -f1 /proc/uptime)"
	i=$((i + 1))
done
echo "date: $(date +%s) ."
echo "rtc: $(hwclock -u -r) ."
"""


def timekeeping(board, cpus, engine="soft", append=""):
    """Two seconds are two, by the host's clock and by the guest's, and the date is the host's."""
    with Live(board=board, cpus=cpus, script=TIME, engine=engine, append=append) as v:
        best = 99.0
        for _ in range(3):
            v.wait_for(r"^sleeps$")
            began = time.monotonic()
            m = v.wait_for(r"^awake: (\S+) (\S+)$")
            host, guest = time.monotonic() - began, float(m[2]) - float(m[1])
            if host < 1.8 or guest < 1.95:
                v.fail(f"slept {host:.2f} s here, {guest:.2f} s there")
            best = min(best, max(host, guest))  # a busy host may delay some of them
        if best > 3:
            v.fail(f"sleep 2 took {best:.2f} s")
        date = int(v.wait_for(r"^date: (\d+) \.$")[1])
        if abs(time.time() - date) > 2:
            v.fail(f"the date is {date - time.time():+.1f} s off")
        text = re.sub(r"\s+[\d.]+ seconds$", "", v.wait_for(r"^rtc: (.*) \.$")[1])
        rtc = calendar.timegm(time.strptime(text, "%a %b %d %H:%M:%S %Y"))
        if abs(time.time() - rtc) > 2.5:
            v.fail(f"the RTC is {rtc - time.time():+.1f} s off")
        v.end()
        v.want(0)
        return f"{best:.2f} s"


@case("time")
def time_default():
    return timekeeping("pc", 2)


@case("time/micro", long=True)
def time_micro():
    return timekeeping("micro", 1)


@case("time/interp", long=True)
def time_interp():
    return timekeeping("pc", 2, engine="soft,interp")


for clock in ("kvm-clock", "hpet", "acpi_pm"):
    def by_clock(clock=clock):
        return timekeeping("pc", 2, append=f"clocksource={clock} tsc=unstable")
    case(f"time/{clock}", long=True)(by_clock)


@case("time/no-apic-timer", long=True)
def time_no_apic_timer():
    return timekeeping("pc", 1, append="nolapic_timer no-kvmclock tsc=unstable")


@case("small-memory", long=True)
def small_memory():
    Run(memory="128M", script="free -m").want(0, [r"^joist-guest: status 0$"])


@case("much-memory", long=True)
def much_memory():
    """RAM above the hole below 4 GiB; the host gives only the pages that are touched."""
    r = Run(memory="6G", cpus=2, script="echo total: $(awk '/MemTotal/ { print $2 }' /proc/meminfo)")
    r.want(0, [r"^joist-guest: status 0$"])
    if int(r.line(r"^total: (\d+)$")) < 5 << 20:
        r.fail("the guest sees less memory than it has")


if __name__ == "__main__":
    sys.exit(main())
