#!/usr/bin/env python3
"""A Debian kernel's guest and the outside: channels, networks.

usage: net.py --joist JOIST [--long] [--list] [CASE]...
"""
import os
import socket
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # the source folder stays clean
from vm import Live, case, main, options  # noqa: E402

# Sockets need short names.
folder = tempfile.TemporaryDirectory(prefix="joist-net-")


def connect(path, seconds=20):
    end = time.monotonic() + seconds * options.factor
    while True:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60 * options.factor)
        try:
            s.connect(path)
            return s
        except OSError:
            s.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


CHANNEL = """
port=
for p in /sys/class/virtio-ports/*; do
	[ "$(cat $p/name)" = org.joist.test ] && port=/dev/${p##*/}
done
echo "port: $port"
exec 3<>$port
until read line <&3; do usleep 50000; done
echo "got: $line"
seq 20000 >&3
echo "first: written"
until read line <&3; do usleep 50000; done
echo "then: $line"
"""


def channel(board):
    """A port by its name: both ways, two clients one after the other, 100 KB at once."""
    path = os.path.join(folder.name, "channel-" + board)
    with Live(board=board, script=CHANNEL, append="joist.modules=1",
              extra=["--channel", "org.joist.test=" + path]) as v:
        v.wait_for(r"^port: /dev/vport\d+p\d+$")
        with connect(path) as s:
            s.sendall(b"a question\n")
            v.wait_for(r"^got: a question$")
            data = b""
            while not data.endswith(b"\n20000\n"):
                more = s.recv(65536)
                if not more:
                    v.fail(f"the channel closes after {len(data)} bytes")
                data += more
            if data != "".join(f"{i}\n" for i in range(1, 20001)).encode():
                v.fail("what came through the channel is not what was sent")
            v.wait_for(r"^first: written$")
        with connect(path) as s:
            s.sendall(b"the second one\n")
            v.wait_for(r"^then: the second one$")
        v.end()
        v.want(0, [r"^joist-guest: status 0$"])
    if os.path.exists(path):
        v.fail("the socket is left behind")


for which in ("pc", "micro"):
    case("channel/" + which, long=which == "micro")(lambda b=which: channel(b))


if __name__ == "__main__":
    sys.exit(main())
