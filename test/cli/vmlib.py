"""What the tests of kept VMs stand on: a data folder of their own, the program, cases, TAP.

Nothing of the user's VMs is touched: XDG_DATA_HOME and XDG_RUNTIME_DIR lead to a temporary folder,
and whatever is left running at the end is removed.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # the source folder stays clean
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../common"))
from waiting import until  # noqa: E402

GUEST = os.environ.get("JOIST_CACHE", os.path.join(os.getcwd(), "build/guest"))
joist_path = None
home = None
cases = []


class Skip(Exception):
    pass


def case(fn):
    cases.append(fn)
    return fn


def joist(*args, code=0, timeout=120, stdin=None, **kw):
    """Runs the program; code None: any exit code will do."""
    data = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    p = subprocess.run([joist_path, *args], capture_output=True, text=True, timeout=timeout, **data,
                       **kw)
    if code is not None and p.returncode != code:
        raise AssertionError(f"joist {' '.join(args)}: exit code {p.returncode}, not {code}\n"
                             f"{p.stdout}{p.stderr}")
    return p


def refused(code, *args, says=()):
    p = joist(*args, code=code)
    for part in [says] if isinstance(says, str) else says:
        if part not in p.stderr:
            raise AssertionError(f"{part!r} is not in {p.stderr!r}")
    return p


def same(got, want, what):
    if got != want:
        raise AssertionError(f"{what}: {got!r}, not {want!r}")


def has(text, part):
    if part not in text:
        raise AssertionError(f"{part!r} is not in {text!r}")


def inspect(name):
    return json.loads(joist("inspect", name).stdout)


def until_log(name, text, seconds=120):
    until(f"{text!r} in the log of {name}", lambda: text in joist("logs", name).stdout, seconds)


def guest_file(name):
    path = os.path.join(GUEST, name)
    if not os.path.exists(path):
        raise Skip(f"no {name}; tools/fetch-guest makes it")
    return path


def busybox(*extra, append=""):
    """Options of a VM with the small guest."""
    return ["--kernel", guest_file("vmlinuz-cloud"), "--initrd", guest_file("initramfs.cpio.gz"),
            "-m", "128M", "--append", "console=ttyS0 quiet panic=-1 " + append, *extra]


def folder(name):
    return os.path.join(home, "data/joist/vms", name)


def alive(pid):
    """Any thread of it: the first may be a zombie while others still hold what they have open."""
    def runs(task):
        try:
            with open(f"/proc/{pid}/task/{task}/stat", encoding="ascii") as f:
                return f.read().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False
    try:
        return any(runs(task) for task in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return False


def clean():
    """No VM is left."""
    for name in joist("ls", "-aq", code=None).stdout.split():
        joist("rm", "-f", name, code=None)


def image():
    """The image debian, built or taken over (JOIST_IMAGES) once."""
    if "debian" in joist("image", "ls", "-q").stdout.split():
        return "debian"
    given = os.environ.get("JOIST_IMAGES")
    if given:
        target = os.path.join(home, "data/joist/images/debian")
        subprocess.run(["cp", "-a", "--sparse=always", "--reflink=auto",
                        os.path.join(given, "debian"), target], check=True)
        return "debian"
    if not shutil.which("mmdebstrap"):
        raise Skip("no mmdebstrap (apt-get install mmdebstrap)")
    joist("image", "build", "debian", timeout=1800)
    return "debian"


def keep(fn):
    """A case whose VMs are the next one's, too."""
    fn.keeps = True
    return fn


def main(argv):
    global joist_path, home
    joist_path = os.path.abspath(argv[1])
    wanted = argv[2:]
    home = tempfile.mkdtemp(prefix="joist-vm-")
    os.environ["XDG_DATA_HOME"] = os.path.join(home, "data")
    os.environ["XDG_RUNTIME_DIR"] = os.path.join(home, "run")
    os.mkdir(os.path.join(home, "run"), 0o700)
    todo = [fn for fn in cases if not wanted or fn.__name__ in wanted]
    print(f"1..{len(todo)}", flush=True)
    failed = 0
    try:
        for i, fn in enumerate(todo, 1):
            began = time.monotonic()
            try:
                note = fn()
                print(f"ok {i} - {fn.__name__}: " +
                      (note or f"{time.monotonic() - began:.1f} s"))
            except Skip as e:
                print(f"ok {i} - {fn.__name__} # SKIP {e}")
            except Exception as e:  # a failing case must not hide the others
                failed += 1
                print(f"not ok {i} - {fn.__name__}")
                for line in f"{type(e).__name__}: {e}".splitlines():
                    print(f"# {line}")
            sys.stdout.flush()
            if not getattr(fn, "keeps", False):  # a case may leave its VMs to the next
                clean()
    finally:
        clean()
        shutil.rmtree(home, ignore_errors=True)
    return 1 if failed else 0
