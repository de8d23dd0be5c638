#!/usr/bin/env python3
"""An image built of Debian's packages by an ordinary user, and a VM of it. Long: minutes.

usage: unprivileged.py JOIST [CASE]...
As root it goes on as the user that JOIST_TEST_USER names, who must be able to read JOIST and this
folder and have a range in /etc/subuid, as adduser(8) makes it. LIMIT: seconds for a boot.
"""
import getpass
import os
import shutil
import subprocess
import sys

import vmlib
from vmlib import Skip, case, has, joist, keep, same

LIMIT = int(os.environ.get("LIMIT", "900"))


def need_namespaces():
    if os.geteuid() == 0:
        raise Skip("for an ordinary user: JOIST_TEST_USER names one")
    for tool in "mmdebstrap", "newuidmap", "mke2fs":
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            raise Skip(f"no {tool} here")
    with open("/etc/subuid", encoding="ascii") as f:
        if not any(line.startswith((getpass.getuser() + ":", f"{os.getuid()}:")) for line in f):
            raise Skip("this user has no range in /etc/subuid")
    p = subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True, text=True)
    if p.returncode:
        raise Skip(f"this host forbids user namespaces: {p.stderr.strip()}")


@case
def builds_an_image():
    need_namespaces()
    same(joist("image", "build", "-q", "debian", timeout=3000).stdout, "debian\n", "what it prints")
    folder = os.path.join(vmlib.home, "data/joist/images/debian")
    same({os.stat(os.path.join(folder, f)).st_uid for f in os.listdir(folder)}, {os.getuid()}, "owner")


@case
@keep
def boots_to_a_login():
    need_namespaces()
    joist("run", "-d", "--name", "own", "debian", "-m", "512M", "--engine", "soft")
    p = joist("exec", "--timeout", str(LIMIT), "own", "--", "sh", "-c",
              "systemctl is-system-running --wait; stat -c %u:%g:%a /usr/bin/sudo /var/lib/apt/lists/partial /home/joist; "
              "ls /etc/dpkg/dpkg.cfg.d; ls /boot/initrd*", timeout=LIMIT + 60)
    lines = p.stdout.splitlines()
    same(lines[0], "running", "whether all units came up")
    same(lines[1], "0:0:4755", "owner and mode of sudo")
    has(lines[3], "1000:1000:")
    same([line for line in lines[4:] if "99mmdebstrap" in line], [], "options of the building that are left")
    has(joist("logs", "own").stdout, "login:")
    joist("stop", "own", timeout=LIMIT)
    same(vmlib.inspect("own")["end"], "powered off", "how it ended")


if __name__ == "__main__":
    other = os.environ.get("JOIST_TEST_USER")
    if os.geteuid() == 0 and other:
        # root's own python3 may lie where others cannot read.
        os.execvp("runuser", ["runuser", "-u", other, "--", "env", f"HOME={os.path.expanduser('~' + other)}",
                              "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "python3", os.path.abspath(sys.argv[0]), os.path.abspath(sys.argv[1]), *sys.argv[2:]])
    sys.exit(vmlib.main(sys.argv))
