#!/usr/bin/env python3
"""Joist as a Debian user has it: the package, systemd, cgroup v2, an ordinary user with linger. The
computer for that is a VM of Joist's own, so it runs wherever the others do. Long: half an hour.

usage: inside.py JOIST [CASE]...
JOIST_IMAGES as in vm_debian.py. LIMIT: seconds for a boot. INSIDE_BUILD=1: the image build as an
ordinary user, too, which takes longer than all the rest.
"""
import os
import shutil
import subprocess
import sys

import vmlib
from vmlib import Skip, case, guest_file, has, image, joist, keep, same, until

LIMIT = int(os.environ.get("LIMIT", "900"))
SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
GROUPS = "/sys/fs/cgroup"


def root(text, timeout=LIMIT, code=0):
    """A script of the guest's root."""
    return joist("exec", "-i", "box", "--", "bash", "-s", stdin=text, timeout=timeout, code=code).stdout


def user(text, **kw):
    """A script of the guest's ordinary user, in a login of its own."""
    return root(f"cat >/home/u/script <<'END'\n{text}\nEND\nchmod 644 /home/u/script; "
                "su - u -c 'cd guest; bash ../script' 2>&1\n", **kw)


def need_box():
    if "box" not in joist("ls", "-q").stdout.split():
        raise Skip("there is no VM box (the first case makes it)")


SMALL = ("--kernel vmlinuz-cloud --initrd initramfs.cpio.gz -m 96M "
         "--append 'console=ttyS0 quiet joist.end=shell'")
PID = "$(joist inspect {0} | grep -m1 '\"pid' | tr -dc 0-9)"


@case
@keep
def package_and_user():
    """The package installs with what it depends on; a user of it lingers."""
    for tool in "dpkg-deb", "dpkg-shlibdeps":
        if not shutil.which(tool):
            raise Skip(f"no {tool} (apt-get install dpkg-dev)")
    kernel = guest_file("vmlinuz-cloud"), guest_file("initramfs.cpio.gz")
    name = image()
    joist("run", "-d", "--name", "box", name, "-m", "2G", "-c", "2", "--engine", "soft")
    joist("exec", "--timeout", str(LIMIT), "box", "--", "true", timeout=LIMIT + 60)
    deb = os.path.join(vmlib.home, "deb")
    os.makedirs(deb)
    subprocess.run([os.path.join(SOURCE, "packaging/mkdeb"), os.path.dirname(vmlib.joist_path), deb],
                   check=True, stdout=subprocess.DEVNULL)
    joist("cp", os.path.join(deb, os.listdir(deb)[0]), "box:/root/joist.deb")
    root("export DEBIAN_FRONTEND=noninteractive; apt-get update && apt-get install -y "
         "--no-install-recommends dbus-user-session uidmap mmdebstrap e2fsprogs /root/joist.deb && "
         "useradd -m -s /bin/bash u && loginctl enable-linger u && mkdir /home/u/guest")
    for path in kernel:
        joist("cp", path, "box:/home/u/guest/")
    root("chown -R u: /home/u; cmp /usr/bin/joist <(dpkg-deb --fsys-tarfile /root/joist.deb | "
         "tar -xO ./usr/bin/joist)")
    has(user("joist doctor"), "engine: soft")


@case
@keep
def limits_by_cgroup_v2():
    """A login's group is not the user's; systemd makes one that is, and sets its weights itself."""
    need_box()
    pid = PID.format("a")
    out = user(f"joist run -d --name a --cpu-limit 50% --memory-limit 200M {SMALL}\n"
               f"G={GROUPS}$(cut -d: -f3 /proc/{pid}/cgroup); echo $G >~/group\n"
               "cat $G/cpu.max $G/../cpu.weight $G/memory.high\n"
               "joist update a --cpu-limit 30% --cpu-shares 50 --memory-limit 150M\n"
               "cat $G/cpu.max $G/../cpu.weight $G/memory.high")
    same(out, "a\n50000 100000\n100\n209715200\n30000 100000\n50\n157286400\n", "what the group says")
    group = root("cat /home/u/group").strip()
    has(group, "/user@")
    until("some throttling", lambda: "nr_throttled 0\n" not in root(f"cat {group}/cpu.stat"), 120)
    user("joist rm -f a")
    until("the group gone", lambda: root(f"ls -d {group} 2>/dev/null || true") == "", 60)
    same(user(f"joist run -d --name b {SMALL}; joist rm -f b; systemctl --user list-units -q 'joist-*'"),
         "b\n", "no limits, no scope")


@case
@keep
def a_unit_for_a_vm():
    """joist@NAME.service: systemd watches the VM, whose group lies below the unit's."""
    need_box()
    pid = PID.format("unit")
    out = user(f"joist create --name unit --cpu-limit 40% {SMALL}; systemctl --user start joist@unit\n"
               f"until joist inspect unit | grep -q '\"pid'; do sleep 1; done; cat /proc/{pid}/cgroup\n"
               f"cat {GROUPS}$(cut -d: -f3 /proc/{pid}/cgroup)/cpu.max; kill -9 {pid}; "
               "sleep 10; until systemctl --user is-active -q joist@unit; do sleep 1; done\n"
               "systemctl --user show -p NRestarts joist@unit; systemctl --user stop joist@unit; "
               "joist rm unit; echo removed")
    has(out, "joist@unit.service/joist-")
    has(out, "40000 100000\nNRestarts=1\nremoved\n")


@case
@keep
def kept_over_a_reboot():
    """--restart always with joist.service: after the computer's reboot it runs again."""
    need_box()
    has(user("systemctl --user enable --now joist 2>&1; joist run -d --name kept --restart always " + SMALL),
        "kept")
    boot = root("cat /proc/sys/kernel/random/boot_id")
    joist("exec", "box", "--", "systemctl", "reboot", code=None)

    def again():
        p = joist("exec", "box", "--", "cat", "/proc/sys/kernel/random/boot_id", code=None, timeout=LIMIT)
        return p.returncode == 0 and p.stdout != boot
    until("another boot", again, LIMIT)
    until("the kept VM", lambda: "running" in user("joist ls"), LIMIT)
    same(root("journalctl -b -q --grep 'KillMode=none' || true"), "", "what systemd warns of")
    user("systemctl --user stop joist")
    same(user("joist ls -q"), "", "what runs after the unit's stop")
    user("joist rm kept")


@case
@keep
def bridge_and_tap():
    """Where one is privileged: a tap of a bridge, and its other side answers."""
    need_box()
    root("ip link add br0 type bridge; ip addr add 192.0.2.1/24 dev br0; ip link set br0 up; cd /home/u/guest; "
         "joist run -d --name t --net bridge=br0 --kernel vmlinuz-cloud --initrd initramfs.cpio.gz "
         "-m 96M --append 'console=ttyS0 quiet joist.modules=1 joist.end=shell joist.run=\"ip link set eth0 "
         "up; ip addr add 192.0.2.2/24 dev eth0\"'")
    until("an answer through the bridge",
          lambda: " 0% packet loss" in root("ping -c 1 -W 5 192.0.2.2 || true"), LIMIT)
    root("joist rm -f t; ip link del br0")
    p = joist("exec", "box", "--", "su", "-", "u", "-c",
              f"cd guest; joist run -d --name t --net bridge=br0 {SMALL}", code=5)
    has(p.stderr, "tap")


@case
def image_build_unprivileged():
    """By an ordinary user, with the user namespace of package uidmap."""
    need_box()
    if not os.environ.get("INSIDE_BUILD"):
        raise Skip("an hour; INSIDE_BUILD=1 does it")
    user("cd; joist image build -q debian", timeout=7200)
    has(user("joist image ls"), "debian")


if __name__ == "__main__":
    sys.exit(vmlib.main(sys.argv))
