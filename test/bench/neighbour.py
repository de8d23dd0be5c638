#!/usr/bin/env python3
"""The noisy neighbour: what a quiet VM gets alone, beside a twin, and beside a VM that takes all it can.

usage: neighbour.py --joist JOIST --guest PULSE [--seconds N] [--rounds N] [--only MODE,...] [--limited]
                    [--crowded] [--json FILE]
PULSE is pulse.c, linked statically. All VMs have equal shares of everything.
  alone  the quiet VM, with one virtual CPU: one after the other it computes, reads and writes its disk, makes
         round trips over its network, copies memory, each for N seconds
  twin   beside another one that does the same at the same time. What it gets then is an equal share of this
         computer, by measurement: half of a disk or of a link, but of two CPUs a whole one, less what CPUs
         lose that are threads of one core, or share a cache, a memory, a host with others
  hog    beside a VM with as many virtual CPUs as the host, all of them busy, that at the same time writes its
         disk, sends over its network and copies all of its memory without pause
  limited  beside the same with limits (with --limited)
Other programs of the computer would have their part of what is measured. So as root, where there is a CPU
controller, all VMs together are one control group whose weight leaves the others next to nothing; within it the
kernel sees nothing but threads, as in the session of somebody who is logged in. Not with --crowded, nor as
another user: then each VM is a session of its own for the kernel, and so are others.
They take turns, N rounds. Throughput and the 99th percentile of a unit's time are medians of the rounds; what
is kept is the median of each round's own ratio, so that a host whose load changes slowly does not count:
"of its share" is hog/twin, which should be 90 % or more, "of alone" is hog/alone. TAP with a line for each
of CPU, disk, network and memory; the figures go to FILE. Nothing passes or fails by them.
"""
import argparse
import glob
import json
import os
import re
import statistics
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(here, "../boot"), os.path.join(here, "../cli")]  # two are called vm
import vm  # noqa: E402
import vmlib  # noqa: E402
from vmlib import joist, until  # noqa: E402

NET = "ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0\n"
MODES = ("cpu", "disk", "net", "mem")
LIMITS = ["--disk-limit", "10M,burst=1M,iops=200", "--net-limit", "10M,burst=1M", "--cpu-limit", "50%"]


class Apart:
    """A control group for all of this, beside which other programs weigh nothing."""
    WEIGHTS = ("cpu.weight", "10000"), ("cpu.shares", "262144")  # of v2, of v1

    def __init__(self):
        self.dir = None
        with open("/proc/self/mounts", encoding="ascii") as f:
            mounts = [line.split() for line in f]
        for _, where, kind, options, *_ in mounts:
            if kind != "cgroup2" and (kind != "cgroup" or "cpu" not in options.split(",")):
                continue
            path = f"{where}/joist-bench-{os.getpid()}"
            try:
                os.mkdir(path)
            except OSError:
                continue
            for name, value in self.WEIGHTS:
                if os.path.exists(f"{path}/{name}"):
                    self.dir, self.top = path, where
                    self.write(f"{path}/{name}", value)
                    self.write(f"{path}/cgroup.procs", str(os.getpid()))
                    return
            os.rmdir(path)

    @staticmethod
    def write(path, text):
        with open(path, "w", encoding="ascii") as f:
            f.write(text)

    def close(self):
        if self.dir:
            self.write(f"{self.top}/cgroup.procs", str(os.getpid()))
            try:
                until("the end of all VMs", lambda: not open(f"{self.dir}/cgroup.procs", encoding="ascii").read(), 20)
            finally:
                os.rmdir(self.dir)


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


class Gate:
    """Lets guests go on when `size` of them wait."""
    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=8)
        self.port = self.socket.getsockname()[1]
        self.size, self.waiting = 1, []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            self.waiting.append(self.socket.accept()[0])
            if len(self.waiting) < self.size:
                continue
            for c in self.waiting:
                c.sendall(b"x")
                c.close()
            self.waiting = []


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
    joist("run", "-d", "--engine", engine, "--name", name, "-c", str(cpus), "--kernel",
          vm.guest_file("vmlinuz-cloud"), "--initrd", keep, "--net", "user,loopback", "--append",
          "console=ttyS0 quiet panic=-1 joist.modules=1 joist.end=shell joist.script=test.sh",
          "--disk", image, *extra)


def start_quiet(args, name, pulse, image, servers, gate):
    works = {"cpu": "", "disk": "/dev/vda", "net": f"10.0.2.2 {servers.echo}", "mem": ""}
    script = "".join(f"/pulse gate 10.0.2.2 {gate.port}\n/pulse {mode} {args.seconds} {works[mode]}\n"
                     for mode in args.only)
    start(name, script, pulse, image, 1, ["-m", "128M"])


def serial(name):
    with open(os.path.join(vmlib.folder(name), "serial.log"), errors="replace", encoding="utf-8") as f:
        return f.read()


def watch(args, others, servers):
    """What the quiet VM did, and who had the CPUs meanwhile."""
    pid = {name: vmlib.inspect(name)["pid"] for name in ["quiet", *others]}
    groups = {name: lambda p=p: [p] for name, p in pid.items()} | {"servers": servers.pids}
    stamps = {}

    def ended():
        text = serial("quiet")
        for m in re.finditer(r"pulse: (begins \w+|\w+ \d)", text):
            if m[1] not in stamps:
                stamps[m[1]] = accounts(groups)
        return text if "joist-guest: status" in text else None
    log = until("the end of the measurement", ended, args.seconds * 40 + 240)
    got = {}
    for m in re.finditer(r"pulse: (\w+) (\d+) ([\d.]+) (\d+) (\d+)", log):
        got[m[1]] = {"per_s": int(m[2]) / float(m[3]), "p50_us": int(m[4]), "p99_us": int(m[5]),
                     **between(stamps["begins " + m[1]], stamps[f"{m[1]} {m[2][0]}"])}
    if set(got) != set(args.only):
        raise AssertionError(log)
    return got


def phase(args, name, pulse, images, servers, gate):
    """One of alone, twin, hog and limited."""
    others = {"alone": [], "twin": ["twin"]}.get(name, ["hog"])
    gate.size = 1 + (name == "twin")
    if others == ["hog"]:
        start("hog", f"/pulse hog {os.cpu_count()} /dev/vda 10.0.2.2 {servers.taker}\n", pulse, images[1],
              os.cpu_count(), ["-m", args.hog_memory] + (LIMITS if name == "limited" else []))
        vmlib.until_log("hog", "pulse: hogs", 300)
    elif others:
        start_quiet(args, "twin", pulse, images[1], servers, gate)
    start_quiet(args, "quiet", pulse, images[0], servers, gate)
    got = watch(args, others, servers)
    for vm_name in ["quiet", *others]:
        joist("rm", "-f", vm_name)
    return got


def measure(args, servers):
    with open(args.guest, "rb") as f:
        pulse = f.read()
    images = [disk(vmlib.home, n) for n in ("quiet.img", "other.img")]
    cache = ",cache=none" if vmlib.joist("run", "--timeout", "0.1", "--kernel", args.guest, "--disk",
                                         images[0] + ",cache=none", code=None
                                         ).stderr.find("page cache") < 0 else ""
    images = [i + cache for i in images]
    gate, rounds = Gate(), []
    phases = ["alone", "twin", "hog"] + ["limited"] * args.limited
    for _ in range(args.rounds):
        got = {name: phase(args, name, pulse, images, servers, gate) for name in phases}
        for modes in got.values():
            for mode, r in modes.items():
                r["of_alone"] = r["per_s"] / got["alone"][mode]["per_s"]
                r["of_share"] = r["per_s"] / got["twin"][mode]["per_s"]
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
    ap.add_argument("--limited", action="store_true")
    ap.add_argument("--hog-memory", default="512M")
    ap.add_argument("--engine", default="soft")
    ap.add_argument("--only", type=lambda text: text.split(","), default=MODES)
    ap.add_argument("--crowded", action="store_true")
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
        apart = None if args.crowded else Apart()
        try:
            servers = Servers(args.guest)
            try:
                result, cache = measure(args, servers)
            finally:
                servers.close()
                vmlib.clean()
        finally:
            if apart:
                apart.close()
    print(f"1..{len(args.only)}")
    print("# other programs: " + ("next to nothing is left to them" if apart and apart.dir else "have their part"))
    for i, mode in enumerate(args.only, 1):
        for name in result:
            r = result[name][mode]
            print(f"# {mode} {name}: CPUs had " + ", ".join(f"{k} {v:.2f}" for k, v in r["cpus"].items()) +
                  f", all others {r['others_cpus']:.2f}" +
                  "; in line for " + ", ".join(f"{k} {v:.2f}" for k, v in r["in_line"].items()))
        text = "; ".join(f"{name} {r[mode]['per_s']:.1f}/s p99 {r[mode]['p99_us']:.0f} us"
                         for name, r in result.items())
        for name in result:
            if name in ("hog", "limited"):
                r = result[name][mode]
                text += f"; beside {name} {100 * r['of_share']:.0f} % of its share, {100 * r['of_alone']:.0f} % of alone"
        print(f"ok {i} - neighbour/{mode}: {text}")
    if args.json:
        with open(args.json, "w", encoding="ascii") as f:
            json.dump({"host_cpus": os.cpu_count(), "apart": bool(apart and apart.dir), "engine": engine, "disk_cache": cache or "writeback",
                       "hog_memory": args.hog_memory, "limits": " ".join(LIMITS), "rounds": args.rounds,
                       "load_before": os.getloadavg(), **result}, f, indent=1)
            f.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
