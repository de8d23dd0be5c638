#!/usr/bin/env python3
"""The noisy neighbour: what a quiet VM gets alone, beside a VM that takes all it can, and beside
the same one with limits.

usage: neighbour.py --joist JOIST --guest PULSE [--seconds N] [--rounds N] [--json FILE]
PULSE is pulse.c, linked statically. The quiet VM has one virtual CPU; the hog has as many as the
host, all of them busy, writes its disk and sends over its network without pause. Both have equal
shares of everything. Alone, beside and limited take turns, N rounds; each figure is the median of the
rounds, and what is kept the median of each round's own ratio, so that a host whose load changes
slowly does not count.

What the quiet one's share is: of the CPUs, half of them, which is at least the one that it can use;
of the network, too, since its round trips fill no link: in both it should keep what it has alone.
Its disk's reads follow each other without a pause, so that alone it has the disk all the time, and
its share is half of that. The last figure, kept of the share, should be 90 % or more. TAP with a
line for each of CPU, disk and network; the figures go to FILE. Nothing passes or fails by them.
"""
import argparse
import json
import os
import re
import statistics
import socket
import sys
import tempfile
import threading

sys.dont_write_bytecode = True
here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(here, "../boot"), os.path.join(here, "../cli")]  # two are called vm
import vm  # noqa: E402
import vmlib  # noqa: E402
from vmlib import joist, until  # noqa: E402

NET = "ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0\n"
SHARE = {"cpu": 1.0, "disk": 0.5, "net": 1.0}  # of what it gets alone
LIMITS = ["--disk-limit", "10M,burst=1M,iops=200", "--net-limit", "10M,burst=1M", "--cpu-limit", "50%"]


def serve(echo):
    """A server on the loopback; what it does with each client runs until that one goes."""
    s = socket.create_server(("127.0.0.1", 0))

    def one(c):
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := c.recv(1 << 18):
                if echo:
                    c.sendall(data)
        except OSError:
            pass

    def run():
        while True:
            c, _ = s.accept()
            threading.Thread(target=one, args=(c,), daemon=True).start()
    threading.Thread(target=run, daemon=True).start()
    return s.getsockname()[1]


def disk(folder, name, size=256 << 20):
    """Written out: an image of holes would measure the host's allocator."""
    path = os.path.join(folder, name)
    with open(path, "wb") as f:
        for _ in range(size >> 20):
            f.write(os.urandom(1 << 20))
        os.fsync(f.fileno())
    return path


def start(name, script, pulse, image, cpus, extra=()):
    initrd = vm.initrd_with({"pulse": pulse, "test.sh": (NET + script).encode()})
    keep = os.path.join(vmlib.home, name + ".initrd")
    os.replace(initrd, keep)
    joist("run", "-d", "--engine", engine, "--name", name, "-m", "128M", "-c", str(cpus), "--kernel",
          vm.guest_file("vmlinuz-cloud"), "--initrd", keep, "--net", "user,loopback", "--append",
          "console=ttyS0 quiet panic=-1 joist.modules=1 joist.end=shell joist.script=test.sh",
          "--disk", image, *extra)


def quiet(args, pulse, image, echo):
    script = f"/pulse cpu {args.seconds}\n/pulse disk {args.seconds} /dev/vda\n" \
             f"/pulse net {args.seconds} 10.0.2.2 {echo}\n"
    start("quiet", script, pulse, image, 1)
    log = until("the end of the measurement", lambda: (lambda text: text if
                "joist-guest: status" in text else None)(joist("logs", "quiet").stdout),
                args.seconds * 30 + 120)
    joist("rm", "-f", "quiet")
    got = {m[1]: {"per_s": int(m[2]) / float(m[3]), "p50_us": int(m[4]), "p99_us": int(m[5])}
           for m in re.finditer(r"pulse: (\w+) (\d+) ([\d.]+) (\d+) (\d+)", log)}
    if set(got) != {"cpu", "disk", "net"}:
        raise AssertionError(log)
    return got


def measure(args):
    with open(args.guest, "rb") as f:
        pulse = f.read()
    echo, sink = serve(True), serve(False)
    images = [disk(vmlib.home, n) for n in ("quiet.img", "hog.img")]
    cache = ",cache=none" if vmlib.joist("run", "--timeout", "0.1", "--kernel", args.guest, "--disk",
                                         images[0] + ",cache=none", code=None
                                         ).stderr.find("page cache") < 0 else ""
    images = [i + cache for i in images]
    rounds = []
    for _ in range(args.rounds):
        got = {"alone": quiet(args, pulse, images[0], echo)}
        for name, limits in (("beside", []), ("beside-limited", LIMITS)):
            start("hog", f"/pulse hog {os.cpu_count()} /dev/vda 10.0.2.2 {sink}\n", pulse, images[1],
                  os.cpu_count(), limits)
            vmlib.until_log("hog", "pulse: hogs", 300)
            got[name] = quiet(args, pulse, images[0], echo)
            joist("rm", "-f", "hog")
        for modes in got.values():
            for mode, r in modes.items():
                r["kept"] = r["per_s"] / got["alone"][mode]["per_s"]
                r["kept_of_share"] = min(r["kept"] / SHARE[mode], 1.0)
        rounds.append(got)
    return {name: {mode: {key: statistics.median(r[name][mode][key] for r in rounds) for key in figures}
                   for mode, figures in modes.items()} for name, modes in rounds[0].items()}, cache


def main():
    global engine
    ap = argparse.ArgumentParser()
    ap.add_argument("--joist", required=True)
    ap.add_argument("--guest", required=True)
    ap.add_argument("--seconds", type=int, default=5)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--engine", default="soft")
    ap.add_argument("--json")
    args = ap.parse_args()
    engine = args.engine
    try:
        vm.guest_file("vmlinuz-cloud")
    except vm.Skip as e:
        print(f"1..0 # SKIP {e}")
        return 0
    vmlib.joist_path = os.path.abspath(args.joist)
    with tempfile.TemporaryDirectory(prefix="joist-bench-", dir="/var/tmp") as vmlib.home:
        os.environ["XDG_DATA_HOME"] = vmlib.home + "/data"
        os.environ["XDG_RUNTIME_DIR"] = vmlib.home
        try:
            result, cache = measure(args)
        finally:
            vmlib.clean()
    print("1..3")
    for i, mode in enumerate(("cpu", "disk", "net"), 1):
        alone = result["alone"][mode]
        text = f"alone {alone['per_s']:.0f}/s p99 {alone['p99_us']:.0f} us"
        for name in ("beside", "beside-limited"):
            r = result[name][mode]
            text += f"; {name} {100 * r['kept']:.0f} % p99 {r['p99_us']:.0f} us, " \
                    f"{100 * r['kept_of_share']:.0f} % of its share"
        print(f"ok {i} - neighbour/{mode}: {text}")
    if args.json:
        with open(args.json, "w", encoding="ascii") as f:
            json.dump({"host_cpus": os.cpu_count(), "engine": engine, "disk_cache": cache or "writeback",
                       "limits": " ".join(LIMITS), "rounds": args.rounds, "load_before": os.getloadavg(), **result}, f, indent=1)
            f.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
