"""What the tests of `joist disk` beside qemu-img share."""
import os
import random
import shutil
import subprocess
import sys
import tempfile

JOIST = os.path.abspath(sys.argv[1])
MIB = 1 << 20


class Failed(Exception):
    pass


def run(*args, code=0):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, text=True)
    if code is not None and p.returncode != code:
        raise Failed(f"{' '.join(args)}: exit code {p.returncode}: {p.stdout.strip()}")
    return p.stdout


def joist(*args, code=0):
    return run(JOIST, "disk", *args, code=code)


def qemu_check(path):
    run("qemu-img", "check", "-f", "qcow2", path)


def same(a, fa, b, fb):
    run("qemu-img", "compare", "-f", fa, "-F", fb, a, b)


def make_raw(path, size, seed):
    """Data, zeroes and holes, all of them at odd places."""
    r = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        at = 0
        while at < size:
            n = min(size - at, 512 * r.randrange(1, 600))
            kind = r.randrange(3)
            if kind:
                f.seek(at)
                f.write(r.randbytes(n) if kind == 1 else bytes([r.randrange(256)]) * n)
            at += n


def write_some(path, fmt, seed, size):
    """The same writes into any image, by qemu-io."""
    r = random.Random(seed)
    args = ["qemu-io", "-f", fmt]
    for _ in range(12):
        at = 512 * r.randrange(size // 512 - 200)
        n = 512 * r.randrange(1, 200)
        what = r.choice(["write -P %d" % r.randrange(1, 255), "write -z", "write -P 7"])
        args += ["-c", f"{what} {at} {n}"]
    run(*args, path)


def clean(*keep):
    """Removes all files of this folder but these."""
    for f in os.listdir("."):
        if f not in keep:
            os.remove(f)


def main(cases):
    """Each case in a folder of its own; TAP."""
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("1..0 # SKIP qemu-img is not installed (package qemu-utils)")
        return 0
    wanted = sys.argv[2:]
    cases = [c for c in cases if not wanted or c.__name__ in wanted]
    failed = 0
    print(f"1..{len(cases)}")
    for i, case in enumerate(cases, 1):
        folder = tempfile.mkdtemp(prefix="joist-images-")
        os.chdir(folder)
        try:
            case()
            print(f"ok {i} - {case.__name__}", flush=True)
        except (Failed, subprocess.TimeoutExpired, OSError) as e:
            failed = 1
            print("# " + str(e).replace("\n", "\n# "))
            print(f"not ok {i} - {case.__name__}", flush=True)
        os.chdir("/")
        shutil.rmtree(folder)
    return failed
