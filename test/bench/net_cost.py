#!/usr/bin/env python3
"""What network traffic costs in a VM's process: system calls, sleeps and CPU time by thread, interrupts and
frames in the guest, for a trip of 1 KiB there and back or for a MiB.

usage: net_cost.py --joist JOIST --guest PULSE [--only LOAD,...] [--trips N] [--mib N] [--rounds N]
                   [--net TEXT] [--json FILE]
Loads: trips, up (guest to host), down (host to guest), and lan-trips, lan-up: from one VM to another on a
named network; the threads of the one that answers are called "peer", and the sum is of both. PULSE is pulse.c, linked statically. Amounts are fixed,
so that the counts tell two builds apart on a computer that is busy with other things; CPU time does
so only roughly. Medians of the rounds. System calls are counted by perf where it may (root, or a
kernel.perf_event_paranoid of -1). TAP with a line a load, and a table; nothing passes or fails by them.
"""
import argparse
import glob
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(here, "../boot"), os.path.join(here, "../cli")]  # two are called vm
import vm  # noqa: E402
import vmlib  # noqa: E402

LOADS = ("trips", "up", "down", "lan-trips", "lan-up")
LAN = r"""cat >/tmp/dhcp <<'END'
#!/bin/sh
[ "$1" = bound ] && ip addr add $ip/$mask dev $interface && echo "net-cost: has $ip"
END
chmod +x /tmp/dhcp
ip link set eth0 up; udhcpc -i eth0 -s /tmp/dhcp -q -n -t 10 -T 1 2>/dev/null
"""
USER = "ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0\n"
SCRIPT = """
echo net-cost: begins; sleep 1
grep virtio /proc/interrupts; grep eth0 /proc/net/dev
%s
grep virtio /proc/interrupts; grep eth0 /proc/net/dev
echo net-cost: over; sleep 1
"""
SERVER = LAN + "/pulse serve 7000"


def threads(pid):
    """CPU time in us and sleeps, by a thread's name and number."""
    got = {}
    for path in glob.glob(f"/proc/{pid}/task/*"):
        try:
            with open(path + "/comm", encoding="ascii") as f:
                key = f.read().strip(), path.rsplit("/", 1)[1]
            with open(path + "/schedstat", encoding="ascii") as f:
                ran = int(f.read().split()[0]) / 1e3
            with open(path + "/status", encoding="ascii") as f:
                slept = int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", f.read(), re.M)[1])
        except OSError:
            continue
        got[key] = [ran, slept]
    return got


class Calls:
    """perf's count of system calls by thread, or none."""

    def __init__(self, pid):
        self.file = tempfile.NamedTemporaryFile("r", prefix="joist-cost-")
        self.process = None
        if shutil.which("perf"):
            self.process = subprocess.Popen(
                ["perf", "stat", "--per-thread", "-x,", "-e", "raw_syscalls:sys_enter", "-p", str(pid), "-o",
                 self.file.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self):
        if self.process:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
        # "NAME-NUMBER,COUNT,,raw_syscalls:sys_enter,..."
        found = re.findall(r"^(.*)-(\d+),(\d+),,raw", self.file.read(), re.M)
        return {tid: int(n) for _, tid, n in found} or None


def command(args, initrd, net):
    return [args.joist, "run", "--engine", args.engine, "-m", "128M", "--kernel", vm.guest_file("vmlinuz-cloud"),
            "--initrd", initrd, "--net", net, "--append",
            "console=ttyS0 quiet panic=-1 joist.modules=1 joist.script=test.sh"]


def start(args, pulse, script, net):
    initrd = vm.initrd_with({"pulse": pulse, "test.sh": script.encode()})
    return subprocess.Popen(command(args, initrd, net), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True, errors="replace")


def guest_counts(lines):
    """What came between the first and the second look: interrupts by queue, frames."""
    looks = {}
    for line in lines:
        if m := re.search(r"^\s*\d+:\s+(\d+) .*virtio\d+-(input|output)\.\d+$", line):
            looks.setdefault("irq " + m[2], []).append(int(m[1]))
        elif m := re.search(r"eth0:\s*\d+\s+(\d+)(?:\s+\d+){7}\s+(\d+)", line):
            looks.setdefault("frames in", []).append(int(m[1]))
            looks.setdefault("frames out", []).append(int(m[2]))
    return {k: v[1] - v[0] for k, v in looks.items() if len(v) == 2}


def once(args, load, pulse, ports):
    lan = load.startswith("lan-")
    kind = load[4:] if lan else load
    port = dict(zip(("trips", "up", "down"), (7000, 7001, 7002) if lan else ports))[kind]
    amount = args.trips if kind == "trips" else args.mib
    address = "10.0.2.2"
    server = start(args, pulse, SERVER, "cost") if lan else None
    p = None
    try:
        for line in server.stdout if server else []:
            if m := re.search(r"net-cost: has (\S+)", line):
                address = m[1]
            if "pulse: ports" in line:
                break
        work = f"/pulse {kind} {amount} {address} {port}"
        p = start(args, pulse, (LAN if lan else USER) + SCRIPT % work, "cost" if lan else args.net)
        lines, before, after, calls = [], None, None, None
        for line in p.stdout:
            lines.append(line.rstrip())
            if "net-cost: begins" in line:
                vms = {"": p.pid} | ({"peer ": server.pid} if server else {})
                calls = {who: Calls(pid) for who, pid in vms.items()}
                before = {who: threads(pid) for who, pid in vms.items()}
            elif "net-cost: over" in line:
                after = {who: threads(pid) for who, pid in vms.items()}
                calls = {who: c.end() for who, c in calls.items()}
        p.wait(60)
    finally:
        for q in (p, server):
            if q and q.poll() is None:
                q.kill()
                q.wait()
    if not after or f"pulse: {kind} {amount}" not in "\n".join(lines):
        raise AssertionError("\n".join(lines))
    got = {}
    for who, key in ((who, key) for who in after for key in after[who]):
        ran, slept = (a - b for a, b in zip(after[who][key], before[who].get(key, [0, 0])))
        t = got.setdefault(who + "thread " + (key[0] if key[1] != str(vms[who]) else "main"), {})
        t["us"] = t.get("us", 0) + ran / amount
        t["sleeps"] = t.get("sleeps", 0) + slept / amount
        if calls[who]:
            t["calls"] = t.get("calls", 0) + calls[who].get(key[1], 0) / amount
    got = {k: t for k, t in got.items() if t["us"] >= 0.5 or t["sleeps"] >= 0.01}
    got["all"] = {k: sum(t.get(k, 0) for t in got.values()) for k in ("us", "sleeps", "calls")}
    got["guest"] = {k: n / amount for k, n in guest_counts(lines).items()}
    return got


def medians(rounds):
    if isinstance(rounds[0], dict):
        keys = {k: 0 for r in rounds for k in r}
        return {k: medians([r[k] for r in rounds if k in r]) for k in keys}
    return round(statistics.median(rounds), 2)


def table(load, got):
    unit = "trip" if load.endswith("trips") else "MiB"
    print(f"# {load}, for a {unit}: " + ", ".join(f"{k} {n}" for k, n in got["guest"].items()))
    for name, t in got.items():
        if name != "guest":
            print(f"#   {name:20}" + "".join(f"{t[k]:9.2f} {w}" for k, w in (
                ("calls", "system calls"), ("sleeps", "sleeps"), ("us", "us")) if t.get(k) is not None))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--joist", required=True)
    ap.add_argument("--guest", required=True)
    ap.add_argument("--only", default=",".join(LOADS))
    ap.add_argument("--trips", type=int, default=10000)
    ap.add_argument("--mib", type=int, default=256)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--net", default="user,loopback")
    ap.add_argument("--engine", default="soft")
    ap.add_argument("--json")
    args = ap.parse_args()
    loads = args.only.split(",")
    if set(loads) - set(LOADS):
        ap.error(f"loads are {', '.join(LOADS)}")
    try:
        vm.guest_file("vmlinuz-cloud")
    except vm.Skip as e:
        print(f"1..0 # SKIP {e}")
        return 0
    args.joist = vmlib.joist_path = os.path.abspath(args.joist)
    with open(args.guest, "rb") as f:
        pulse = f.read()
    result = {}
    with tempfile.TemporaryDirectory(prefix="joist-bench-", dir="/var/tmp") as home:
        os.environ["XDG_DATA_HOME"] = home + "/data"
        os.environ["XDG_RUNTIME_DIR"] = home
        if any(l.startswith("lan-") for l in loads):
            vmlib.joist("network", "create", "cost")
        with subprocess.Popen([args.guest, "serve"], stdout=subprocess.PIPE, text=True,
                              start_new_session=True) as server:
            try:
                ports = server.stdout.readline().split()[2:]
                for load in loads:
                    result[load] = medians([once(args, load, pulse, ports) for _ in range(args.rounds)])
            finally:
                os.killpg(server.pid, signal.SIGKILL)
    print(f"1..{len(loads)}")
    for i, load in enumerate(loads, 1):
        table(load, result[load])
        a, unit = result[load]["all"], "trip" if load.endswith("trips") else "MiB"
        print(f"ok {i} - net-cost/{load}: a {unit} costs {a['calls']} system calls, {a['sleeps']} sleeps, "
              f"{a['us']} us of CPU time")
    if args.json:
        with open(args.json, "w", encoding="ascii") as f:
            json.dump({"host_cpus": os.cpu_count(), "engine": args.engine, "net": args.net, "trips": args.trips,
                       "mib": args.mib, "rounds": args.rounds, "load_before": os.getloadavg(),
                       "time": time.strftime("%F"), **result}, f, indent=1)
            f.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
