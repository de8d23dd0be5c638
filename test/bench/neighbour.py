#!/usr/bin/env python3
"""The noisy neighbour: what a quiet VM gets alone, beside a VM that takes all it can, and beside
the same one with limits.

usage: neighbour.py --joist JOIST --guest PULSE [--seconds N] [--rounds N] [--json FILE]
PULSE is pulse.c, linked statically. The quiet VM has one virtual CPU; the hog has as many as the
host, all of them busy, writes its disk and sends over its network without pause. Both have equal
shares of everything. Alone, beside and limited take turns, N rounds; each figure is the median of the
rounds, and what is kept the median of each round's own ratio, so that a host whose load changes
slowly does not count.

What the quiet one's share is: of the CPUs, half of what all others than the two VMs leave (the servers
that they talk to are others), or the one CPU that it can use if that is less; of the network, too,
since its round trips fill no link: there it should keep what it has alone.
Its disk's reads follow each other without a pause, so that alone it has the disk all the time, and
its share is half of that. The last figure, kept of the share, should be 90 % or more. TAP with a
line for each of CPU, disk and network; the figures go to FILE. Nothing passes or fails by them.
"""
import argparse
import glob
import json
import os
import re
import statistics
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(here, "../boot"), os.path.join(here, "../cli")]  # two are called vm
import vm  # noqa: E402
import vmlib  # noqa: E402
from vmlib import joist, until  # noqa: E402

NET = "ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0\n"
SHARE = {"cpu": 1.0, "disk": 0.5, "net": 1.0}  # of what it gets alone
LIMITS = ["--disk-limit", "10M,burst=1M,iops=200", "--net-limit", "10M,burst=1M", "--cpu-limit", "50%"]


class Servers:
    """What the VMs talk to, in a session of its own: it belongs to neither."""
    def __init__(self, pulse):
        self.process = subprocess.Popen([pulse, "serve"], stdout=subprocess.PIPE, text=True,
                                        start_new_session=True)
        _, _, self.echo, self.taker, _ = self.process.stdout.readline().split()

    def pids(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as f:
            return [self.process.pid, *map(int, f.read().split())]

    def close(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def account(pids):
    """CPU seconds that the threads of these got, and those for which they stood in line."""
    ran = waited = 0
    for pid in pids:
        for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
            try:
                with open(path, encoding="ascii") as f:
                    got = f.read().split()
            except OSError:
                continue
            ran, waited = ran + int(got[0]) / 1e9, waited + int(got[1]) / 1e9
    return ran, waited


def accounts(groups):
    with open("/proc/stat", encoding="ascii") as f:
        n = [int(x) for x in f.readline().split()[1:]]
    # All but what is idle, waits for a disk, or is a guest's (which is in the user's already).
    busy = (sum(n[:3]) + sum(n[5:8])) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), {name: account(pids()) for name, pids in groups.items()}, busy


def between(a, b):
    """Who had how many CPUs, and stood in line for how many, from one to the other."""
    got = {key: {name: round((b[1][name][i] - a[1][name][i]) / (b[0] - a[0]), 3) for name in a[1]}
           for i, key in enumerate(("cpus", "in_line"))}
    vms = sum(cpus for name, cpus in got["cpus"].items() if name != "servers")
    got["others_cpus"] = round(max((b[2] - a[2]) / (b[0] - a[0]) - vms, 0), 3)
    return got


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


def quiet(args, pulse, image, servers, hog=False):
    script = f"/pulse cpu {args.seconds}\n/pulse disk {args.seconds} /dev/vda\n" \
             f"/pulse net {args.seconds} 10.0.2.2 {servers.echo}\n"
    start("quiet", script, pulse, image, 1)
    pid = {name: vmlib.inspect(name)["pid"] for name in ["quiet"] + ["hog"] * hog}
    groups = {name: lambda p=p: [p] for name, p in pid.items()} | {"servers": servers.pids}
    log, stamps = os.path.join(vmlib.folder("quiet"), "serial.log"), {}

    def ended():
        with open(log, errors="replace", encoding="utf-8") as f:
            text = f.read()
        for m in re.finditer(r"pulse: (begins \w+|\w+ \d)", text):
            if m[1] not in stamps:
                stamps[m[1]] = accounts(groups)
        return text if "joist-guest: status" in text else None
    log = until("the end of the measurement", ended, args.seconds * 30 + 120)
    joist("rm", "-f", "quiet")
    got = {}
    for m in re.finditer(r"pulse: (\w+) (\d+) ([\d.]+) (\d+) (\d+)", log):
        got[m[1]] = {"per_s": int(m[2]) / float(m[3]), "p50_us": int(m[4]), "p99_us": int(m[5]),
                     **between(stamps["begins " + m[1]], stamps[f"{m[1]} {m[2][0]}"])}
    if set(got) != {"cpu", "disk", "net"}:
        raise AssertionError(log)
    return got


def measure(args, servers):
    with open(args.guest, "rb") as f:
        pulse = f.read()
    images = [disk(vmlib.home, n) for n in ("quiet.img", "hog.img")]
    cache = ",cache=none" if vmlib.joist("run", "--timeout", "0.1", "--kernel", args.guest, "--disk",
                                         images[0] + ",cache=none", code=None
                                         ).stderr.find("page cache") < 0 else ""
    images = [i + cache for i in images]
    rounds = []
    for _ in range(args.rounds):
        got = {"alone": quiet(args, pulse, images[0], servers)}
        for name, limits in (("beside", []), ("beside-limited", LIMITS)):
            start("hog", f"/pulse hog {os.cpu_count()} /dev/vda 10.0.2.2 {servers.taker}\n", pulse, images[1],
                  os.cpu_count(), limits)
            vmlib.until_log("hog", "pulse: hogs", 300)
            got[name] = quiet(args, pulse, images[0], servers, True)
            joist("rm", "-f", "hog")
        for modes in got.values():
            for mode, r in modes.items():
                r["kept"] = r["per_s"] / got["alone"][mode]["per_s"]
                share = SHARE[mode]
                if mode == "cpu" and "hog" in r["cpus"]:
                    share = min(share, max(os.cpu_count() - r["others_cpus"], 0.1) / 2)
                r["kept_of_share"] = min(r["kept"] / share, 1.0)
        rounds.append(got)
    return medians(rounds), cache


def medians(rounds):
    if isinstance(rounds[0], dict):
        return {key: medians([r[key] for r in rounds]) for key in rounds[0]}
    return statistics.median(rounds)


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
        servers = Servers(args.guest)
        try:
            result, cache = measure(args, servers)
        finally:
            servers.close()
            vmlib.clean()
    print("1..3")
    for i, mode in enumerate(("cpu", "disk", "net"), 1):
        for name in result:
            r = result[name][mode]
            print(f"# {mode} {name}: CPUs had " + ", ".join(f"{k} {v:.2f}" for k, v in r["cpus"].items()) +
                  f", all others {r['others_cpus']:.2f}" +
                  "; in line for " + ", ".join(f"{k} {v:.2f}" for k, v in r["in_line"].items()))
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
