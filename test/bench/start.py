#!/usr/bin/env python3
"""What a start costs: from exec to the guest's first instruction and to userspace, and the memory of
the process beyond the guest's.

usage: start.py --joist JOIST [--rounds N] [--engines E,...] [--only first,first-14M,userspace]

Times are medians of the rounds, in milliseconds: `wall`, and `cpu`, which counts all threads and says
more on a busy machine. "first" is a kernel of a few bytes that writes a character as its first
instruction; "first-14M" the same in an image of 14 MiB, as a stock kernel has, `image` what the host
alone needs to bring as much into memory. Memory is the
resident part of all mappings but the guest's RAM: `rss`, and `own` without file pages that other
processes share (program, libraries); what is mapped twice (code of engine soft) counts once. An engine whose probe fails starts the small kernels with
--force and is skipped for the stock one. Nothing here fails but a start that does not come.
"""
import argparse
import ctypes
import json
import mmap
import os
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import time

GUEST = os.environ.get("JOIST_CACHE", os.path.join(os.getcwd(), "build/guest"))
#          mov dx, 3f8h; mov al, 'X'; out dx, al; cli; 1: hlt; jmp 1b
HELLO = b"\x66\xba\xf8\x03\xb0X\xee\xfa\xf4\xeb\xfd"


def elf(code, entry=0x200000):
    """A kernel of some bytes, entered in 32-bit mode as PVH has it."""
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", entry)
    header = b"\x7fELF\2\1\1" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, 4096, entry, entry, len(code), len(code), 4096)
    notes = struct.pack("<IIQQQQQQ", 4, 4, 176, 0, 0, len(note), len(note), 4)
    return (header + load + notes + note).ljust(4096, b"\0") + code


def cpu_ms(pid):
    total = 0
    for t in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{t}/schedstat", encoding="ascii") as f:
                total += int(f.read().split()[0])
        except FileNotFoundError:  # it has just ended
            pass
    return total / 1e6


def memory_kib(pid):
    """(resident, of these private or anonymous) without the guest's RAM."""
    rss = own = code = 0
    name = ""
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as f:
        for line in f:
            word = line.split()
            if not word[0].endswith(":"):
                name = word[5] if len(word) > 5 else ""
            elif "joist-ram" in name:
                continue
            elif "joist-code" in name:
                if word[0] == "Rss:":
                    code = max(code, int(word[1]))
                continue
            if word[0] == "Rss:":
                rss += int(word[1])
            if word[0] == ("Anonymous:" if name.startswith("/") else "Rss:"):
                own += int(word[1])
    return rss + code, own + code


def image_ms(path):
    """CPU time that the host needs to bring a file's bytes into fresh shared memory: to clear its pages (huge
    ones where it can, as joist asks for) and to copy into them. What is left of a start is the monitor's."""
    huge, collapse = 2 << 20, 25
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    size = os.path.getsize(path) & -huge
    memory = os.memfd_create("image")
    os.truncate(memory, size)
    room = libc.mmap(None, size + huge, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    at = libc.mmap((room + huge) & -huge, size, mmap.PROT_READ | mmap.PROT_WRITE,
                   mmap.MAP_SHARED | 0x10, memory, 0)  # MAP_FIXED
    with open(path, "rb") as f:
        began = time.thread_time()
        for page in range(at, at + size, huge):
            ctypes.memset(page, 0, 1)
        libc.madvise(at, size, collapse)
        libc.pread(f.fileno(), at, size, 0)
        took = time.thread_time() - began
    libc.munmap(room, size + huge)
    os.close(memory)
    return took * 1000


def start(joist, args, until, limit=120):
    """(wall ms, cpu ms, memory) when the guest's output contains `until`; None: it did not."""
    began = time.monotonic()
    p = subprocess.Popen([joist, "run", "-q", "--force", "-m", "256M", *args],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    text = b""
    try:
        while until not in text:
            if not select.select([p.stdout], [], [], began + limit - time.monotonic())[0]:
                return None
            data = os.read(p.stdout.fileno(), 65536)
            if not data:
                return None
            text += data
        return (time.monotonic() - began) * 1000, cpu_ms(p.pid), memory_kib(p.pid)
    finally:
        p.terminate()
        p.communicate()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--joist", required=True)
    ap.add_argument("--rounds", type=int, default=9)
    ap.add_argument("--engines", default="soft,kvm")
    ap.add_argument("--only", default="first,first-14M,userspace")
    args = ap.parse_args()
    doctor = subprocess.run([args.joist, "doctor", "--json"], capture_output=True, text=True, timeout=60)
    usable = {e["name"]: e for e in json.loads(doctor.stdout)["engines"]}
    kernel, initrd = (os.path.join(GUEST, n) for n in ("vmlinuz-cloud", "initramfs.cpio.gz"))
    n = failed = 0
    with tempfile.TemporaryDirectory(prefix="joist-start-") as d:
        os.environ["XDG_RUNTIME_DIR"] = d  # the first round fills the caches of the boot
        small, big = os.path.join(d, "small"), os.path.join(d, "big")
        with open(small, "wb") as f:
            f.write(elf(HELLO))
        with open(big, "wb") as f:
            f.write(elf(HELLO + bytes(range(256)) * (14 << 12)))
        for engine in args.engines.split(","):
            for board in ("micro", "pc"):
                base = ["--engine", engine, "--board", board]
                for what, more, until, rounds in (
                        ("first", ["--kernel", small], b"X", args.rounds),
                        ("first-14M", ["--kernel", big], b"X", args.rounds),
                        ("userspace", ["--kernel", kernel, "--initrd", initrd, "--append",
                                       "console=ttyS0 quiet panic=-1 joist.end=shell"],
                         b"joist-guest: up", 3)):
                    if what not in args.only.split(","):
                        continue
                    n += 1
                    name = f"start/{what}/{board}/{engine}"
                    why = None if what != "userspace" else \
                        usable[engine]["why"] if not usable[engine]["usable"] else \
                        None if os.path.exists(kernel) else "no guest kernel; tools/fetch-guest"
                    if len(usable[engine]["findings"]) < 3 and engine == "kvm":
                        why = usable[engine]["why"]
                    if why:
                        print(f"ok {n} - {name} # SKIP {why}", flush=True)
                        continue
                    got, images = [], []
                    for _ in range(rounds + 1):
                        images.append(image_ms(big))
                        got.append(start(args.joist, base + more, until))
                    del got[0]
                    if None in got:
                        failed += 1
                        print(f"not ok {n} - {name}", flush=True)
                        continue
                    wall, cpu = (statistics.median(g[i] for g in got) for i in (0, 1))
                    rss, own = (max(g[2][i] for g in got) for i in (0, 1))
                    image = f" (image {statistics.median(images):.1f})" if what == "first-14M" else ""
                    print(f"ok {n} - {name}: wall {wall:.1f} cpu {cpu:.1f} ms{image}, "
                          f"rss {rss / 1024:.1f} own {own / 1024:.1f} MiB", flush=True)
    print(f"1..{n}")
    return 1 if failed else 0


sys.exit(main())
