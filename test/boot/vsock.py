#!/usr/bin/env python3
"""vsock between a Debian kernel's guest and Unix sockets of its host.

usage: vsock.py --joist JOIST --guest PROGRAM [CASE]...     PROGRAM: vsock_guest.c, static
"""
import hashlib
import os
import random
import socket
import sys
import tempfile
import threading

sys.dont_write_bytecode = True  # the source folder stays clean
import vm  # noqa: E402
from vm import Live, Skip, case, main  # noqa: E402

folder = tempfile.TemporaryDirectory(prefix="joist-vsock-")  # sockets need short names
program = None
if "--guest" in sys.argv:
    at = sys.argv.index("--guest")
    program = sys.argv[at + 1]
    del sys.argv[at:at + 2]


def files():
    if not program or not os.path.exists(program):
        raise Skip("no static C library to link the guest's program with (package libc6-dev)")
    with open(program, "rb") as f:
        return {"vsock": f.read()}


def dial(path, port):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60 * vm.options.factor)
    s.connect(path)
    s.sendall(b"CONNECT %d\n" % port)
    line = b""
    while not line.endswith(b"\n"):
        c = s.recv(1)
        if not c:
            return None
        line += c
    assert line.startswith(b"OK "), line
    return s


def read_all(s):
    data = b""
    while True:
        more = s.recv(65536)
        if not more:
            return data
        data += more


BOTH = """
/vsock listen 1234
date +%s | /vsock connect 99 || echo "nobody: $?"
head -c 300000 /dev/urandom >/tmp/r
md5sum </tmp/r
/vsock connect 80 </tmp/r | md5sum
cat /sys/bus/virtio/devices/*/device | grep -c 0x0013
"""


def both(board):
    """The host calls the guest, which echoes 1 MB; the guest calls the host; and nobody."""
    path = os.path.join(folder.name, board)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + "_80")
    listener.listen(1)
    sums = []

    def serve():
        s, _ = listener.accept()
        data = read_all(s)
        sums.append(hashlib.md5(data).hexdigest())
        s.sendall(data[::-1])
        s.close()

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    with Live(board=board, cpus=2, script=BOTH, files=files(), append="joist.modules=1",
              extra=["--vsock", path]) as v:
        v.wait_for(r"^vsock: listens$")
        if dial(path, 1235):
            v.fail("a port where nobody listens answers")
        s = dial(path, 1234)
        if not s:
            v.fail("the guest does not accept")
        data = random.Random(1).randbytes(1000000)
        sender = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
        sender.start()
        back = read_all(s)
        sender.join()
        if back != data:
            v.fail(f"{len(back)} bytes came back that are not the {len(data)} sent")
        v.end()
        v.want(0, [r"^vsock: echoed 1000000, end 0$", r"^connect: ", r"^nobody: 1$", r"^1$"])
        lines = [l.split()[0] for l in v.out.splitlines() if l.endswith("  -")]
        if sums != lines[:1]:
            v.fail(f"the host got {sums}, the guest sent {lines[:1]}")
        if len(lines) != 2:
            v.fail("no answer from the host")
    if os.path.exists(path):
        v.fail("the socket is left behind")


for which in ("pc", "micro"):
    case("vsock/" + which)(lambda b=which: both(b))

if __name__ == "__main__":
    sys.exit(main())
