#!/usr/bin/env python3
"""What tools/bench-run computes from the outputs it reads. TAP; measures nothing.

usage: bench_run_test.py TOOLS-DIR
"""
import importlib.util
import json
import os
import sys
import xml.dom.minidom
from importlib.machinery import SourceFileLoader

sys.dont_write_bytecode = True
loader = SourceFileLoader("bench_run", os.path.join(sys.argv[1], "bench-run"))
spec = importlib.util.spec_from_loader("bench_run", loader)
run = importlib.util.module_from_spec(spec)
loader.exec_module(run)

OUTPUT = """\
[    0.5] something of the kernel
bench: up 1.25
bench: start fib
bench: fib 2.5000
bench: start sha-ni
bench: sha-ni skip
bench: start x87
[    2.0] printk without an end bench: x87 10.0000
bench: start pipe
bench: pipe failed: signal 11
bench: start futex
""".splitlines()


def test_parse_values():
    values, _, _, _ = run.parse(OUTPUT)
    assert values == {"fib": 2.5, "x87": 10.0}, values


def test_parse_missing():
    _, missing, _, _ = run.parse(OUTPUT)
    assert missing == {"sha-ni": "skip", "pipe": "failed: signal 11"}, missing


def test_parse_early_end():
    _, _, started, end = run.parse(OUTPUT)
    assert started == "futex" and not end
    assert run.parse(OUTPUT + ["bench: futex 1.0", "bench: end"])[3]
    assert run.parse([]) == ({}, {}, None, False)


def test_up_lines():
    assert run.UP.search("bench: up 1.25")
    assert run.UP.search("joist-guest: up 6.1.0 x86_64 cpus=1 uptime=0.91")
    assert not run.UP.search("bench: start up")


def test_medians():
    got = run.merge([{"a": 1, "b": 5}, {"a": 3}, {"a": 100, "b": 7}])
    assert got == {"a": 3, "b": 6}, got
    assert run.merge([]) == {}


def test_geomean():
    assert abs(run.geomean([1, 4, 16]) - 4) < 1e-9
    assert abs(run.geomean([2, None, 8]) - 4) < 1e-9
    assert run.geomean([None]) is None and run.geomean([]) is None


MEDIANS = {"native": {"fib": 1.0, "x87": 2.0, "pipe": 4.0},
           "tcg": {"fib": 8.0, "x87": 10.0, "pipe": 4.0, "boot-cloud": 6.0},
           "soft": {"fib": 2.0, "x87": 2.0, "pipe": 8.0, "boot-cloud": 3.0}}
LINES = run.make_lines(["fib", "x87", "pipe", "sha-ni", "boot-cloud"], MEDIANS,
                       {"tcg": {"sha-ni": "skip"}})


def test_ratios():
    by = {x["name"]: x for x in LINES}
    assert by["fib"]["soft_native"] == 2 and by["fib"]["tcg_soft"] == 4
    assert by["boot-cloud"]["soft_native"] is None and by["boot-cloud"]["unit"] == "s"
    assert by["sha-ni"]["tcg_soft"] is None and by["sha-ni"]["missing"] == {"tcg": "skip"}


def test_summary():
    s = run.summarize(LINES)
    assert s["slower_than_tcg"] == ["pipe"], s
    assert s["below_target"] == ["x87", "pipe"], s
    assert abs(s["soft_native_compute_geomean"] - 2 ** 0.5) < 1e-9, s
    assert abs(s["tcg_soft_geomean"] - (4 * 5 * 0.5 * 2) ** 0.25) < 1e-9, s


def test_table():
    text = run.table(LINES, run.summarize(LINES))
    rows = {t.split()[0]: t for t in text}
    assert "SLOWER" in rows["pipe"] and "below target" in rows["x87"]
    assert "tcg: skip" in rows["sha-ni"] and "SLOWER" not in rows["fib"]
    assert all(len(t.rstrip()) < 110 for t in text)


def test_nothing_measured():
    lines = run.make_lines(["fib"], {}, {})
    s = run.summarize(lines)
    assert s["tcg_soft_geomean"] is None and s["slower_than_tcg"] == []
    assert run.table(lines, s) and run.svg(lines, s)


def test_svg_is_xml():
    doc = xml.dom.minidom.parseString(run.svg(LINES, run.summarize(LINES)))
    assert doc.documentElement.tagName == "svg"
    assert len(doc.getElementsByTagName("rect")) == 1 + 4


def test_json():
    assert json.loads(json.dumps(LINES))[0]["name"] == "fib"


tests = [(n, f) for n, f in list(globals().items()) if n.startswith("test_")]
print(f"1..{len(tests)}")
failed = 0
for i, (name, fn) in enumerate(tests, 1):
    try:
        fn()
        print(f"ok {i} - {name[5:]}")
    except AssertionError as e:
        failed = 1
        print(f"# line {e.__traceback__.tb_lineno}: {e}")
        print(f"not ok {i} - {name[5:]}")
sys.exit(failed)
