#!/usr/bin/env python3
"""From Debian's packages to a served page, and what may go wrong on the way. Long: minutes a boot.

usage: vm_debian.py JOIST [CASE]...
JOIST_IMAGES=FOLDER: where an image "debian" lies already, as `joist image build` makes it (its
folder's name is the image's); then it is not built anew. LIMIT: seconds for a boot.
"""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import vmlib
from vmlib import (Skip, alive, busybox, case, folder, has, image, inspect, joist, keep, refused, same,
                   until, until_log)

LIMIT = int(os.environ.get("LIMIT", "900"))


def fetch(url):
    """A page; empty while nobody serves it yet."""
    try:
        with urllib.request.urlopen(url, timeout=60) as r:
            return r.read().decode()
    except OSError:
        return ""


@case
@keep
def image_build_and_first_boot():
    name = image()
    began = time.monotonic()
    joist("run", "-d", "--name", "web", name, "-m", "512M", "-c", "2", "-p", "18081:80")
    created = time.monotonic() - began
    joist("start", "web", code=4)
    began = time.monotonic()
    # It waits for the guest by itself.
    p = joist("exec", "--timeout", str(LIMIT), "web", "--", "true", code=None, timeout=LIMIT + 60)
    if p.returncode:
        raise AssertionError(p.stderr + joist("logs", "-n", "20", "web").stdout)
    return f"made in {created:.1f} s, its agent answered {time.monotonic() - began:.0f} s later"


def need_web():
    if "web" not in joist("ls", "-q").stdout.split():
        raise Skip("there is no VM web (the first case makes it)")


@case
@keep
def exec_and_cp():
    need_web()
    same(joist("exec", "web", "hostname").stdout, "web\n", "its name, from cloud-init or the agent")
    same(joist("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7", code=7).stderr,
         "err\n", "stderr")
    same(joist("exec", "-i", "web", "--", "tr", "a-z", "A-Z", stdin="hello\n").stdout, "HELLO\n",
         "stdin to stdout")
    joist("exec", "web", "--", "no-such-program", code=127)
    same([joist("exec", "-u", u, "web", "sh", "-c", "echo $HOME").stdout for u in ("root", "joist")],
         ["/root\n", "/home/joist\n"], "HOME")
    same(joist("exec", "web", "--", "sh", "-c", "kill -9 $$", code=None).returncode, 137, "by a signal")
    p = joist("exec", "--timeout", "3", "web", "--", "sleep", "1000", code=124)
    has(p.stderr, "--timeout")
    data = os.urandom(300000)
    path = os.path.join(vmlib.home, "blob")
    with open(path, "wb") as f:
        f.write(data)
    joist("cp", path, "web:/root/")
    joist("cp", "web:/root/blob", path + ".back")
    with open(path + ".back", "rb") as f:
        same(f.read() == data, True, "the file after both ways")
    refused(1, "cp", "web:/no/such", path, says="No such file")
    tree = os.path.join(vmlib.home, "tree")
    os.makedirs(os.path.join(tree, "a/b"))
    for name in ("one", "a/two", "a/b/three"):
        with open(os.path.join(tree, name), "w") as f:
            f.write(name + "\n")
    os.symlink("a/two", os.path.join(tree, "link"))
    joist("cp", tree, "web:/root/")
    same(joist("exec", "web", "--", "sh", "-c", "cd /root/tree && cat one a/two a/b/three link; "
               "stat -c %u one; ls /var/tmp").stdout, "one\na/two\na/b/three\na/two\n0\n" +
         joist("exec", "web", "ls", "/var/tmp").stdout, "a folder, and nothing left behind")
    joist("cp", "web:/root/tree/", os.path.join(vmlib.home, "back"))
    subprocess.run(["diff", "-r", tree, os.path.join(vmlib.home, "back")], check=True)
    # A folder that is there is one to copy into; modes are the file's here, or what was there.
    os.chmod(path, 0o640)
    joist("cp", path, "web:/var/tmp")
    joist("exec", "web", "touch", "/var/tmp/made")
    same(joist("exec", "web", "stat", "-c", "%a", "/var/tmp/blob", "/var/tmp/made").stdout, "640\n644\n",
         "modes")
    joist("cp", "-r", "web:/var/log", os.path.join(vmlib.home, "log"))  # what changes meanwhile, too
    # Ctrl-C is for the command.
    with subprocess.Popen([vmlib.joist_path, "exec", "web", "--", "sh", "-c",
                           "trap 'echo told; exit 9' INT; echo up; while :; do sleep 1; done"],
                          stdout=subprocess.PIPE, text=True) as p:
        same(p.stdout.readline(), "up\n", "its first line")
        p.send_signal(signal.SIGINT)
        same((p.stdout.read(), p.wait()), ("told\n", 9), "what it says and returns")
    # More than fits into one request of the agent's.
    big = os.urandom(8 << 20)
    p = subprocess.run([vmlib.joist_path, "exec", "-i", "web", "--", "sha256sum"], input=big,
                       capture_output=True, timeout=120, check=True)
    same(p.stdout.decode(), hashlib.sha256(big).hexdigest() + "  -\n", "8 MiB of stdin")
    refused(2, "cp", path, "web:relative", says="from its root on")


@case
@keep
def addresses_and_ssh():
    need_web()
    until("an address in ps", lambda: inspect("web").get("addresses"), LIMIT)
    if not shutil.which("ssh"):
        raise Skip("no ssh here")
    same(joist("ssh", "--timeout", str(LIMIT), "web", "--", "id -un", timeout=LIMIT + 60).stdout,
         "joist\n", "who one is with ssh")
    same(joist("ssh", "joist@web", "id -un").stdout, "joist\n", "by ssh's own way to say it")
    # As without -t: root, each word as it is.
    same(joist("exec", "-t", "-e", "A=b c", "-w", "/etc", "web", "sh", "-c", 'id -un; pwd; echo "$A" "$0"',
               "it's").stdout, "root\n/etc\nb c it's\n", "exec -t")
    has(joist("ssh-config", "web").stdout, "Host web")
    return "addresses " + ", ".join(inspect("web")["addresses"])


@case
@keep
def verbs():
    """What one reaches for in the first week."""
    need_web()
    has(joist("ps").stdout, "web")
    has(joist("stats", "--no-stream").stdout, "web")
    has(joist("logs", "-n", "50", "web").stdout, "login:")
    with subprocess.Popen([vmlib.joist_path, "logs", "-f", "web"], stdout=subprocess.PIPE) as p:
        joist("exec", "web", "--", "sh", "-c", "echo said-on-the-console >/dev/console")
        text = b""
        while b"said-on-the-console" not in text:
            text += os.read(p.stdout.fileno(), 4096)
        p.terminate()
    joist("pause", "web")
    same(inspect("web")["state"], "paused", "state")
    has(joist("exec", "web", "true", code=None).stderr, "is paused")
    time.sleep(3)
    joist("resume", "web")
    until("the clock set after a pause", lambda: abs(int(joist("exec", "web", "date", "+%s").stdout) -
                                                    time.time()) < 2.5)
    joist("rename", "web", "www")
    same(joist("exec", "www", "true").stdout, "", "under its new name")
    joist("rename", "www", "web")
    joist("update", "web", "--memory", "448M", "--cpus", "1")
    until("memory given back", lambda: json.loads(joist(
        "stats", "--json", "--interval", "0.1", "web").stdout)[0]["memory-usable"] == 448 << 20)
    joist("update", "web", "--memory", "512M", "--cpus", "2")
    # Frozen: what writes waits.
    joist("freeze", "web")
    refused(1, "exec", "web", "true", says="disabled")
    joist("thaw", "web")
    refused(4, "thaw", "web", says="was frozen")
    joist("exec", "web", "--", "sh", "-c", "echo after >/root/after; sync")
    refused(4, "image", "rm", "debian", says="in use by VM web")
    refused(4, "rm", "web", says="is running")


@case
@keep
def guest_reboots():
    need_web()
    boot = joist("exec", "web", "cat", "/proc/sys/kernel/random/boot_id").stdout
    pid = inspect("web")["pid"]
    joist("exec", "web", "--", "systemctl", "reboot", code=None)

    def again():
        p = joist("exec", "web", "cat", "/proc/sys/kernel/random/boot_id", code=None, timeout=120)
        return p.returncode == 0 and p.stdout != boot
    until("another boot", again, LIMIT)
    same(inspect("web")["pid"], pid, "its process")


@case
@keep
def nginx_through_the_forward():
    need_web()
    joist("exec", "web", "--", "apt-get", "update", timeout=LIMIT)
    p = joist("exec", "web", "--", "env", "DEBIAN_FRONTEND=noninteractive",
              "apt-get", "install", "-y", "--no-install-recommends", "nginx-light", timeout=LIMIT)
    has(p.stdout, "nginx")
    until("a page", lambda: "nginx" in fetch("http://127.0.0.1:18081/"), LIMIT)
    joist("port", "add", "web", "18082:80")
    until("the same page", lambda: "nginx" in fetch("http://127.0.0.1:18082/"), LIMIT)


@case
@keep
def killed_with_flushed_data():
    need_web()
    joist("exec", "web", "--", "sh", "-c", "echo kept >/root/kept; sync")
    pid = inspect("web")["pid"]
    os.kill(pid, signal.SIGKILL)
    until("its death", lambda: inspect("web")["state"] == "died")
    until("its process gone", lambda: not alive(pid))
    joist("start", "--wait", "--timeout", str(LIMIT), "web", timeout=LIMIT + 60)
    same(joist("exec", "web", "cat", "/root/kept").stdout, "kept\n", "what was flushed")
    refused(4, "image", "rm", "debian", says="in use by VM web")


@case
def guest_shuts_down():
    need_web()
    p = joist("restart", "--timeout", str(LIMIT), "web", timeout=LIMIT + 60)
    until("its agent", lambda: joist("exec", "web", "true", code=None, timeout=120).returncode == 0,
          LIMIT)
    p = joist("stop", "--timeout", str(LIMIT), "web", timeout=LIMIT + 60)
    same(inspect("web")["end"], "powered off", "how it ended: " + p.stderr)
    joist("prune", "-f")
    same(joist("ls", "-aq").stdout, "", "what is left")


@case
def nvme_without_initramfs():
    """Stock Debian's kernel has NVMe and ext4 built in: it needs nothing else to boot."""
    folder_ = os.path.join(vmlib.home, "data/joist/images", image())
    disk = os.path.join(vmlib.home, "nvme.qcow2")
    joist("disk", "create", disk, "--backing", "raw:" + os.path.join(folder_, "disk.raw"))
    joist("run", "-d", "--name", "nvme", "-m", "512M", "--kernel", os.path.join(folder_, "vmlinuz"),
          "--disk", disk + ",bus=nvme", "--append", "root=/dev/nvme0n1 rw console=ttyS0 quiet")
    until_log("nvme", "login:", LIMIT)
    joist("rm", "-f", "nvme")


@case
def five_at_once():
    """Five guests, each serving something else through its own port."""
    net = ("ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; "
           "ip route add default via 10.0.2.2; ")
    serve = {
        "web": "mkdir /www; echo page-of-web >/www/index.html; httpd -f -p 80 -h /www",
        "db": "while :; do echo row-1 | nc -l -p 80; done",
        "mail": "while :; do echo '220 mail ready' | nc -l -p 80; done",
        "cache": "while :; do echo +PONG | nc -l -p 80; done",
        "git": "while :; do echo 0000-refs | nc -l -p 80; done",
    }
    want = {"web": "page-of-web", "db": "row-1", "mail": "220 mail ready", "cache": "+PONG",
            "git": "0000-refs"}
    for i, (name, command) in enumerate(serve.items()):
        joist("run", "-d", "--name", name, "-p", f"{18100 + i}:80",
              *busybox(append=f'joist.modules=1 joist.run="{net}{command}"'))
    same(len(joist("ls", "-q").stdout.split()), 5, "how many run")

    def answer(i):
        import socket
        try:
            with socket.create_connection(("127.0.0.1", 18100 + i), timeout=5) as s:
                s.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return s.makefile().read()
        except OSError:
            return ""
    for i, name in enumerate(serve):
        until(f"the answer of {name}", lambda: want[name] in answer(i), 120)
    rows = joist("ps").stdout
    for name in serve:
        has(rows, name)
    stats = joist("stats", "--no-stream").stdout.splitlines()
    same(len(stats), 6, "lines of stats")
    resident = sum(v["resident"] for v in map(inspect, serve)) >> 20
    return f"five of 128 MiB each use {resident} MiB of the host"


@case
def host_disk_full():
    """A host that runs full: the guest gets errors, the VM lives, others are not hurt."""
    where = os.path.join(vmlib.home, "small")
    os.mkdir(where)
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M", "none", where],
                                      capture_output=True).returncode:
        raise Skip("only root can mount a small file system")
    try:
        disk = os.path.join(where, "disk.img")
        with open(disk, "wb") as f:
            f.truncate(64 << 20)
        joist("run", "-d", "--name", "full", *busybox(
            "--disk", disk,
            append='joist.modules=1 joist.end=shell joist.run="dd if=/dev/zero of=/dev/vda bs=1M count=64 '
                   'conv=fsync && echo all-written || echo write-failed"'))
        until_log("full", "write-failed", 120)
        same(inspect("full")["state"], "running", "state")
        joist("stop", "-f", "full")
        env = dict(os.environ, XDG_DATA_HOME=where)
        fill = os.open(os.path.join(where, "fill"), os.O_WRONLY | os.O_CREAT)
        try:
            while os.write(fill, b"x" * 4096):
                pass
        except OSError:
            pass
        os.close(fill)
        p = subprocess.run([vmlib.joist_path, "create", "--name", "none", *busybox()], env=env,
                           capture_output=True, text=True)
        same(p.returncode, 1, "exit code without room for a VM")
        has(p.stderr, "No space left")
        joist("rm", "full")
    finally:
        joist("rm", "-f", "full", code=None)
        subprocess.run(["umount", where], check=True)


if __name__ == "__main__":
    sys.exit(vmlib.main(sys.argv))
