#!/usr/bin/env python3
"""VHDX images that were not closed: what `joist disk convert` shows is what a replay of the log makes.

usage: vhdx_log.py JOIST [CASE]...      TAP; skips where qemu-img and qemu-io are missing

Logs are left by qemu-io, whose n-th write fails, or made here [MS-VHDX 2.3]: rings that wrap, old runs,
tails in the middle. Then the wanted file is made here as well, by applying what the log says to a copy
whose header is marked clean, and qemu-img reads that.
"""
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys

from imagelib import MIB, Failed, clean, joist, main, run, same

SECTOR = 4096
HEADERS = (64 << 10, 128 << 10)
GUID = bytes(range(1, 17))
CRC = []
for _i in range(256):
    _c = _i
    for _ in range(8):
        _c = _c >> 1 ^ (0x82f63b78 if _c & 1 else 0)
    CRC.append(_c)


def crc32c(data):
    crc = 0xffffffff
    for b in data:
        crc = crc >> 8 ^ CRC[(crc ^ b) & 255]
    return crc ^ 0xffffffff


def le(n, size):
    return n.to_bytes(size, "little")


def get(data, at, size):
    return int.from_bytes(data[at:at + size], "little")


def summed(block):
    """With its checksum, which lies behind the signature."""
    block = bytes(block[:4]) + bytes(4) + bytes(block[8:])
    return block[:4] + le(crc32c(block), 4) + block[8:]


def read(path):
    with open(path, "rb") as f:
        return bytearray(f.read())


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def header(image):
    return max(HEADERS, key=lambda at: get(image, at + 8, 8))


def set_header(image, **fields):
    """Changes the current header: guid, log_version, version, log_len, log."""
    places = {"guid": (48, 16), "log_version": (64, 2), "version": (66, 2), "log_len": (68, 4),
              "log": (72, 8)}
    at = header(image)
    h = image[at:at + SECTOR]
    for name, value in fields.items():
        where, size = places[name]
        h[where:where + size] = value if name == "guid" else le(value, size)
    image[at:at + SECTOR] = summed(h)


def entry(number, tail, ops, flushed, last, guid=GUID):
    """ops: ("data", place, 4096 bytes) or ("zero", place, length); tail in sectors."""
    descriptors, data = b"", b""
    for kind, place, what in ops:
        if kind == "zero":
            descriptors += b"zero" + bytes(4) + le(what, 8) + le(place, 8) + le(number, 8)
        else:
            descriptors += b"desc" + what[-4:] + what[:8] + le(place, 8) + le(number, 8)
            data += b"data" + le(number >> 32, 4) + what[8:-4] + le(number & 0xffffffff, 4)
    top = 64 + len(descriptors)
    pad = -top % SECTOR
    length = top + pad + len(data)
    h = (b"loge" + bytes(4) + le(length, 4) + le(tail * SECTOR, 4) + le(number, 8) +
         le(len(ops), 4) + bytes(4) + guid + le(flushed, 8) + le(last, 8))
    return summed(h + descriptors + bytes(pad) + data)


def put_in_log(image, sector, data):
    """Into the ring, from that sector on."""
    h = header(image)
    log, size = get(image, h + 72, 8), get(image, h + 68, 4)
    for i in range(0, len(data), SECTOR):
        at = log + (sector * SECTOR + i) % size
        image[at:at + SECTOR] = data[i:i + SECTOR]


def ring(image):
    return get(image, header(image) + 68, 4) // SECTOR


def apply(image, ops, last):
    for kind, place, what in ops:
        what = bytes(what) if kind == "zero" else what
        if len(image) < place + len(what):
            image.extend(bytes(place + len(what) - len(image)))
        image[place:place + len(what)] = what
    if len(image) < last:
        image.extend(bytes(last - len(image)))


def compare(what, dirty, wanted):
    """dirty.vhdx through joist, and wanted.vhdx through qemu-img."""
    clean("base.vhdx")
    write("dirty.vhdx", dirty)
    write("wanted.vhdx", wanted)
    joist("convert", "-q", "dirty.vhdx", "got.raw")
    if json.loads(joist("info", "--json", "dirty.vhdx"))["dirty"] != \
            any(dirty[header(dirty) + 48:header(dirty) + 64]):
        raise Failed(f"{what}: info is wrong about whether it was closed")
    if read("dirty.vhdx") != dirty:
        raise Failed(f"{what}: the source was changed")
    run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", "wanted.vhdx", "want.raw")
    try:
        same("want.raw", "raw", "got.raw", "raw")
    except Failed as e:
        raise Failed(f"{what}: {e}") from e


def refused(what, image, word, code=1):
    write("dirty.vhdx", image)
    out = joist("convert", "-q", "dirty.vhdx", "no.raw", code=None)
    if word not in out or os.path.exists("no.raw"):
        raise Failed(f"{what}: not refused for {word!r}: {out}")


def make_base():
    """Two blocks of 1 MiB with data, seven that are not there yet."""
    run("qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=1M", "base.vhdx", "9M")
    run("qemu-io", "-f", "vhdx", "-c", "write -P 17 0 1M", "-c", "write -P 34 3M 1M", "base.vhdx")


def bat(image):
    at = 192 << 10
    for i in range(get(image, at + 8, 4)):
        x = at + 16 + 32 * i
        if image[x:x + 4] == bytes.fromhex("6677c22d"):
            return get(image, x + 16, 8)
    raise Failed("no block table")


def qemu():
    """Left by qemu-io when its n-th write failed, on new images and on ones with an old log."""
    writes = ["write -P 5 9M 100k", "write -P 6 20M 3M", "write -z 21M 1M", "write -P 7 63M 64k"]
    replayed = set()
    run("qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=1M", "base.vhdx", "64M")
    for n in range(2, 34):
        clean("base.vhdx")
        shutil.copy("base.vhdx", "dirty.vhdx")
        rules = {"driver": "blkdebug", "image": {"driver": "file", "filename": "dirty.vhdx"},
                 "set-state": [{"event": "pwritev", "state": i, "new_state": i + 1}
                               for i in range(1, n)],
                 "inject-error": [{"event": "pwritev", "state": n, "iotype": "write",
                                   "immediately": True}]}
        commands = [x for w in writes for x in ("-c", w)]
        run("qemu-io", *commands, "json:" + json.dumps({"driver": "vhdx", "file": rules}),
            code=None)
        dirty = read("dirty.vhdx")
        if not any(dirty[header(dirty) + 48:header(dirty) + 64]):
            continue
        shutil.copy("dirty.vhdx", "repaired.vhdx")
        run("qemu-img", "check", "-q", "-r", "all", "-f", "vhdx", "repaired.vhdx", code=None)
        repaired = read("repaired.vhdx")
        if any(repaired[header(repaired) + 48:header(repaired) + 64]):
            # The header says that there is a log, and no entry is whole yet: qemu-img goes on
            # without, [MS-VHDX 2.3.3] wants that refused.
            refused(f"write {n}", dirty, "no run of whole entries")
            continue
        compare(f"write {n}", dirty, repaired)
        replayed.add(hashlib.sha256(dirty[MIB:2 * MIB]).digest())
    if len(replayed) < 4:
        raise Failed(f"qemu-io left only {len(replayed)} logs")


def random_ops(r, image, extra):
    """Changes of blocks that are there, and of what comes behind the file's end."""
    start = 4 * MIB  # payload begins behind header, log, metadata and block table
    ops = []
    for _ in range(r.choice((0, 1, 2, 5, 140))):
        place = r.randrange(start, len(image) + extra, SECTOR)
        if r.randrange(3):
            # Signatures of the log inside of data must not confuse.
            data = r.choice((r.randbytes(SECTOR), b"loge" * 1024, b"data" * 1024))
            ops.append(("data", place, data))
        else:
            ops.append(("zero", place, SECTOR * r.choice((0, 1, 2, 30))))
    return ops


def add_block(r, image, table, place):
    """A block that is not there yet gets one at `place`: through the table, in the log."""
    sector = bytearray(image[table:table + SECTOR])
    free = [i for i in range(9) if get(sector, 8 * i, 8) & 7 != 6]
    i = r.choice(free)
    sector[8 * i:8 * i + 8] = le(place | 6, 8)
    return ("data", table, bytes(sector))


def one_random(seed):
    r = random.Random(seed)
    image = read("base.vhdx")
    table, size, sectors = bat(image), len(image), ring(image)
    last = size + MIB
    number = r.choice((1, 7, (1 << 32) - 2, 1 << 40))
    set_header(image, guid=GUID)
    # Noise, and a whole run that is older, or of another image.
    for at in range(sectors):
        if r.randrange(3) == 0:
            put_in_log(image, at, r.choice((b"loge" + r.randbytes(SECTOR - 4), b"data" * 1024)))
    place = r.randrange(sectors)
    old = entry(number, place, [("data", 5 * MIB, b"old!" * 1024)], size, size,
                r.choice((GUID, bytes(16))))
    put_in_log(image, place, old)
    number += r.choice((2, 5))
    # The run that counts, behind the old one; the head's tail is one of its entries.
    start = at = (place + len(old) // SECTOR + r.randrange(3)) % sectors
    entries, used = [], 0
    count = r.randrange(1, 9)
    wanted_ops = [random_ops(r, image, MIB) for _ in range(count)]
    wanted_ops[-1].append(add_block(r, image, table, size))
    tail_index = r.randrange(count) if r.randrange(2) else 0
    starts = []
    for ops in wanted_ops:
        starts.append(at)
        tail = starts[tail_index] if len(starts) > tail_index else starts[0]
        e = entry(number + len(starts) - 1, tail, ops, size, last)
        if used + len(e) // SECTOR > sectors - 4:
            break
        entries.append(e)
        used += len(e) // SECTOR
        at = (at + len(e) // SECTOR) % sectors
    if len(entries) < count:
        return False
    at = start
    for e in entries:
        put_in_log(image, at, e)
        at = (at + len(e) // SECTOR) % sectors
    after = r.randrange(3)
    if after:  # one that was not written to its end, or that came after one that is lost
        e = entry(number + count + after - 1, start, [("data", 5 * MIB, b"torn" * 1024)], size, last)
        put_in_log(image, at, e[:SECTOR] if after == 1 else e)
    wanted = bytearray(image)
    for ops in wanted_ops[tail_index:]:
        apply(wanted, ops, last)
    set_header(wanted, guid=bytes(16))
    compare(f"seed {seed}", image, wanted)
    return True


def made():
    """Random logs: rings that wrap, zeroes and data over each other, old runs, torn entries."""
    make_base()
    done = sum(one_random(seed) for seed in range(30))
    if done < 15:
        raise Failed(f"only {done} logs fitted")


def whole_ring():
    """One entry as long as the log."""
    make_base()
    image = read("base.vhdx")
    sectors, size = ring(image), len(image)
    set_header(image, guid=GUID)
    # 255 descriptors take three sectors.
    ops = [("data", 5 * MIB + SECTOR * i, bytes([i]) * SECTOR) for i in range(sectors - 3)]
    ops += [("zero", 5 * MIB + 7 * SECTOR, SECTOR), ("zero", 5 * MIB + 9 * SECTOR, 2 * SECTOR)]
    e = entry(9, 100, ops, size, size)
    if len(e) != sectors * SECTOR:
        raise Failed(f"the entry has {len(e)} bytes")
    put_in_log(image, 100, e)
    wanted = bytearray(image)
    apply(wanted, ops, size)
    set_header(wanted, guid=bytes(16))
    compare("whole ring", image, wanted)


def broken():
    """What is wrong is refused, by name."""
    make_base()
    base = read("base.vhdx")
    size, sectors = len(base), ring(base)
    op = [("data", 5 * MIB, b"new!" * 1024)]

    def dirty(data=None, at=3, **fields):
        image = bytearray(base)
        set_header(image, guid=GUID, **fields)
        if data is not None:
            put_in_log(image, at, data)
        return image

    good = entry(5, 3, op, size, size)
    compare("good", dirty(good), dirty_free(base, op))
    none = "no run of whole entries"
    refused("no log", dirty(), none)
    refused("sum", dirty(good[:-9] + b"x" + good[-8:]), none)
    refused("guid", dirty(entry(5, 3, op, size, size, bytes(16))), none)
    refused("tail", dirty(entry(5, 9, op, size, size)), none)
    refused("tail outside", dirty(entry(5, sectors, op, size, size)), none)
    refused("number", dirty(entry(0, 3, op, size, size)), none)
    refused("place", dirty(entry(5, 3, [("data", 77, op[0][2])], size, size)), none)
    refused("length", dirty(entry(5, 3, [("zero", 5 * MIB, 77)], size, size)), none)
    refused("far", dirty(entry(5, 3, [("zero", 1 << 57, SECTOR)], size, size)), none)
    bad = bytearray(good)
    bad[64:68] = b"what"
    refused("kind", dirty(summed(bad)), none)
    bad = bytearray(good)
    bad[SECTOR:SECTOR + 4] = b"what"
    refused("data", dirty(summed(bad)), none)
    bad = bytearray(good)
    bad[24:28] = le(1 << 31, 4)
    refused("count", dirty(summed(bad)), none)
    bad[24:28] = le(2, 4)
    refused("two of one", dirty(summed(bad)), none)
    refused("truncated", dirty(entry(5, 3, op, size + MIB, size)), "the image is truncated")
    refused("last", dirty(entry(5, 3, op, size, 1 << 60)), "wants a file of")
    refused("log version", dirty(good, log_version=1), "its log is of version 1")
    refused("version", dirty(good, version=2), "VHDX version 2")
    refused("log length", dirty(log_len=MIB + SECTOR), "a log of 1052672 bytes")
    refused("no length", dirty(log_len=0), "a log of 0 bytes")
    refused("log place", dirty(log=MIB + SECTOR), "a log of")
    refused("log outside", dirty(log=1 << 40), "lies outside")
    refused("long log", dirty(log_len=128 * MIB), "longer than the 64 MiB")
    image = dirty()
    long = bytearray(entry(5, 3, [], size, size))
    long[8:12] = le(sectors * SECTOR, 4)
    put_in_log(image, 0, bytes(long) * sectors)
    refused("over each other", image, "lie over each other")
    image = bytearray(base)
    for at in HEADERS:
        image[at + 100] ^= 1
    refused("headers", image, "no whole VHDX header")
    image = bytearray(base)
    for at in (192 << 10, 256 << 10):
        image[at + 4] ^= 1
        if at == 192 << 10:
            compare("the second region table", image, base)
    refused("regions", image, "no whole region table")


def dirty_free(base, ops):
    image = bytearray(base)
    apply(image, ops, len(image))
    return image


sys.exit(main([qemu, made, whole_ring, broken]))
