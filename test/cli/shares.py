#!/usr/bin/env python3
"""Two VMs of one user that both want all CPUs: how these are divided, by the CPU time that they got.

usage: shares.py JOIST [CASE...]
Nothing here is a speed. The shares are said to hold as far as other programs leave the CPUs to the
VMs, so an interval counts only if the VMs had nearly all of them; on a host that is busy
otherwise a case says so and is skipped.
"""
import os
import sys
import time

sys.dont_write_bytecode = True
import vmlib  # noqa: E402
from vmlib import Skip, busybox, case, inspect, joist, until_log  # noqa: E402

CPUS = len(os.sched_getaffinity(0))
TRIES, SPAN = 15, 4


def start(name, shares):
    spin = "while :; do :; done"
    joist("run", "-d", "--name", name, *busybox(append=f'joist.run="{(spin + " & ") * (CPUS - 1)}{spin}"'),
          "-c", str(CPUS), "--cpu-shares", str(shares))


def used():
    return {name: inspect(name)["cpu-us"] / 1e6 for name in ("a", "b")} | {"time": time.monotonic()}


def divided():
    """CPUs that a and b had, in an interval in which they had nearly all."""
    both = []
    for _ in range(TRIES):
        before = used()
        time.sleep(SPAN)
        after = used()
        a, b = ((after[n] - before[n]) / (after["time"] - before["time"]) for n in ("a", "b"))
        both.append(a + b)
        if a + b > 0.85 * CPUS:
            return a, b
    raise Skip(f"other programs are busy: the VMs had {max(both):.2f} of {CPUS} CPUs at best")


def within(what, a, b, least, most):
    if not least <= b / max(a, 1e-6) <= most:
        raise AssertionError(f"{what}: a had {a:.2f} CPUs and b {b:.2f}")
    return f"{what}: {a:.2f} and {b:.2f}"


@case
def by_weight():
    if CPUS < 2:
        raise Skip("one CPU is the kernel's to divide")
    start("a", 100)
    start("b", 300)
    for name in "a", "b":
        until_log(name, "joist-guest: up")
    time.sleep(2)
    notes = [within("1 to 3", *divided(), 2, 4.5)]
    joist("update", "b", "--cpu-shares", "100")
    notes.append(within("then equal", *divided(), 0.7, 1.4))
    # Who wants nothing leaves all of it.
    joist("pause", "a")
    time.sleep(1)
    notes.append(within("a paused", *divided(), 20, float("inf")))
    joist("resume", "a")
    notes.append(within("and again", *divided(), 0.6, 1.6))
    # The same if it is killed: nobody is left to say that it wants nothing any more.
    os.kill(inspect("a")["pid"], 9)
    pid = inspect("b")["pid"]
    vmlib.until("b on all CPUs", lambda: os.sched_getaffinity(pid) == os.sched_getaffinity(0), 30)
    return "; ".join(notes)


if __name__ == "__main__":
    sys.exit(vmlib.main(sys.argv))
