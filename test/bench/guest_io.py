#!/usr/bin/env python3
"""fio and iperf3 in a Debian guest, in Joist and in QEMU's TCG, with the same image and in turn.

usage: guest_io.py --joist JOIST [--image FOLDER] [--rounds N] [--seconds N] [--json FILE]
FOLDER is an image as `joist image build debian --include fio,iperf3` makes it; without one it is built
once, below build/guest (minutes). The guest has 512 MiB and one virtual CPU; the disk is a raw file
of 256 MiB behind virtio-blk, both hosts with their page cache; the network is user mode NAT to
iperf3 on the host. Its kernel starts a script instead of systemd. TAP: a line each, medians of
the rounds; the figures go to FILE. Nothing passes or fails by them.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

SCRIPT = r"""
mount -t tmpfs none /tmp; mount -t tmpfs none /run; mount -t proc proc /proc 2>/dev/null
ip link set lo up; for i in /sys/class/net/e*; do ip link set ${i##*/} up; ip addr add 10.0.2.15/24 dev ${i##*/}; done
cd /tmp
job() { # name, fio's options
	n=$1; shift
	fio --name=$n --filename=/dev/vdc --direct=1 --ioengine=libaio --time_based --runtime=SECONDS \
		--ramp_time=1 --randrepeat=1 --output-format=json "$@" >$n.json 2>$n.err || cat $n.err
	sed 's/^/fio-'$n' /' $n.json
}
job randread --rw=randread --bs=4k --iodepth=8
job randwrite --rw=randwrite --bs=4k --iodepth=8
job latency --rw=randread --bs=4k --iodepth=1
job seqread --rw=read --bs=1M --iodepth=4
iperf3 -c 10.0.2.2 -p PORT -t SECONDS -J | sed 's/^/iperf-up /'
sleep 1
iperf3 -c 10.0.2.2 -p PORT -t SECONDS -R -J | sed 's/^/iperf-down /'
echo bench-over
sync; echo o >/proc/sysrq-trigger; sleep 10
"""


def image(args):
    if args.image:
        return args.image
    cache = os.environ.get("JOIST_CACHE", os.path.join(os.getcwd(), "build/guest"))
    data = os.path.join(cache, "bench-data")
    folder = os.path.join(data, "joist/images/bench")
    if not os.path.exists(folder):
        if not shutil.which("mmdebstrap"):
            print("1..0 # SKIP no mmdebstrap to make an image with (apt-get install mmdebstrap)")
            sys.exit(0)
        subprocess.run([args.joist, "image", "build", "debian", "--name", "bench", "--include",
                        "fio,iperf3", "--size", "3G", "-q"], check=True, timeout=1800,
                       env=dict(os.environ, XDG_DATA_HOME=data), stdout=subprocess.DEVNULL)
    return folder


def parts(text, mark):
    """The JSON whose lines begin with a mark."""
    # A firmware's last escape sequence may stand before the first one.
    lines = [l.split(mark + " ", 1)[1] for l in text.splitlines() if mark + " " in l]
    while lines and lines[0] != "{":
        lines.pop(0)  # what fio says beforehand
    return json.loads("\n".join(lines))


def figures(out):
    r = {}
    for job, way in (("randread", "read"), ("randwrite", "write"), ("latency", "read"), ("seqread", "read")):
        j = parts(out, "fio-" + job)["jobs"][0][way]
        if job == "seqread":
            r["seqread_mb_s"] = j["bw_bytes"] / 1e6
        elif job == "latency":
            r["read_4k_p50_us"] = j["clat_ns"]["percentile"]["50.000000"] / 1e3
            r["read_4k_p99_us"] = j["clat_ns"]["percentile"]["99.000000"] / 1e3
        else:
            r[job + "_4k_iops"] = j["iops"]
    for way in ("up", "down"):
        r[f"tcp_{way}_mbit_s"] = parts(out, "iperf-" + way)["end"]["sum_received"]["bits_per_second"] / 1e6
    return r


def commands(args, folder, work):
    """How each boots the same thing."""
    script, data = os.path.join(work, "script"), os.path.join(work, "data")
    with open(data, "wb") as f:
        for _ in range(256):
            f.write(os.urandom(1 << 20))
    port = 20000 + os.getpid() % 20000
    text = SCRIPT.replace("SECONDS", str(args.seconds)).replace("PORT", str(port))
    with open(script, "wb") as f:
        f.write(text.encode().ljust(64 << 10, b"\n"))
    kernel, initrd, root = (os.path.join(folder, n) for n in ("vmlinuz", "initrd", "disk.raw"))
    append = 'root=/dev/vda ro console=ttyS0 quiet panic=-1 init=/bin/sh -- /dev/vdb'
    kinds = {"joist": [os.path.abspath(args.joist), "run", "-q", "--engine", args.engine, "-m", "512M",
                       "--no-reboot", "--kernel", kernel, "--initrd", initrd, "--append", append,
                       "--disk", root + ",ro", "--disk", script + ",ro", "--disk", data,
                       "--net", "user,loopback"]}
    qemu = shutil.which("qemu-system-x86_64")
    if qemu:
        drives = []
        for i, (f, ro) in enumerate(((root, "on"), (script, "on"), (data, "off"))):
            drives += ["-drive", f"if=none,id=d{i},format=raw,file={f},readonly={ro}",
                       "-device", f"virtio-blk-pci,drive=d{i}"]
        kinds["qemu-tcg"] = [qemu, "-accel", "tcg", "-cpu", "max", "-m", "512", "-nographic", "-no-reboot",
                             "-kernel", kernel, "-initrd", initrd, "-append", append, *drives,
                             "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"]
    return kinds, port


def measure(args, folder):
    got = {}
    with tempfile.TemporaryDirectory(prefix="joist-io-", dir="/var/tmp") as work:
        kinds, port = commands(args, folder, work)
        with subprocess.Popen(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(port)],
                              stdout=subprocess.DEVNULL) as server:
            try:
                for _ in range(args.rounds):
                    for name, command in kinds.items():
                        p = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                                           timeout=args.seconds * 30 + 300)
                        out = p.stdout.decode(errors="replace").replace("\r", "")
                        if "bench-over" not in out:
                            raise RuntimeError(f"{name}: {out[-2000:]}{p.stderr.decode()[-500:]}")
                        for key, value in figures(out).items():
                            got.setdefault(key, {}).setdefault(name, []).append(value)
            finally:
                server.terminate()
    return got


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--joist", required=True)
    ap.add_argument("--image")
    ap.add_argument("--rounds", type=int, default=1)
    ap.add_argument("--seconds", type=int, default=6)
    ap.add_argument("--engine", default="soft")
    ap.add_argument("--json")
    args = ap.parse_args()
    if not shutil.which("iperf3"):
        print("1..0 # SKIP no iperf3 here (apt-get install iperf3)")
        return 0
    got = measure(args, image(args))
    print(f"1..{len(got)}")
    for i, (key, by) in enumerate(got.items(), 1):
        cells = ", ".join(f"{name} {statistics.median(v):.1f}" for name, v in by.items())
        print(f"ok {i} - guest_io/{key}: {cells}")
    if args.json:
        with open(args.json, "w", encoding="ascii") as f:
            json.dump({"engine": args.engine, "rounds": args.rounds, "seconds": args.seconds,
                       "load_after": os.getloadavg(), "figures": got}, f, indent=1)
            f.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
