#!/usr/bin/env python3
"""Disks that bring their kernel: image import and pull without --kernel. usage: vm_kernels.py JOIST [CASE...]

The disks are made without root: mke2fs -d fills a file system, the tables around it are written here."""
import hashlib
import http.server
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import uuid
import zlib

import vmlib
from vmlib import Skip, case, guest_file, has, joist, refused, same

MIB = 1 << 20
UUID = "01234567-89ab-cdef-0123-456789abcdef"


def mke2fs(folder, size=48 * MIB, label=None, kind="ext4", number=UUID):
    """The bytes of a file system that holds what is in `folder`."""
    tool = shutil.which("mke2fs", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    if not tool:
        raise Skip("no mke2fs here")
    path = os.path.join(vmlib.home, "fs.img")
    with open(path, "wb") as f:
        f.truncate(size)
    subprocess.run([tool, "-q", "-F", "-t", kind, "-U", number, *(["-L", label] if label else []), "-d", folder, path],
                   check=True, timeout=60)
    with open(path, "rb") as f:
        data = f.read()
    os.unlink(path)
    return data


def tree(files):
    """A folder with these files: bytes, a path to copy, or ("->", target)."""
    top = os.path.join(vmlib.home, "tree")
    shutil.rmtree(top, ignore_errors=True)
    for name, what in files.items():
        path = os.path.join(top, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(what, tuple):
            os.symlink(what[1], path)
        elif isinstance(what, bytes):
            with open(path, "wb") as f:
                f.write(what)
        else:
            shutil.copy(what, path)
    return top


def gpt(*filesystems):
    """Primary table only, as our reader and Linux's first look want it."""
    entries, body, at = b"", b"", 2048
    for fs in filesystems:
        n = len(fs) // 512
        entries += uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4").bytes_le + uuid.uuid4().bytes_le
        entries += struct.pack("<QQQ", at, at + n - 1, 0) + "root".encode("utf-16-le").ljust(72, b"\0")
        body += fs
        at += n
    entries = entries.ljust(128 * 128, b"\0")
    last = at + 2047

    def header(crc):
        return struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, crc, 0, 1, last, 34, at - 1,
                           bytes(range(16)), 2, 128, 128, zlib.crc32(entries))
    head = header(zlib.crc32(header(0)))
    mbr = bytes(446) + struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xee, b"\xff" * 3, 1, last) + bytes(48) + b"\x55\xaa"
    return (mbr + head.ljust(512, b"\0") + entries).ljust(MIB, b"\0") + body + bytes(MIB)


def mbr(*filesystems, logical=None):
    table, body, at = b"", b"", 2048
    for fs in filesystems:
        n = len(fs) // 512
        table += struct.pack("<B3sB3sII", 0x80, b"\0" * 3, 0x83, b"\0" * 3, at, n)
        body += fs
        at += n
    if logical:
        n = len(logical) // 512
        table += struct.pack("<B3sB3sII", 0, b"\0" * 3, 0x05, b"\0" * 3, at, n + 2048)
        link = bytes(446) + struct.pack("<B3sB3sII", 0, b"\0" * 3, 0x83, b"\0" * 3, 2048, n) + bytes(48)
        body += (link + b"\x55\xaa").ljust(MIB, b"\0") + logical
    return (bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa").ljust(MIB, b"\0") + body


def disk_file(name, data):
    path = os.path.join(vmlib.home, name)
    with open(path, "wb") as f:
        f.write(data)
    return path


def image_json(name):
    return next(i for i in json.loads(joist("image", "ls", "--json").stdout) if i["name"] == name)


def content(name, file):
    with open(os.path.join(image_json(name)["folder"], file), "rb") as f:
        return f.read()


def small(**more):
    """A tree whose kernels are a few bytes."""
    files = {"etc/fstab": b"#\n", "boot/vmlinuz-6.1.0-9-amd64": b"KERNEL 9", "boot/initrd.img-6.1.0-9-amd64": b"INITRD 9"}
    files.update({k.replace("__", "/"): v for k, v in more.items()})
    return tree(files)


def imported(data, name, *args):
    """Imports, gives the kernel's bytes, the RAM disk's, and the command line; removes it."""
    joist("image", "import", disk_file(name + ".img", data), *args)
    got = content(name, "vmlinuz"), content(name, "initrd"), image_json(name)["append"]
    joist("image", "rm", name)
    return got


@case
def boots():
    """GPT, raw and qcow2: to user space, with the command line that was found."""
    data = gpt(mke2fs(tree({"etc/fstab": b"#\n", "boot/vmlinuz-6.1.0-1-cloud-amd64": guest_file("vmlinuz-cloud"),
                            "boot/initrd.img-6.1.0-1-cloud-amd64": guest_file("initramfs.cpio.gz")})))
    raw, q = disk_file("own.img", data), os.path.join(vmlib.home, "own2.qcow2")
    joist("disk", "convert", "raw:" + raw, q)
    for path, name in (raw, "own"), (q, "own2"):
        joist("image", "import", path)
        joist("run", "-d", "--name", "v", "--engine", "soft", "-m", "128M", name)
        vmlib.until_log("v", "joist-guest: up", 200)
        has(joist("logs", "v").stdout, "joist-guest: up 6.")
        joist("rm", "-f", "v")
        same(image_json(name)["append"], f"root=UUID={UUID} rw console=ttyS0 quiet", "command line")
        joist("image", "rm", name)


@case
def tables():
    """MBR, a logical partition, none, and /boot of its own."""
    want = b"KERNEL 9", b"INITRD 9", f"root=UUID={UUID} rw console=ttyS0 quiet"
    fs, other = mke2fs(small(), 8 * MIB), b"XFSB".ljust(MIB, b"\0")
    same(imported(mbr(other, fs), "m"), want, "MBR")
    same(imported(mbr(other, logical=fs), "l"), want, "logical partition")
    same(imported(fs, "w"), want, "whole disk")
    same(imported(fs[:440] + b"boot loader" + fs[451:510] + b"\x55\xaa" + fs[512:], "x"), want, "with a boot sector")
    for kind in "ext2", "ext3":
        same(imported(gpt(other, mke2fs(small(), 8 * MIB, kind=kind)), "e"), want, kind)
    root = mke2fs(tree({"etc/cloud/cloud.cfg": b"#\n", "boot/empty": b"x"}), 8 * MIB, "root")
    boot = mke2fs(tree({"vmlinuz-6.8": b"K8", "initrd.img-6.8": b"I8"}), 8 * MIB, number=str(uuid.uuid4()))
    joist("image", "import", disk_file("two.img", gpt(root, boot)))
    same(content("two", "vmlinuz"), b"K8", "kernel of a boot partition")
    same(image_json("two")["append"], want[2], "root of the other")
    same(image_json("two")["cloud-init"], True, "cloud-init was seen")
    joist("image", "rm", "two")


@case
def choice():
    """The newest by version; symbolic links; names without versions; what was given counts."""
    newer = small(**{"boot__vmlinuz-6.1.0-10-amd64": b"KERNEL 10", "boot__initrd.img-6.1.0-10-amd64": b"INITRD 10",
                     "boot__vmlinuz-6.1.0-11-amd64": b"has no initrd"})
    same(imported(mke2fs(newer, 8 * MIB), "n")[:2], (b"KERNEL 10", b"INITRD 10"), "the newest")
    links = tree({"etc/x": b"x", "vmlinuz": ("->", "/usr/k"), "usr/k": b"LINKED", "initrd.img": ("->", "usr/../usr/i"),
                  "usr/i": b"I"})
    same(imported(mke2fs(links, 8 * MIB), "s")[:2], (b"LINKED", b"I"), "symbolic links")
    alpine = tree({"etc/x": b"x", "boot/vmlinuz-virt": b"VIRT", "boot/initramfs-virt": b"RAM"})
    same(imported(mke2fs(alpine, 8 * MIB), "a")[:2], (b"VIRT", b"RAM"), "Alpine's names")
    same(imported(mke2fs(alpine, 8 * MIB), "a", "--append", "quiet")[2], "quiet", "--append")
    joist("image", "import", disk_file("bare.img", bytes(MIB)), "--no-kernel")
    same(image_json("bare")["kernel"], False, "--no-kernel")
    joist("image", "rm", "bare")


@case
def refusals():
    def says(data, *texts, name="bad.img"):
        refused(3, "image", "import", disk_file(name, data), says=(*texts, "give --kernel and --initrd"))
        same(joist("image", "ls", "-q").stdout, "", "images left")
    says(gpt(b"XFSB".ljust(MIB, b"\0")), "partition 1 holds xfs, which is not read")
    says(gpt(bytes(0x10040) + b"_BHRfS_M".ljust(MIB, b"\0")), "partition 1 holds btrfs")
    says(b"XFSB".ljust(MIB, b"\0"), "the whole disk holds xfs")
    says(bytes(MIB), "no partition table and no file system")
    says(gpt(bytes(MIB)), "hold no file system that is known")
    says(gpt(mke2fs(tree({"boot/vmlinuz-5": b"K"}), 8 * MIB)), "/boot/vmlinuz-5 but no initrd.img-5")
    says(gpt(mke2fs(tree({"etc/x": b"K"}), 8 * MIB)), "partition 1 has no /boot/vmlinuz")
    circle = tree({"boot/vmlinuz": ("->", "initrd.img"), "boot/initrd.img": ("->", "vmlinuz")})
    says(mke2fs(circle, 8 * MIB), "has no /boot/vmlinuz")
    fs = mke2fs(small(), 8 * MIB)
    says(gpt(fs)[:MIB] + fs[:4 * MIB], "partition table is damaged")
    says(fs[:4 * MIB], "cannot be read", "cut short")


@case
def damaged():
    """Seeded damage to tables, superblock and inodes: an image or one sentence, never a crash."""
    fs = mke2fs(small(), 4 * MIB)
    whole = gpt(fs)
    rng = random.Random(4)
    spans = [(0, 2048), (MIB + 1024, MIB + 2048), (MIB, MIB + 64 * 1024), (MIB, len(whole))]
    done = set()
    for i in range(60):
        data = bytearray(whole)
        first, end = spans[i % len(spans)]
        for _ in range(rng.choice([1, 4, 30])):
            at = rng.randrange(first, end)
            data[at] = rng.choice([0, 0xff, data[at] ^ 1 << rng.randrange(8), rng.randrange(256)])
        path = disk_file("d.img", data)
        p = subprocess.run([vmlib.joist_path, "image", "import", path, "--replace"], capture_output=True, text=True,
                           timeout=60)
        assert p.returncode in (0, 1, 3, 5), f"seed 4, disk {i}: code {p.returncode}: {p.stderr}"
        assert p.returncode == 0 or p.stderr.count("\n") == 1, f"seed 4, disk {i}: {p.stderr}"
        done.add(p.returncode)
    assert 0 in done and len(done) > 1, f"the damage is not worth its name: {done}"
    if "d" in joist("image", "ls", "-q").stdout.split():
        joist("image", "rm", "d")


class Server(http.server.BaseHTTPRequestHandler):
    files = {}

    def do_GET(self):
        body = self.files.get(self.path)
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *args):
        pass


@case
def pull():
    """A known name whose publisher has a disk and SHA512SUMS only, from a mirror."""
    if not shutil.which("curl"):
        raise Skip("no curl here")
    path = "/images/cloud/bookworm/latest/"
    raw, q = disk_file("p.img", gpt(mke2fs(small(etc__cloud__cloud_cfg=b""), 8 * MIB))), os.path.join(vmlib.home, "p.qcow2")
    joist("disk", "convert", "raw:" + raw, q)
    with open(q, "rb") as f:
        disk = f.read()
    name = "debian-12-genericcloud-amd64.qcow2"
    lines = f"{'1' * 128}  other.qcow2\n%s  {name}\n{'2' * 128}  {name}.zsync\n"
    good = hashlib.sha512(disk).hexdigest()
    Server.files = {path + name: disk, path + "SHA512SUMS": (lines % ("0" * 128)).encode()}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    os.environ["JOIST_IMAGE_MIRROR"] = f"http://127.0.0.1:{server.server_port}/"
    try:
        refused(1, "image", "pull", "debian-12", says="it is damaged")
        Server.files[path + "SHA512SUMS"] = b"none\n"
        refused(3, "image", "pull", "debian-12", says="checksums have none for " + name)
        Server.files[path + "SHA512SUMS"] = (lines % good).encode()
        joist("image", "pull", "debian-12")
        j = image_json("debian-12")
        same((j["sha256"], j["kernel"], j["cloud-init"]), (hashlib.sha256(disk).hexdigest(), True, True), "the image")
        has(j["append"], "root=UUID=" + UUID)
        same(content("debian-12", "initrd"), b"INITRD 9", "its initrd")
        joist("image", "rm", "debian-12")
    finally:
        del os.environ["JOIST_IMAGE_MIRROR"]
        server.shutdown()


if __name__ == "__main__":
    sys.exit(vmlib.main(sys.argv))
