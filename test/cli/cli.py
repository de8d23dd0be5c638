#!/usr/bin/env python3
"""The command line from outside: messages, exit codes, help, completion, the terminal.

usage: cli.py JOIST
Cases that need a guest kernel use build/guest (tools/fetch-guest) and are skipped without it.
"""
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time

sys.dont_write_bytecode = True  # the source folder stays clean
from vmlib import Skip, has, same, until  # noqa: E402
from waiting import Child, Output  # noqa: E402

JOIST = os.path.abspath(sys.argv[1])
GUEST = os.environ.get("JOIST_CACHE", os.path.join(os.getcwd(), "build/guest"))
KERNEL = os.path.join(GUEST, "vmlinuz-cloud")
cases = []


def case(fn):
    cases.append(fn)
    return fn


def joist(*args, timeout=120, **kw):
    return subprocess.run([JOIST, *args], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, **kw)


def refused(args, code, *parts):
    p = joist(*args)
    same(p.returncode, code, "exit code of " + " ".join(args))
    same(p.stdout, "", "stdout")
    for part in parts:
        has(p.stderr, part)
    for line in p.stderr.splitlines():
        if not line.startswith(("joist", "Try ")):
            raise AssertionError(f"a line that is no message: {line!r}")


def need_kernel():
    if not os.path.exists(KERNEL):
        raise Skip("no guest kernel; tools/fetch-guest takes one")
    return KERNEL


@case
def version():
    p = joist("--version")
    same(p.returncode, 0, "exit code")
    if not re.fullmatch(r"joist \d+\.\d+\.\d+\n", p.stdout):
        raise AssertionError(p.stdout)
    same(joist("version").stdout, p.stdout, "verb and option")
    j = json.loads(joist("version", "--json").stdout)
    same(p.stdout, f"joist {j['version']}\n", "version in JSON")
    assert j["engines"] == ["kvm", "soft"] and "pc" in j["boards"], j


@case
def no_arguments():
    p = joist()
    same((p.returncode, p.stderr), (2, ""), "exit code, and no complaint")
    same(p.stdout, joist("--help").stdout, "what one gets to see")


@case
def groups():
    """The first word of two: its commands, whichever way one asks."""
    for group, verb in (("image", "build"), ("port", "add"), ("network", "create"), ("disk", "info")):
        text = joist("help", group).stdout
        has(text, f"  {group} {verb} ")
        for args, code in (((group,), 2), ((group, "--help"), 0), ((group, "-h"), 0)):
            p = joist(*args)
            same((p.returncode, p.stdout, p.stderr), (code, text, ""), " ".join(args))
        refused([group, "frobnicate"], 2, f"unknown command {group} frobnicate", f"joist {group} --help")


@case
def help_everywhere():
    p = joist("--help")
    same(p.returncode, 0, "exit code")
    verbs = re.findall(r"^  (\w[\w -]*?)  ", p.stdout, re.MULTILINE)
    assert {"run", "doctor", "version", "help", "completion", "ls", "stop"} <= set(verbs), verbs
    for v in verbs:
        a, b = joist(*v.split(), "--help"), joist("help", *v.split())
        same(a.returncode, 0, v + " --help")
        same(a.stdout, b.stdout, "both ways to help of " + v)
        has(a.stdout, "Usage: joist " + v)
        for line in a.stdout.splitlines():
            assert len(line) <= 80, line
    same(joist("run", "--kernel", "x", "-h", "--nonsense").returncode, 0, "help wins")


@case
def disk_verbs():
    """What people mistype; test/block/images.py has what the verbs do."""
    with tempfile.TemporaryDirectory() as d:
        disk, raw = os.path.join(d, "a.qcow2"), os.path.join(d, "a.raw")
        refused(["disk", "create", disk], 2, "needs a size, as 20G, or --backing FILE")
        refused(["disk", "create", disk, "12X"], 2, "12X")
        same(joist("disk", "create", disk, "8M").returncode, 0, "exit code")
        refused(["disk", "create", disk, "8M"], 4, "exists already; nothing was changed")
        refused(["disk", "create", raw, "1M", "--backing", disk], 2, "a raw image has no backing file")
        info = json.loads(joist("disk", "info", "--json", disk).stdout)
        same((info["format"], info["size"]), ("qcow2", 8 << 20), "format and size")
        refused(["disk", "info", os.path.join(d, "none.qcow2")], 3, "No such file")
        refused(["disk", "resize", disk, "4M"], 1, "--shrink")
        refused(["disk", "convert", disk, disk], 4, "exists already")
        refused(["disk", "convert", "-c", "lzo", disk, raw], 2, "not one of: zlib zstd")
        refused(["disk", "convert", "-c", "zstd", disk, raw], 1, "only qcow2 images can be compressed")
        assert not os.path.exists(raw)
        named = os.path.join(d, "named")  # as with qemu-img
        same(joist("disk", "create", "-f", "qcow2", named, "8M").returncode, 0, "create -f")
        same(joist("disk", "convert", "-f", "qcow2", "-O", "qcow2", named, named + "2").returncode, 0,
             "convert -f -O")
        same(json.loads(joist("disk", "info", "--json", "qcow2:" + named + "2").stdout)["format"], "qcow2",
             "what it made")
        same(joist("disk", "rebase", "qcow2:" + named, "").returncode, 0, "rebase to nothing")
        refused(["disk", "rebase", disk, os.path.join(d, "gone.raw")], 3, "No such file")
        refused(["disk", "commit", disk], 1, "backing file")
        with open(disk, "r+b") as f:
            f.write(b"QFI\xfb\0\0\0\x09")
        refused(["disk", "check", disk], 5, "version 9")
        same(joist("disk", "create", raw, "1M").returncode, 0, "exit code")
        with open(raw, "r+b") as f:
            f.write(b"QFI\xfb\0\0\0\3")
        refused(["disk", "info", raw], 1, "use qcow2:", "or raw:")


@case
def unknown_words():
    refused(["rnu"], 2, "unknown command rnu", "did you mean run?")
    refused(["frobnicate"], 2, "unknown command frobnicate")
    refused(["--frob"], 2, "unknown option --frob")
    refused(["run", "--memroy", "1G"], 2, "did you mean --memory?")
    refused(["run", "--memroy=1G"], 2, "unknown option --memroy", "did you mean --memory?")
    refused(["run", "-Z"], 2, "unknown option -Z")
    refused(["help", "docter"], 2, "did you mean doctor?")
    refused(["run", "--network", "lab"], 2, "did you mean --net?")
    refused(["run", "--vcpus=2"], 2, "did you mean --cpus?")


@case
def habits():
    """Words of docker, virsh and multipass."""
    for word, verb in (("images", "image ls"), ("list", "ls"), ("shell", "ssh"), ("info", "inspect")):
        has(joist("help", word).stdout, "Usage: joist " + verb + " ")
        same(joist(word, "--help").stdout, joist("help", *verb.split()).stdout, word)
    refused(["delete", "x"], 2, "did you mean rm?")
    # It takes the power away with virsh and the disks with vagrant.
    refused(["destroy", "x"], 2, "did you mean stop -f, or rm?")
    refused(["run", "-it", "debian", "bash"], 2, "too many arguments: bash", "joist exec VM")
    with tempfile.TemporaryDirectory() as d:
        p = joist("run", "-it", "debian", env=dict(os.environ, XDG_DATA_HOME=d))
        same(p.returncode, 3, "exit code without the image")
        has(p.stderr, "no image debian; 'joist image build debian'")


@case
def words_of_others_in_messages():
    """What a message quotes cannot move the cursor, nor fill the terminal."""
    with tempfile.TemporaryDirectory() as d:
        p = joist("inspect", "a\033[31m\nb", env=dict(os.environ, XDG_DATA_HOME=d))
    has(p.stderr, "no VM a?[31m?b;")
    assert len(joist("run", "--name", "x" * 100000).stderr) < 3000


@case
def bad_values():
    refused(["run", "--memory"], 2, "--memory needs SIZE")
    for v in ("12Q", "", "M", "-1", "1.5G", "99999999999999999999", "99999999999T", "1Gx"):
        refused(["run", "--memory", v], 2, f"--memory {v}: not a size")
    for v in ("1", "4097", "1M", "900T"):
        refused(["run", "--kernel", "x", "--memory", v], 2, f"--memory {v}: a multiple of 4K")
    for v in ("0", "1000"):
        refused(["run", "--kernel", "x", "--cpus", v], 2, f"--cpus {v}")
    refused(["run", "--cpus", "two"], 2, "not a number")
    refused(["run", "--board", "q35"], 2, "not one of: pc micro")
    refused(["run", "--cpu-model", "z80"], 2, "not one of: host")
    refused(["run", "--kernel", "x", "--engine", "tcg"], 2, "no engine tcg", "soft")
    refused(["run", "--name", "UPPER"], 2, "not a name")
    refused(["run", "--timeout", "soon"], 2, "not a time")
    refused(["run", "--no-reboot=1"], 2, "takes no value")
    refused(["run", "a", "b"], 2, "too many arguments: b")
    refused(["doctor", "x"], 2, "takes no argument")
    refused(["run"], 2, "needs an image", "--kernel FILE")
    refused(["run", "--kernel", "a", "b"], 2, "which is the kernel?")
    refused(["completion"], 2, "needs bash|zsh|fish")
    refused(["completion", "tcsh"], 2, "no completion for tcsh")


@case
def missing_files():
    refused(["run", "--kernel", "/nowhere/vmlinuz"], 3, "kernel /nowhere/vmlinuz: No such file")
    refused(["run", "--kernel", "/"], 1, "not a regular file")
    refused(["run", "--kernel", "/dev/null"], 1, "not a regular file")
    with tempfile.NamedTemporaryFile() as empty:
        refused(["run", "--kernel", empty.name], 1, "is empty")
    k = need_kernel()
    refused(["run", k, "--initrd", "/nowhere/initrd"], 3, "initrd /nowhere/initrd: No such file")
    refused(["run", k, "--disk", "/nowhere/disk"], 3, "disk /nowhere/disk: No such file")


@case
def bad_kernels():
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "kernel")
        with open(path, "wb") as f:
            f.write(b"this is no kernel at all\n" * 400)
        p = joist("run", path)
        same(p.returncode, 1, "exit code of a text file")
        has(p.stderr, path)
        k = need_kernel()
        with open(k, "rb") as f:
            start = f.read(100000)
        with open(path, "wb") as f:
            f.write(start)
        p = joist("run", path)
        same(p.returncode, 1, "exit code of a truncated kernel")
        has(p.stderr, "truncated")


@case
def bad_disks():
    k = need_kernel()
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "disk.img")
        with open(path, "wb") as f:
            f.write(b"x" * 1000)
        refused(["run", k, "--disk", path], 1, "1000 bytes", "truncated")
        with open(path, "wb") as f:
            f.truncate(1 << 20)
        with open(path, "r+b") as f:
            # struct flock of x86-64: type, whence, start, len, pid
            import struct
            fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))  # F_OFD_SETLK
            refused(["run", k, "--disk", path], 1, "in use by another process")


@case
def too_much_memory():
    k = need_kernel()
    with open("/proc/meminfo", encoding="ascii") as f:
        total = sum(int(x) for x in re.findall(r"^(?:Mem|Swap)Total: *(\d+)", f.read(),
                                               re.MULTILINE))
    gib = total // (1 << 20) + 2
    if gib > 256:
        raise Skip("this host has more memory than a guest can have")
    refused(["run", k, "-m", f"{gib}G"], 1, "more than this host has", "--memory")
    with tempfile.NamedTemporaryFile() as big:
        big.truncate(65 << 20)
        refused(["run", k, "-m", "64M", "--initrd", big.name], 1, "initrd", "does not fit", "64 MiB")


@case
def doctor():
    p = joist("doctor")
    same(p.returncode, 0, "exit code")
    j = json.loads(joist("doctor", "--json").stdout)
    has(p.stdout, "engine: " + j["engine"])
    same([e["name"] for e in j["engines"]], ["kvm", "soft"], "engines")
    usable = [e["name"] for e in j["engines"] if e["usable"]]
    same(j["engine"], usable[0], "the first that works")
    for fact in ("cpu", "tsc", "memory", "cores", "limit-mappings", "memfd-exec"):
        assert j["host"][fact]["status"] in ("info", "ok", "warning", "bad"), fact
    assert j["cpu_features"], "features"


# ---- the choice of the engine. $JOIST_KVM names another device than /dev/kvm -------------------

NOT_ROOT = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def with_device(device, *args, cache="", before=(), timeout=120):
    env = dict(os.environ, JOIST_KVM=device, XDG_RUNTIME_DIR=cache)
    return subprocess.run([*before, JOIST, *args], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, env=env)


def engine_kvm(device, **kw):
    p = with_device(device, "doctor", "--json", **kw)
    same(p.returncode, 0, "exit code")
    j = json.loads(p.stdout)
    return j, j["engines"][0]


def auto_takes_soft(device, *reasons, before=()):
    """Doctor says why, `run` says it in one line, --engine kvm refuses and knows --force."""
    j, kvm = engine_kvm(device, before=before)
    same((j["engine"], kvm["usable"]), ("soft", False), "choice")
    for r in reasons:
        has(kvm["why"], r)
        has(j["why"], r)
    k = need_kernel()
    p = with_device(device, "run", k, "-m", "128M", "--timeout", "0.2", before=before)
    same(p.returncode, 124, "exit code of auto")
    lines = [x for x in p.stderr.splitlines() if "engine" in x]
    same(len(lines), 1, f"lines about the engine: {p.stderr!r}")
    has(lines[0], "engine: soft (not kvm: " + kvm["why"][:100])
    p = with_device(device, "run", k, "-q", "-m", "128M", "--timeout", "0.2", before=before)
    assert "engine" not in p.stderr, p.stderr
    p = with_device(device, "run", k, "--engine", "kvm", "--timeout", "5", before=before)
    same(p.returncode, 5, "exit code of --engine kvm")
    has(p.stderr, kvm["why"][:100])
    has(p.stderr, "--force")
    return kvm


@case
def auto_without_a_device():
    kvm = auto_takes_soft("/nowhere/kvm", "there is no /nowhere/kvm")
    same(kvm["findings"][0]["ok"], False, "finding")
    # Forced, it still cannot, and says the same.
    p = with_device("/nowhere/kvm", "run", need_kernel(), "--engine", "kvm", "--force")
    same(p.returncode, 3, "exit code")
    has(p.stderr, "there is no /nowhere/kvm")


@case
def auto_without_permission():
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o755)
        device = os.path.join(d, "kvm")
        open(device, "w").close()
        os.chmod(device, 0)
        before = ()
        if os.geteuid() == 0:  # root may open everything
            if not shutil.which("setpriv"):
                raise Skip("as root, and there is no setpriv")
            before = NOT_ROOT
            if subprocess.run([*before, JOIST, "version"], capture_output=True).returncode:
                raise Skip("another user may not run this program where it is")
        auto_takes_soft(device, "may not be opened", "group kvm", before=before)


@case
def auto_with_what_is_no_kvm():
    kvm = auto_takes_soft("/dev/null", "/dev/null is no KVM device")
    same([f["ok"] for f in kvm["findings"]], [False], "findings")


@case
def auto_with_the_real_device():
    """Whatever this host's KVM is: the choice follows the probe, and every step is told."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise Skip("no /dev/kvm that may be opened here")
    j, kvm = engine_kvm("/dev/kvm")
    steps = {f["what"]: f["ok"] for f in kvm["findings"]}
    if len(steps) < 3:
        raise Skip("KVM makes no VM here: " + kvm["why"])
    for step in ("real mode", "64-bit code with paging", "lock cmpxchg16b", "xsave, xrstor",
                 "int3 and ud2 in kernel mode", "page fault in kernel mode"):
        assert step in steps, (step, steps)
    same(kvm["usable"], all(steps.values()), "usable if and only if every step works")
    same(j["engine"], "kvm" if kvm["usable"] else "soft", "choice")
    if not kvm["usable"]:
        auto_takes_soft("/dev/kvm", "cannot run stock kernels")


@case
def the_probe_is_remembered():
    """Until the host is booted anew; what is damaged or of another boot counts for nothing, and that
    no VM could be made is asked again each time."""
    with tempfile.TemporaryDirectory() as cache:
        path = os.path.join(cache, "joist", "kvm-probe")
        null = os.stat("/dev/null")
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
            boot = f.read().strip()
        _, kvm = engine_kvm("/dev/null", cache=cache)
        assert not os.path.exists(path), "remembered for /dev/null"
        line = f"{boot} {null.st_rdev:x} {null.st_ino:x} 2 as remembered\n"

        def refusal():
            return with_device("/dev/null", "run", "/nowhere", "--engine", "kvm", cache=cache).stderr
        os.makedirs(os.path.dirname(path), exist_ok=True)
        for text, used in ((line, True), (line.replace(boot, "another"), False),
                           (line.replace(" 2 ", " 1 "), False), ("", False), ("\n", False),
                           (boot, False), ("x" * 5000, False)):
            with open(path, "w", encoding="ascii") as f:
                f.write(text)
            has(refusal(), "as remembered" if used else "is no KVM device")
        # doctor tries it always, and says what it found.
        with open(path, "w", encoding="ascii") as f:
            f.write(line)
        _, again = engine_kvm("/dev/null", cache=cache)
        same(again["why"], kvm["why"], "doctor's reason")

        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise Skip("writing it: no /dev/kvm that may be opened here")
        _, kvm = engine_kvm("/dev/kvm", cache=cache)
        if len(kvm["findings"]) < 3:
            raise Skip("writing it: KVM makes no VM here: " + kvm["why"])
        with open(path, encoding="ascii") as f:
            line = f.read()
        has(line, boot)
        has(line, kvm["why"] or "usable")
        same(os.stat(path).st_mode & 0o777, 0o600, "mode")


@case
def completion():
    for shell, check in (("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])):
        p = joist("completion", shell)
        same(p.returncode, 0, shell)
        for word in ("run", "memory", "doctor"):
            has(p.stdout, word)
        if shutil.which(check[0]):
            with tempfile.NamedTemporaryFile("w", suffix="." + shell) as f:
                f.write(p.stdout)
                f.flush()
                subprocess.run(check + [f.name], check=True, timeout=120)


@case
def completion_in_bash():
    script = joist("completion", "bash").stdout + """
complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _joist; echo "${COMPREPLY[*]}"; }
complete_words joist doc
complete_words joist run --memory-
complete_words joist run --board ''
complete_words joist help v
"""
    p = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    same(p.stdout.splitlines(), ["doctor", "--memory-limit", "pc micro", "validate version"], "completions")


@case
def manual_page():
    p = joist("man")
    same(p.returncode, 0, "exit code")
    for word in (".TH JOIST 1", "EXIT STATUS", "\\-\\-memory", "joist doctor"):
        has(p.stdout, word)
    if shutil.which("groff"):
        g = subprocess.run(["groff", "-man", "-ww", "-Tascii"], input=p.stdout, text=True,
                           capture_output=True, timeout=120)
        same(g.stderr, "", "groff's complaints")


@case
def manual_pages_of_commands():
    names = joist("man", "--list").stdout.splitlines()
    assert {"run", "image build", "port add"} <= set(names), names
    for name in names:
        p = joist("man", *name.split())
        for part in (".TH JOIST\\-", ".SH NAME", ".SH OPTIONS", "EXIT STATUS"):
            has(p.stdout, part)
        if shutil.which("groff"):
            g = subprocess.run(["groff", "-man", "-ww", "-Tascii"], input=p.stdout, text=True,
                               capture_output=True, timeout=120)
            same(g.stderr, "", "groff's complaints about " + name)


@case
def full_output_device():
    with open("/dev/full", "w", encoding="ascii") as full:
        p = subprocess.run([JOIST, "--help"], stdout=full, stderr=subprocess.PIPE, text=True,
                           timeout=120)
    same(p.returncode, 1, "exit code")
    has(p.stderr, "cannot write")


@case
def timeout_ends_it():
    p = joist("run", need_kernel(), "-m", "128M", "--timeout", "0.5")
    same(p.returncode, 124, "exit code")
    has(p.stderr, "--timeout")


def has_cpus(pid):
    """Does this process run a guest?"""
    def name(task):
        try:
            with open(f"/proc/{pid}/task/{task}/comm", encoding="ascii") as f:
                return f.read()
        except OSError:
            return ""
    return any(name(t).startswith("vcpu") for t in os.listdir(f"/proc/{pid}/task"))


@case
def signals_end_it():
    k = need_kernel()
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        p = subprocess.Popen([JOIST, "run", k, "-m", "128M", "--name", "sig"],
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True)
        until("a start", lambda: has_cpus(p.pid))
        p.send_signal(sig)
        _, err = p.communicate(timeout=120)
        same(p.returncode, 128 + sig, sig.name)
        has(err, "joist: sig: ")


class Terminal:
    """joist run on a pseudo terminal of its own."""

    def __init__(self, *args):
        self.master, slave = pty.openpty()
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            for fd in (0, 1, 2):
                os.dup2(slave, fd)
            try:
                os.execv(JOIST, [JOIST, "run", *args])
            finally:
                os._exit(127)
        self.child = Child(self.pid)
        self.output = Output(self.master)
        self.wait_for = self.output.wait_for

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def end(self):
        try:
            return self.child.end(self.output)
        except AssertionError:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise

    def check_restored(self):
        same(termios.tcgetattr(self.slave), self.before, "terminal settings")

    def close(self):
        os.close(self.master)
        os.close(self.slave)


@case
def escape_key_restores_the_terminal():
    t = Terminal(need_kernel(), "-m", "128M")
    t.wait_for(b"Ctrl-]")
    assert t.is_raw(), "the terminal is not raw"
    os.write(t.master, b"abc\x1d")
    same(t.end(), 0, "exit code")
    has(t.output.data.decode(errors="replace"), "left with Ctrl-]")
    t.check_restored()
    t.close()


@case
def signals_restore_the_terminal():
    for sig, code in ((signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1),
                      (signal.SIGSEGV, -signal.SIGSEGV), (signal.SIGABRT, -signal.SIGABRT)):
        t = Terminal(need_kernel(), "-m", "128M")
        t.wait_for(b"Ctrl-]")
        assert t.is_raw(), "the terminal is not raw"
        os.kill(t.pid, sig)
        got = t.end()
        if sig in (signal.SIGSEGV, signal.SIGABRT):
            assert got != 0, got  # a sanitizer ends in its own way
        else:
            same(got, code, sig.name)
        t.check_restored()
        t.close()


@case
def ctrl_c_goes_to_the_guest():
    t = Terminal(need_kernel(), "-m", "128M")
    t.wait_for(b"Ctrl-]")
    os.write(t.master, b"\x03\x1a\x1c")
    time.sleep(0.3)
    same(os.waitpid(t.pid, os.WNOHANG), (0, 0), "still there")
    os.write(t.master, b"\x1d")
    same(t.end(), 0, "exit code")
    t.check_restored()
    t.close()


def main():
    print(f"1..{len(cases)}")
    failed = 0
    for i, fn in enumerate(cases, 1):
        try:
            fn()
            print(f"ok {i} - {fn.__name__}")
        except Skip as e:
            print(f"ok {i} - {fn.__name__} # SKIP {e}")
        except Exception as e:  # a failing case must not hide the others
            failed += 1
            print(f"not ok {i} - {fn.__name__}")
            for line in f"{type(e).__name__}: {e}".splitlines():
                print(f"# {line}")
        sys.stdout.flush()
    return 1 if failed else 0


sys.exit(main())
