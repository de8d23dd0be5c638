#!/usr/bin/env python3
"""Other programs' images: `joist disk convert` beside qemu-img, and what is refused.

usage: foreign.py JOIST [CASE]...      TAP; skips where qemu-img and qemu-io are missing
"""
import json
import os
import random
import shutil
import sys

from imagelib import MIB, Failed, clean, joist, main, make_raw, run, same

GIB = 1 << 30


def convert(source, want, *extra):
    """Ours into got.raw and got.qcow2, which must be as `want`."""
    for f in ("got.raw", "got.qcow2"):
        if os.path.exists(f):
            os.remove(f)
    joist("convert", "-q", *extra, source, "got.raw")
    joist("convert", "-q", *extra, source, "got.qcow2")
    if os.path.getsize(want) != os.path.getsize("got.raw"):
        raise Failed(f"{source}: {os.path.getsize('got.raw')} bytes for {os.path.getsize(want)}")
    same(want, "raw", "got.raw", "raw")
    same(want, "raw", "got.qcow2", "qcow2")


def refused(word, source, *extra, code=1):
    out = joist("convert", "-q", *extra, source, "no.raw", code=None)
    if word not in out:
        raise Failed(f"{source}: not refused for {word!r}: {out}")
    if os.path.exists("no.raw"):
        raise Failed(f"{source}: was refused and left no.raw")


def formats():
    """Written by qemu-img: the same contents as qemu-img reads."""
    size = 9 * MIB + 512 * 7
    make_raw("a.raw", size, 12)
    kinds = [("vdi", "vdi", ""), ("vdi", "vdi", "static=on"), ("vhd", "vpc", "subformat=dynamic"),
             ("vhd", "vpc", "subformat=fixed"), ("vhd", "vpc", "subformat=dynamic,force_size=on"),
             ("vhdx", "vhdx", ""), ("vhdx", "vhdx", "subformat=fixed"),
             ("vhdx", "vhdx", "block_size=1M"), ("vmdk", "vmdk", "subformat=monolithicSparse"),
             ("vmdk", "vmdk", "subformat=streamOptimized"),
             ("vmdk", "vmdk", "subformat=monolithicFlat"),
             ("vmdk", "vmdk", "subformat=twoGbMaxExtentFlat"),
             ("vmdk", "vmdk", "subformat=twoGbMaxExtentSparse")]
    for ending, fmt, o in kinds:
        clean("a.raw")
        extra = ["-o", o] if o else []
        run("qemu-img", "convert", "-f", "raw", "-O", fmt, *extra, "a.raw", "x." + ending)
        run("qemu-img", "convert", "-f", fmt, "-O", "raw", "x." + ending, "want.raw")
        convert("x." + ending, "want.raw")


def make_wide(path, size):
    """A disk of several extents, most of it holes, with data on both sides of each border."""
    r = random.Random(5)
    with open(path, "wb") as f:
        f.truncate(size)
        for border in range(0, size + 1, 2 * GIB):
            for at in (border - 200 * 512, border - 512 * 3, border, border + 3 * MIB):
                if 0 <= at < size - 70000:
                    f.seek(at)
                    f.write(r.randbytes(512 * r.randrange(1, 130)))
        f.seek(size - 1024)
        f.write(r.randbytes(1024))


def edit(path, change):
    with open(path, encoding="latin-1", newline="") as f:
        text = f.read()
    new = change(text)
    if new == text:
        raise Failed(f"{path}: nothing to change in {text!r}")
    with open(path, "w", encoding="latin-1", newline="") as f:
        f.write(new)


def split():
    """VMDKs of several files, beyond 2 GiB, and descriptors as VMware writes them."""
    size = 5 * GIB + 64 * 512
    make_wide("a.raw", size)
    for kind in ("monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"):
        clean("a.raw")
        os.mkdir("in")
        run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={kind}", "a.raw",
            "in/x.vmdk")
        convert("in/x.vmdk", "a.raw")  # from another folder than the descriptor's
        if os.stat("got.raw").st_blocks * 512 > 64 * MIB:
            raise Failed(f"{kind}: holes take room")
        files = sorted(f for f in os.listdir("in") if f != "x.vmdk")
        if kind.startswith("twoGb") and len(files) != 3:
            raise Failed(f"{kind}: {files} are not three parts")
        info = json.loads(joist("info", "--json", "in/x.vmdk"))
        used = sum(os.stat(f"in/{f}").st_blocks for f in os.listdir("in")) * 512
        if (info.get("files", 0), info["size"], info["used"]) != (len(files), size, used):
            raise Failed(f"{kind}: info shows {info}")
        if kind == "twoGbMaxExtentSparse":
            split_as_vmware("in", files)
        shutil.rmtree("in")


def split_as_vmware(folder, files):
    """No descriptors inside of the parts, lines that end with CR and LF, an extent of zeroes."""
    for f in files:
        with open(f"{folder}/{f}", "r+b") as part:
            part.seek(28)
            part.write(bytes(16))
    edit(f"{folder}/x.vmdk", lambda t: t.replace("\n", "\r\n").replace(
        "\r\n# The Disk Data Base", "\r\nRW 2048 ZERO \r\n\r\n# The Disk Data Base"))
    with open("a.raw", "ab") as f:
        f.truncate(os.path.getsize("a.raw") + MIB)
    convert(f"{folder}/x.vmdk", "a.raw")
    with open("a.raw", "ab") as f:
        f.truncate(os.path.getsize("a.raw") - MIB)
    refused("is one part of a VMDK of several", f"{folder}/{files[0]}")
    # RW 4194304 SPARSE "x-s001.vmdk"
    edit(f"{folder}/x.vmdk", lambda t: t.replace("RW 4194304 SPARSE", "RW 4194432 SPARSE", 1))
    refused(f'"{files[0]}" is too short', f"{folder}/x.vmdk")
    edit(f"{folder}/x.vmdk", lambda t: t.replace("RW 4194432 SPARSE", "RW 4194304 SPARSE", 1))
    os.rename(f"{folder}/{files[1]}", f"{folder}/away")
    refused(files[1], f"{folder}/x.vmdk")
    with open(f"{folder}/away", "rb") as f, open(f"{folder}/{files[1]}", "wb") as part:
        part.write(f.read(512 * 1024))
    refused(f'"{files[1]}": the image is truncated', f"{folder}/x.vmdk")


def descriptors():
    """What a VMDK's descriptor may not say."""
    run("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", "x.vmdk", "1M")
    os.remove("x-flat.vmdk")
    refused("x-flat.vmdk: No such file", "x.vmdk")
    with open("x-flat.vmdk", "wb") as f:
        f.truncate(MIB - 512)
    refused('"x-flat.vmdk" is too short', "x.vmdk")
    with open("x-flat.vmdk", "wb") as f:
        f.truncate(MIB)
    joist("convert", "-q", "x.vmdk", "yes.raw")
    os.mkdir("sub")
    os.link("x.vmdk", "sub/x.vmdk")
    for line, word in [('RW 8 FLAT "/etc/passwd" 0', "only plain names"),
                       ('RW 8 FLAT "../x-flat.vmdk" 0', "only plain names"),
                       ('RW 8 FLAT ".." 0', "only plain names"),
                       ('RW 8 SPARSE "../x-flat.vmdk"', "only plain names"),
                       ('RW 8 FLAT "sub/x.vmdk" 0', "only plain names"),
                       ('RW 8 FLAT "x\0y" 0', "only plain names"),
                       ('RW 8 FLAT "" 0', "only plain names"),
                       ('RW 8 FLAT "' + "x" * 300 + '" 0', "more than 255"),
                       ('RW 8 FLAT "x-flat.vmdk', "only plain names"),
                       ("RW 8 FLAT x-flat.vmdk 0", "without a name"),
                       ('RW 0 FLAT "x-flat.vmdk" 0', "without a size"),
                       ('RW 99999999999999999999 FLAT "x-flat.vmdk" 0', "without a size"),
                       ('RW 8 FLAT "x-flat.vmdk" 2048', "is too short"),
                       ('RW 8 FLAT "x-flat.vmdk" 99999999999999999999', "is too short"),
                       ('RW 8 SPARSE "x-flat.vmdk"', '"x-flat.vmdk": this is no VMDK image'),
                       ('RW 8 VMFSSPARSE "x-flat.vmdk"', "neither FLAT"),
                       ('NOACCESS 8 FLAT "x-flat.vmdk" 0', "nobody may read"),
                       ("", "names no files"),
                       ('encryption.keySafe = "vmware:key"', "is encrypted"),
                       ("parentCID=12345678", "depends on a parent"),
                       ("RW 8 ZERO\n" * 513, "more than 512 files"),
                       ("RW 140000000000000 ZERO\n" * 512, "too big"),
                       ("#" * 300000, "the limit is")]:
        with open("sub/evil.vmdk", "w", encoding="latin-1") as f:
            f.write(f"# Disk DescriptorFile\nversion=1\n{line}\n")
        if os.path.exists("sub/x-flat.vmdk"):
            os.remove("sub/x-flat.vmdk")
        os.link("x-flat.vmdk", "sub/x-flat.vmdk")
        refused(word, "sub/evil.vmdk")
    with open("sub/evil.vmdk", "w", encoding="latin-1") as f:
        f.write("# Disk DescriptorFile\n" + "RW 8 ZERO\n" * 512)
    joist("convert", "-q", "sub/evil.vmdk", "zero.raw")
    if os.path.getsize("zero.raw") != 512 * 8 * 512:
        raise Failed("512 extents are not the disk of 512 extents")
    shutil.rmtree("sub")


def ova():
    """Archives with one disk, several, and one in chunks."""
    names = []
    for i, size in enumerate((3 * MIB, 5 * MIB + 512)):
        make_raw(f"{i}.raw", size, 20 + i)
        run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized",
            f"{i}.raw", f"vm-disk{i}.vmdk")
        names.append(f"vm-disk{i}.vmdk")
        # qemu-img rounds up to whole blocks.
        run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", names[i], f"{i}.raw")
    with open("vm.ovf", "w") as f:
        f.write("<Envelope/>")
    with open("vm.mf", "w") as f:
        f.write("SHA256(vm.ovf)= 0\n")

    def tar(*files):
        run("tar", "--format=ustar", "-cf", "vm.ova", *files)

    tar("vm.ovf", "vm.mf", names[0])
    convert("vm.ova", "0.raw")
    convert("vm.ova", "0.raw", "--disk", "1")
    refused("no disk 2", "vm.ova", "--disk", "2")
    tar("vm.ovf", *names)
    refused("2 disks, vm-disk0.vmdk to vm-disk1.vmdk", "vm.ova")
    if json.loads(joist("info", "--json", "--disk", "2", "vm.ova"))["size"] != \
            os.path.getsize("1.raw"):
        raise Failed("info --disk 2 shows another disk")
    convert("vm.ova", "0.raw", "--disk", "1")
    convert("vm.ova", "1.raw", "--disk", "2")
    with open(names[1], "rb") as f:
        data = f.read()
    chunks = []
    for i, at in enumerate(range(0, len(data), 700001)):
        chunks.append(f"{names[1]}.{i:09d}")
        with open(chunks[-1], "wb") as f:
            f.write(data[at:at + 700001])
    tar("vm.ovf", names[0], *chunks)
    convert("vm.ova", "0.raw", "--disk", "1")
    convert("vm.ova", "1.raw", "--disk", "2")
    tar("vm.ovf", *chunks)
    convert("vm.ova", "1.raw")
    tar("vm.ovf", chunks[0], *chunks[2:])
    refused("chunk 2 of vm-disk1.vmdk does not follow", "vm.ova")
    tar("vm.ovf", *chunks[1:])
    refused("chunk 1 of vm-disk1.vmdk does not follow", "vm.ova")
    tar("vm.ovf", *chunks[:-1])
    refused("truncated", "vm.ova")
    run("gzip", "-k", names[0])
    tar("vm.ovf", names[0] + ".gz")
    refused("vm-disk0.vmdk.gz in the archive is compressed", "vm.ova")
    tar("vm.ovf")
    refused("no disk", "vm.ova")
    with open("vm.ova", "wb") as f:
        f.write(b"x" * 10240)
    refused("no OVA archive", "vm.ova")
    refused("only an .ova", names[0], "--disk", "1")


sys.exit(main([formats, split, descriptors, ova]))
