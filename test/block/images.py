#!/usr/bin/env python3
"""`joist disk` beside qemu-img: images of each are read, written and checked by the other.

usage: images.py JOIST [CASE]...      TAP; skips where qemu-img and qemu-io are missing
"""
import json
import os
import sys

from imagelib import MIB, Failed, joist, main, make_raw, qemu_check, run, same, write_some

OPTIONS = [
    "", "compat=0.10", "cluster_size=512", "cluster_size=4k", "cluster_size=2M",
    "refcount_bits=1", "refcount_bits=2", "refcount_bits=8", "refcount_bits=32", "refcount_bits=64",
    "lazy_refcounts=on", "preallocation=metadata", "preallocation=falloc", "preallocation=full",
    "compression_type=zstd", "cluster_size=512,refcount_bits=64",
    "cluster_size=1k,refcount_bits=1", "compat=0.10,cluster_size=512",
]


def ours():
    """Images made by us: qemu-img finds no errors, the same contents, and writes to them."""
    make_raw("a.raw", 9 * MIB + 512, 1)
    for args in [[], ["--compat", "v2"], ["--cluster-size", "512"], ["--cluster-size", "2M"],
                 ["--refcount-bits", "1"], ["--refcount-bits", "64"], ["--lazy-refcounts"]]:
        for f in ("a.qcow2", "b.raw"):
            if os.path.exists(f):
                os.remove(f)
        joist("create", "a.qcow2", str(9 * MIB + 512), *args)
        qemu_check("a.qcow2")
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", "a.raw", "a.qcow2")
        qemu_check("a.qcow2")
        joist("check", "a.qcow2")
        joist("convert", "a.qcow2", "b.raw")
        same("a.raw", "raw", "b.raw", "raw")
    os.remove("a.qcow2")
    joist("convert", "a.raw", "a.qcow2")
    qemu_check("a.qcow2")
    same("a.raw", "raw", "a.qcow2", "qcow2")


def theirs():
    """Images made by qemu-img with every option: we read them, and write to them."""
    size = 6 * MIB + 1024
    make_raw("a.raw", size, 2)
    for o in OPTIONS:
        for f in ("a.qcow2", "b.raw", "c.qcow2", "o.qcow2", "o.raw"):
            if os.path.exists(f):
                os.remove(f)
        extra = ["-o", o] if o else []
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *extra, "a.raw", "a.qcow2")
        write_some("a.qcow2", "qcow2", 3, size)
        joist("convert", "a.qcow2", "b.raw")
        same("a.qcow2", "qcow2", "b.raw", "raw")
        # Committing an overlay writes into it, all over.
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "o.qcow2")
        write_some("o.qcow2", "qcow2", 4, size)
        joist("convert", "o.qcow2", "o.raw")
        same("o.qcow2", "qcow2", "o.raw", "raw")
        joist("commit", "o.qcow2")
        qemu_check("a.qcow2")
        joist("check", "a.qcow2")
        same("a.qcow2", "qcow2", "o.raw", "raw")
        joist("resize", "a.qcow2", "+3M")
        qemu_check("a.qcow2")
        joist("resize", "--shrink", "a.qcow2", str(size))
        qemu_check("a.qcow2")
        same("a.qcow2", "qcow2", "o.raw", "raw")


def packed():
    """Compressed by us: smaller, whole for qemu-img, and still whole after writes into it."""
    size = 70 * MIB + 512
    make_raw("a.raw", size, 9)
    joist("create", "o.qcow2", "--backing", "raw:a.raw")
    write_some("o.qcow2", "qcow2", 10, size)
    for kind in ("zlib", "zstd"):
        for source in ("raw:a.raw", "o.qcow2"):
            for f in ("a.qcow2", "b.raw", "plain.qcow2"):
                if os.path.exists(f):
                    os.remove(f)
            joist("convert", source, "plain.qcow2")
            joist("convert", "--compress", kind, source, "a.qcow2")
            qemu_check("a.qcow2")
            joist("check", "a.qcow2")
            same("plain.qcow2", "qcow2", "a.qcow2", "qcow2")
            if os.path.getsize("a.qcow2") > os.path.getsize("plain.qcow2") * 0.8:
                raise Failed(f"{kind}: not smaller: {os.path.getsize('a.qcow2')}")
            joist("convert", "a.qcow2", "b.raw")
            same("plain.qcow2", "qcow2", "b.raw", "raw")
            write_some("a.qcow2", "qcow2", 11, size)
            write_some("b.raw", "raw", 11, size)
            qemu_check("a.qcow2")
            same("a.qcow2", "qcow2", "b.raw", "raw")
    if "only qcow2" not in joist("convert", "-c", "zlib", "raw:a.raw", "c.raw", code=1):
        raise Failed("a raw image is compressed")


def compressed():
    size = 5 * MIB + 512
    make_raw("a.raw", size, 5)
    for kind in ("zlib", "zstd"):
        for cluster in ("512", "64k", "2M"):
            for f in ("a.qcow2", "b.raw", "o.qcow2"):
                if os.path.exists(f):
                    os.remove(f)
            run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
                f"compression_type={kind},cluster_size={cluster}", "a.raw", "a.qcow2")
            joist("convert", "a.qcow2", "b.raw")
            same("a.raw", "raw", "b.raw", "raw")
            run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2",
                "o.qcow2")
            write_some("o.qcow2", "qcow2", 6, size)
            os.remove("b.raw")
            joist("convert", "o.qcow2", "b.raw")
            joist("commit", "o.qcow2")
            qemu_check("a.qcow2")
            same("a.qcow2", "qcow2", "b.raw", "raw")


def chain():
    """Backing files: an overlay of an overlay of a raw image, rebased and flattened."""
    make_raw("base.raw", 4 * MIB, 7)
    os.mkdir("sub")
    joist("create", "mid.qcow2", "--backing", "base.raw")
    write_some("mid.qcow2", "qcow2", 8, 4 * MIB)
    joist("create", "sub/top.qcow2", "6M", "--backing", "../mid.qcow2")
    write_some("sub/top.qcow2", "qcow2", 9, 6 * MIB)
    run("qemu-img", "convert", "-O", "raw", "sub/top.qcow2", "want.raw")
    info = json.loads(joist("info", "--chain", "--json", "sub/top.qcow2"))
    if [i["format"] for i in info] != ["qcow2", "qcow2", "raw"]:
        raise Failed(f"the chain is {info}")
    joist("convert", "sub/top.qcow2", "got.raw")
    same("want.raw", "raw", "got.raw", "raw")
    joist("rebase", "sub/top.qcow2", "raw:../base.raw")
    same("want.raw", "raw", "sub/top.qcow2", "qcow2")
    joist("rebase", "sub/top.qcow2")
    os.remove("base.raw")
    qemu_check("sub/top.qcow2")
    same("want.raw", "raw", "sub/top.qcow2", "qcow2")


def snapshots():
    """An image with internal snapshots: written by us, they keep what they had."""
    size = 4 * MIB
    run("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", str(size))
    write_some("a.qcow2", "qcow2", 10, size)
    run("qemu-img", "convert", "-O", "raw", "a.qcow2", "old.raw")
    run("qemu-img", "snapshot", "-c", "one", "a.qcow2")
    joist("check", "a.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "o.qcow2")
    write_some("o.qcow2", "qcow2", 11, size)
    run("qemu-img", "convert", "-O", "raw", "o.qcow2", "new.raw")
    joist("commit", "o.qcow2")
    qemu_check("a.qcow2")
    joist("check", "a.qcow2")
    same("a.qcow2", "qcow2", "new.raw", "raw")
    run("qemu-img", "snapshot", "-a", "one", "a.qcow2")
    same("a.qcow2", "qcow2", "old.raw", "raw")


def repair():
    """Refcounts of a dirty image are rebuilt; leaks are found and freed."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "a.qcow2", "8M")
    # Dies before it wrote the counts.
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 1M 2M", "-c", "flush", "-c", "sigraise 9",
        "a.qcow2", code=None)
    if not json.loads(joist("info", "--json", "a.qcow2"))["dirty"]:
        raise Failed("the image should be dirty")
    joist("check", "a.qcow2", code=1)
    joist("check", "--repair", "a.qcow2")
    qemu_check("a.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "read -P 5 1M 2M", "a.qcow2")


def refused():
    """What cannot be read is refused by name; formats are not guessed."""
    cases = [("data_file=d.raw,data_file_raw=on", "external data file"),
             ("extended_l2=on,cluster_size=64k", "extended L2")]
    for o, word in cases:
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", o, "a.qcow2", "1M")
        out = joist("info", "a.qcow2", code=5)
        if word not in out:
            raise Failed(out)
        os.remove("a.qcow2")
    joist("create", "a.qcow2", "1M")
    os.rename("a.qcow2", "a.img")
    if "looks like qcow2" not in joist("info", "a.img", code=1):
        raise Failed("a.img was guessed")
    joist("info", "qcow2:a.img")
    if "raw" not in joist("info", "raw:a.img"):
        raise Failed("raw:a.img is not raw")
    with open("a.img", "r+b") as f:
        f.seek(72)
        f.write((1 << 60).to_bytes(8, "big"))
    if "feature 60" not in joist("info", "qcow2:a.img", code=5):
        raise Failed("an unknown feature was not refused")
    joist("create", "b.qcow2", "1M")
    if "exists already" not in joist("create", "b.qcow2", "1M", code=4):
        raise Failed("an image was overwritten")


sys.exit(main([ours, theirs, packed, compressed, chain, snapshots, repair, refused]))
