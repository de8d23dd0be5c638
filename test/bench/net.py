#!/usr/bin/env python3
"""TCP between a guest and its host through user mode NAT, in Joist and in QEMU's TCG, in turn.

usage: net.py --joist JOIST [--mb N] [--rounds N]
The guest (Debian's cloud kernel, busybox) fetches N MB from a server on the host's loopback and
sends as many; the host's side takes the time from the first byte to the last. TAP with the
median of the rounds in MB/s and all of them; nothing passes or fails by a figure.
"""
import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../boot"))
import vm  # noqa: E402

SCRIPT = """
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
nc 10.0.2.2 %d </dev/null >/dev/null
dd if=/dev/zero bs=65536 count=%d 2>/dev/null | nc 10.0.2.2 %d
echo over
"""


def serve(mb, down, took):
    s = socket.create_server(("127.0.0.1", 0))
    s.settimeout(300)

    def run():
        c, _ = s.accept()
        with c:
            count = 0
            began = time.monotonic()
            if down:
                block = bytes(1 << 20)
                for _ in range(mb):
                    c.sendall(block)
                c.shutdown(socket.SHUT_WR)
                c.recv(1)  # until the guest has all of it and closes
                count = mb << 20
            else:
                while more := c.recv(1 << 20):
                    count += len(more)
            took["down" if down else "up"] = count / 1e6 / (time.monotonic() - began)
    t = threading.Thread(target=run, daemon=True)
    t.start()
    return s.getsockname()[1], t


def once(command, mb):
    took = {}
    down, t1 = serve(mb, True, took)
    up, t2 = serve(mb, False, took)
    initrd = vm.initrd_with(SCRIPT % (down, mb * 16, up))
    base = "console=ttyS0 quiet panic=-1 joist.modules=1 joist.script=test.sh"
    subprocess.run(command(initrd, base), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, timeout=600)
    t1.join(5)
    t2.join(5)
    return took


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--joist", required=True)
    ap.add_argument("--mb", type=int, default=64)
    ap.add_argument("--rounds", type=int, default=3)
    args = ap.parse_args()
    try:
        kernel = vm.guest_file("vmlinuz-cloud")
    except vm.Skip as e:
        print(f"1..0 # SKIP {e}")
        return 0
    kinds = {"joist": lambda i, a: [args.joist, "run", "--engine", "soft", "--kernel", kernel,
                                    "--initrd", i, "--append", a, "--net", "user,loopback"]}
    if shutil.which("qemu-system-x86_64"):
        kinds["qemu-tcg"] = lambda i, a: [
            "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nographic",
            "-no-reboot", "-kernel", kernel, "-initrd", i, "-append", a,
            "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"]
    got = {}
    for _ in range(args.rounds):
        for name, command in kinds.items():
            for way, rate in once(command, args.mb).items():
                got.setdefault((name, way), []).append(rate)
    want = [(name, way) for name in sorted(kinds) for way in ("down", "up")]
    print(f"1..{len(want)}")
    failed = 0
    for i, key in enumerate(want, 1):
        rates = got.get(key)
        failed += not rates
        print(f"{'ok' if rates else 'not ok'} {i} - {key[0]} {key[1]}" + (
            f": {statistics.median(rates):.1f} MB/s ({', '.join(f'{r:.1f}' for r in sorted(rates))})"
            if rates else ": nothing came"))
    return 1 if failed else 0


sys.exit(main())
