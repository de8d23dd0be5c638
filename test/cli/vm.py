#!/usr/bin/env python3
"""Kept VMs from outside, with the small busybox guest: lifecycle, definitions, console, death.

usage: vm.py JOIST [CASE]...
"""
import csv
import fcntl
import hashlib
import http.server
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time

import vmlib
from ears import kernel
from waiting import Child, Output  # vmlib knows where it is
from vmlib import (Skip, alive, busybox, case, clean, folder, guest_file, has, inspect, joist, refused,
                   same, until, until_log)

UP = "joist-guest: up"


def run(name, *extra, append=""):
    p = joist("run", "-d", "--name", name, *busybox(*extra, append=append))
    same(p.stdout, name + "\n", "what run -d prints")


@case
def life_of_a_vm():
    run("web")
    refused(4, "run", "-d", "--name", "web", *busybox(), says="there is a VM web already")
    refused(4, "start", "web", says="running already")
    until_log("web", UP)
    j = inspect("web")
    same((j["name"], j["state"], j["memory"]), ("web", "running", 128 << 20), "inspect")
    assert alive(j["pid"]), j
    has(joist("ps").stdout, "web")
    same(joist("ls", "-q").stdout, "web\n", "ls -q")
    joist("pause", "web")
    same(inspect("web")["state"], "paused", "state")
    refused(4, "pause", "web", says="paused already")
    joist("resume", "web")
    refused(4, "resume", "web", says="not paused")
    refused(4, "rm", "web", says=("is running", "rm -f web"))
    joist("stop", "-f", "web")
    until("the end of its process", lambda: not alive(j["pid"]))
    j = inspect("web")
    same((j["state"], j["end"]), ("stopped", "forced off"), "after stop")
    same(joist("ls", "-q").stdout, "", "ls without -a")
    same(joist("ls", "-aq").stdout, "web\n", "ls -a")
    refused(4, "stop", "web", says="not running")
    joist("start", "web")
    joist("restart", "-f", "web")
    same(inspect("web")["state"], "running", "after restart")
    joist("rm", "-f", "web")
    same(os.listdir(os.path.dirname(folder("web"))), [], "what is left")
    same([x for x in os.listdir(os.path.join(vmlib.home, "run/joist")) if "." in x], [],
         "sockets left")


def ears(obeys=True):
    """Options of a VM with a guest that listens to the power button."""
    path = os.path.join(vmlib.home, "obeys" if obeys else "stubborn")
    with open(path, "wb") as f:
        f.write(kernel(obeys))
    return ["--kernel", path, "-m", "32M"]


@case
def stop_asks_the_guests():
    """By SIGTERM, by stop of several at once, and while paused; a second SIGTERM insists."""
    for name in "term", "one", "two", "deaf":
        joist("run", "-d", "--name", name, "--restart", "always", *ears(name != "deaf"))
        until_log(name, "ears")
    os.kill(inspect("term")["pid"], signal.SIGTERM)
    until("the guest's end", lambda: inspect("term")["state"] == "stopped")
    has(joist("logs", "term").stdout, "heard")
    same(inspect("term")["end"], "powered off", "how it ended, and it is not started again")
    joist("pause", "two")
    p = joist("stop", "one", "two", "two", "deaf", "--timeout", "8")
    same(p.stderr, "joist: the guest of VM deaf has not shut down in 8 s: its power was taken away\n",
         "what is said")
    same([(inspect(n)["state"], inspect(n)["end"]) for n in ("one", "two", "deaf")],
         [("stopped", "powered off")] * 2 + [("stopped", "forced off")], "how they ended")
    same(inspect("deaf")["why"], "the guest did not shut down in time", "why")
    joist("start", "deaf")
    j = inspect("deaf")
    os.kill(j["pid"], signal.SIGTERM)
    until("that it is asked", lambda: inspect("deaf")["state"] == "stopping")
    os.kill(j["pid"], signal.SIGTERM)
    until("its end", lambda: not alive(j["pid"]))
    same(inspect("deaf")["why"], "Terminated", "why")
    # Without --timeout it is the definition's.
    joist("rm", "-f", "deaf")
    joist("run", "-d", "--name", "deaf", "--stop-timeout", "1", *ears(False))
    has(joist("stop", "--all").stderr, "the guest of VM deaf has not shut down in 1 s")
    refused(4, "stop", "deaf", says="VM deaf is not running")
    joist("start", "one", "deaf")
    joist("restart", "one", "deaf", "term")
    same([inspect(n)["state"] for n in ("one", "deaf", "term")], ["running"] * 3, "after restart")


@case
def stop_in_the_foreground():
    """SIGTERM to joist run: the guest is asked if it listens; the second time it is over."""
    for options, signals, says, words in ((ears(), 1, "asked to shut down", "heard"),
                                          (ears(False), 2, "the VM is stopped", "heard"),
                                          (ears(False) + ["--stop-timeout", "1"], 1, "the VM is stopped", "heard")):
        p = subprocess.Popen([vmlib.joist_path, "run", *options], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = ""
        same(p.stdout.readline(), "ears\n", "its first line")
        p.send_signal(signal.SIGTERM)
        if signals == 2:
            same(p.stdout.readline(), "heard\n", "its second line")
            p.send_signal(signal.SIGTERM)
            said = "heard"
        out, err = p.communicate(timeout=120)
        same(p.returncode, 143, "exit code")
        has(err, says)
        has(said + out, words)


@case
def templates():
    """--format, as docker's users write it."""
    joist("create", "--name", "db", *ears())
    joist("run", "-d", "--name", "web", "-p", "18083:80", "-p", "18084:81", *ears())
    j = inspect("web")

    def said(text, *names):
        return joist("inspect", "-f", text, *names or ["web"]).stdout
    same(set(inspect("db")), set(j), "fields, whatever the state")
    same(said("{{.Name}}={{ .State.Pid }}\\t{{.State.Status}}"), f"web={j['pid']}\trunning\n", "docker's names")
    same(said("{{.ports}} {{.ports.1}}.{{.ports.7}} {{json .ports}}"),
         '18083:80,18084:81 18084:81. ["18083:80","18084:81"]\n', "a list")
    same(said("{{.definition.memory}} [{{.definition.cpu_limit}}][{{.addresses.0}}]"), "32M [][]\n", "what is not set")
    same(json.loads(said("{{json .}}"))["id"], j["id"], "all of it")
    same(said("{{.name}} {{.pid}}", "web", "db"), f"web {j['pid']}\ndb \n", "several")
    same(said("json", "db"), joist("inspect", "db").stdout, "the word json")
    for text, says in (("{{.nam}}", ("no field nam (did you mean name?)", "exit-code", "addresses")),
                       ("{{.State.Foo}}", "nothing below {{.State}}"), ("{{.definition.memroy}}", "mean memory?"),
                       ("{{range .ports}}x{{end}}", "{{range .ports}} is not understood"), ("{{.name", "has no }}"),
                       ("{{}}", "not understood"), ("{{..}}", "not understood"), ("nome", "neither json nor yaml")):
        refused(2, "inspect", "--format", text, "web", says=says)
    rows = joist("ps", "-a", "--format", "table {{.Names}}\\t{{.Status}}\\t{{.definition.memory}}").stdout
    same([r.split() for r in rows.splitlines()],
         [["NAMES", "STATUS", "MEMORY"], ["db", "created", "32M"], ["web", "running", "32M"]], "a table")
    same(joist("ps", "--format", "{{.ID}}").stdout, j["id"] + "\n", "ps with a field")
    refused(2, "ps", "--format", "{{.nam}}", says="did you mean name?")
    refused(2, "ps", "--format", "tabel", says="--format tabel")


@case
def more_memory_than_there_is():
    """Each may have it, all together not: said when the second starts. Nothing of it is touched."""
    with open("/proc/meminfo", encoding="ascii") as f:
        total = int(f.readline().split()[1]) >> 10
    half = [f"{total * 6 // 10}M", "--engine", "soft,interp"]
    p = joist("run", "-d", "--name", "one", *ears()[:2], "-m", *half, code=None)
    if p.returncode:
        raise Skip("less than 60 % of this host's memory is free")
    p = joist("run", "-d", "--name", "two", *ears()[:2], "-m", *half)
    for part in "warning: two: this VM may take", "and 1 that run", "the kernel kills a VM":
        has(p.stderr, part)
    with open(f"/proc/{inspect('two')['pid']}/oom_score_adj", encoding="ascii") as f:
        assert int(f.read()) >= 300


@case
def killed_for_want_of_memory():
    """By the kernel, in a control group that is too small for it: ps and logs say so."""
    group = "/sys/fs/cgroup/memory/joist-test" if os.path.isdir("/sys/fs/cgroup/memory") else "/sys/fs/cgroup/joist-test"
    limit = "memory.limit_in_bytes" if "memory/" in group else "memory.max"
    try:
        os.mkdir(group)
        with open(os.path.join(group, limit), "w", encoding="ascii") as f:
            f.write("100M")
    except OSError as e:
        if os.path.isdir(group):
            os.rmdir(group)
        raise Skip(f"no group of ours with a memory limit: {e}")
    try:
        script = f"echo $$ >{group}/cgroup.procs && exec \"$@\""
        subprocess.run(["sh", "-c", script, "sh", vmlib.joist_path, "run", "-d", "--name", "hungry", *busybox(
            "-m", "256M", append='joist.end=shell joist.run="echo full of it; head -c 130M /dev/zero >/tmp/x"')],
            check=True, stdout=subprocess.DEVNULL, timeout=120)
        until("its death", lambda: inspect("hungry")["state"] != "running", 120)
        j = inspect("hungry")
        same((j["state"], j["end"], j["status"]), ("died", "out of memory", "died (out of memory)"), "how it ended")
        has(joist("logs", "hungry").stderr, "for want of memory")
        has(joist("ps").stdout, "died (out of memory)")
        joist("start", "hungry")  # outside of that group it goes on
        until_log("hungry", "joist-guest: status", 120)
    finally:
        clean()
        until("an empty group", lambda: not open(os.path.join(group, "cgroup.procs"), encoding="ascii").read())
        os.rmdir(group)


@case
def guests_that_do_not_answer():
    """One that is starting is waited for, with a limit; a paused one is told at once."""
    run("mute")
    for verb, says in (("exec", "did not come up in time"), ("ssh", "no ssh server answers")):
        p = refused(124, verb, "--timeout", "1", "mute", "true", says=says)
        has(p.stderr, "waiting for the guest of VM mute")
    joist("pause", "mute")
    for verb in "exec", "ssh":
        refused(4, verb, "mute", "true", says="VM mute is paused")
    refused(4, "cp", "mute:/etc/passwd", "-", says="VM mute is paused")


@case
def names():
    run("alpha")
    joist("create", "--name", "alto", *busybox())
    made = joist("create", *busybox()).stdout.strip()
    assert "-" in made, made
    id_ = inspect("alto")["id"]
    same(inspect(id_[:6])["name"], "alto", "by id")
    # Whole names only: a script's "rm -f web" must not take web2 where web is gone.
    refused(3, "rm", "alt", says="no VM alt (did you mean alto?)")
    refused(3, "inspect", id_[:3], says="no VM")
    refused(3, "inspect", "alpah", says="did you mean alpha?")
    refused(3, "stop", "nothing-like-it", says="no VM")
    joist("rename", "alpha", "omega")  # while it runs
    same(inspect("omega")["state"], "running", "after rename")
    same(json.loads(joist("stats", "--json", "omega").stdout)[0]["name"], "omega",
         "what its process says")
    refused(4, "rename", "omega", "alto", says="there is a VM alto already")
    refused(2, "rename", "omega", "Not_Good", says="not a name")
    joist("stop", "-f", "omega")
    same(sorted(joist("prune", "--force").stdout.split()), sorted(["alto", "omega", made]), "pruned")


@case
def several_remove_one():
    """Whoever comes second has nothing to complain about with -f."""
    refused(3, "rm", "nobody", says="no VM nobody")
    has(joist("rm", "-f", "nobody").stderr, "no VM nobody")
    for _ in range(5):
        run("fought", append="joist.end=shell")
        many = [subprocess.Popen([vmlib.joist_path, "rm", "-f", "fought"], stderr=subprocess.PIPE)
                for _ in range(4)]
        for p in many:
            err = p.communicate(timeout=120)[1]
            same(p.returncode, 0, f"exit code; it said {err!r}")
        same(joist("ls", "-aq").stdout, "", "what is left")


@case
def out_of_reach():
    """A VM is found from where XDG_RUNTIME_DIR is another, and rm -f ends one that does not answer."""
    env = {k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"}
    joist("run", "-d", "--name", "far", *busybox(append="joist.end=shell"), env=env)
    same(inspect("far")["state"], "running", "state, seen from here")
    j = inspect("far")
    for end in "sock", "agent":
        os.unlink(f"/tmp/joist-{os.getuid()}/{j['id']}.{end}")
    has(joist("ps").stdout, "not answering")
    has(joist("rm", "-f", "far").stderr, "did not answer and is killed")
    until("the end of its process", lambda: not alive(j["pid"]))
    same(joist("ls", "-aq").stdout, "", "what is left")


@case
def twenty_at_once():
    """All get made, each its own; and of twenty of one name one."""
    def race(names):
        many = [subprocess.Popen([vmlib.joist_path, "create", "--name", n, *busybox()],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for n in names]
        return [(p.communicate(timeout=120)[1], p.returncode) for p in many]
    same(race([f"p{i}" for i in range(20)]), [("", 0)] * 20, "messages and exit codes")
    same(len(joist("ls", "-aq").stdout.split()), 20, "how many there are")
    taken = "joist: there is a VM same already: choose another name, or 'joist rm same'\n"
    same(sorted(race(["same"] * 20)), sorted([("", 0)] + [(taken, 4)] * 19), "of one name")


@case
def lists():
    run("here", "-p", "18090:80")
    joist("create", "--name", "away", "-p", "18091:81", *busybox())

    def names(*args):
        return joist("ps", "-q", *args).stdout.split()
    same(names(), ["here"], "those that run")
    same(names("-a"), ["away", "here"], "all")
    same(names("--filter", "status=created"), ["away"], "by docker's word for state")
    same(names("-a", "-f", "name=aw"), ["away"], "by a part of the name")
    same(names("-a", "-f", "name=e", "-f", "state=running"), ["here"], "by two")
    same(names("-f", "image=none"), [], "by image")
    refused(2, "ps", "--filter", "label=x", says="--filter label=x: not state=")
    same(json.loads(joist("ps", "-a", "--format", "json").stdout)[0]["name"], "away", "JSON")
    rows = list(csv.reader(joist("ps", "-a", "--format", "csv").stdout.splitlines()))
    same([r[0] for r in rows], ["NAME", "away", "here"], "CSV")
    same(json.loads(joist("port", "ls", "--json").stdout),
         {"away": ["18091:81"], "here": ["127.0.0.1:18090:80/tcp"]}, "ports of all")
    for verb in (["ps"], ["ps", "-a"], ["stats"], ["image", "ls"], ["network", "ls"], ["port", "ls", "here"]):
        json.loads(joist(*verb, "--json").stdout)


@case
def guest_ends_by_itself():
    run("off", append='joist.run="echo said"')
    until("its end", lambda: inspect("off")["state"] == "stopped")
    j = inspect("off")
    same((j["end"], j["exit-code"]), ("powered off", 0), "how it ended")
    has(joist("logs", "off").stdout, "said")
    run("bad", append="joist.end=panic joist.run=true")
    until("its end", lambda: inspect("bad")["state"] == "stopped")
    j = inspect("bad")
    same((j["end"], j["exit-code"]), ("panicked", 1), "how it ended")
    has(j["why"], "sysrq")
    joist("run", "-d", "--rm", "--name", "gone", *busybox(append="joist.run=true"))
    until("its removal", lambda: "gone" not in joist("ls", "-aq").stdout)


@case
def restart_policy():
    run("again", "--restart", "on-failure", append="joist.end=panic joist.run=true")
    first = inspect("again")["started"]
    until("a second boot", lambda: joist("logs", "again").stdout.count(UP) >= 2)
    joist("rm", "-f", "again")
    return f"first start {first}"


@case
def killed_and_started_again():
    disk = os.path.join(vmlib.home, "disk.img")
    with open(disk, "wb") as f:
        f.truncate(16 << 20)
    script = 'joist.modules=1 joist.run="echo FLUSHED-DATA | dd of=/dev/vda conv=fsync 2>/dev/null; ' \
             'echo it-is-written; sleep 1000"'
    run("victim", "--disk", disk, append=script)
    until_log("victim", "it-is-written")
    pid = inspect("victim")["pid"]
    os.kill(pid, signal.SIGKILL)
    until("its death", lambda: inspect("victim")["state"] == "died")
    until("its process gone", lambda: not alive(pid))  # the lock goes a moment earlier
    has(joist("ps").stdout, "died")
    refused(4, "console", "victim", says="not running")
    with open(disk, "rb") as f:
        same(f.read(12), b"FLUSHED-DATA", "what was flushed")
    joist("start", "victim")
    same(inspect("victim")["state"], "running", "state")


@case
def starter_may_die():
    """Killing the command that started a VM kills nothing."""
    p = subprocess.Popen(["sh", "-c", f"{vmlib.joist_path} run -d --name child "
                          + " ".join(f"'{x}'" for x in busybox()) + "; sleep 100"],
                         stdout=subprocess.PIPE, start_new_session=True, text=True)
    same(p.stdout.readline(), "child\n", "what it says")
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    until_log("child", UP)
    same(inspect("child")["state"], "running", "state")


@case
def definitions():
    path = os.path.join(vmlib.home, "vm.yaml")

    def write(text):
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)

    kernel, initrd = guest_file("vmlinuz-cloud"), guest_file("initramfs.cpio.gz")
    write(f"name: fromfile\nkernel: {kernel}\ninitrd: {initrd}\nmemory: 96M\n"
          "append: \"console=ttyS0 quiet \\\"x=1\\\"\"\nno-reboot: true\ndisk: []\n")
    joist("validate", path)
    joist("create", "-f", path, "--memory", "160M")
    out = joist("inspect", "-o", "yaml", "fromfile").stdout
    has(out, "memory: 160M")
    has(out, "no-reboot: true")
    joist("rm", "fromfile")
    write(out)
    joist("create", "-f", path)
    same(joist("inspect", "-o", "yaml", "fromfile").stdout, out, "the same again")
    for text, says in (
            ("memroy: 1G\n", f"{path}:1:1: unknown key memroy (did you mean memory?)"),
            ("cpus: 1\nmemory: lots\n", f"{path}:2:9: memory lots: not a size"),
            ("cpus: 1\ncpus: 2\n", f"{path}:2:1: a second cpus"),
            ("cpus: [1, 2]\n", f"{path}:1:7: one value is wanted for cpus"),
            ("disk:\n  - a\n  - {b: c}\n", f"{path}:3:5: only plain values"),
            ("- a\n", f"{path}:1:1: a definition is"),
            ("cpus: 1\n---\ncpus: 2\n", "only one document"),
            ("a: [\n", f"{path}:1:1: unknown key a"),
            ("cpus: \"1\n", path + ":"),
            ("no-reboot: perhaps\n", f"{path}:1:12: neither true nor false: perhaps"),
            ("joist: 2\n", f"{path}:1:8: joist: only version 1"),
            ("cpus: 1\nmemory: 2048\n", f"{path}:2:9: memory 2048: a multiple of 4K"),
            ("cpus: 99\n", f"{path}:1:7: cpus 99: a number from 1 to"),
            ("publish: ['80:80', '99999:80']\n", f"{path}:1:20: publish 99999:80: not"),
            ("net: lab+\n", f"{path}:1:6: net lab+: no such kind"),
            ("cpu-limit: lots\n", f"{path}:1:12: cpu-limit lots: not a part"),
            ("engine: xen\n", f"{path}:1:9: no engine xen"),
            ("ports: ['80:80']\n", "unknown key ports (did you mean publish?)"),
            ("cpus: &a 1\nmemory: *a\n", f"{path}:2:9: one value is wanted for memory")):
        write(text)
        refused(2, "validate", path, says=says)
    refused(3, "create", "-f", "/nowhere.yaml", says="No such file")
    same(joist("create", "-f", "-", stdin=f"name: piped\nkernel: {kernel}\n").stdout, "piped\n",
         "from standard input")
    has(joist("validate", "-", stdin="cpus: 0\n", code=2).stderr, "standard input:1:7: cpus 0:")
    refused(2, "create", "--kernel", kernel, "--cpu-limit", "lots", says="--cpu-limit lots")
    refused(3, "create", "no-such-image", says="no image no-such-image")


@case
def limits_in_the_foreground():
    """The part of a CPU is an upper bound: a busy host makes it less, never more."""
    before, start = os.times(), time.monotonic()
    joist("run", "--cpu-limit", "25%", "--timeout", "8s",
          *busybox(append='joist.run="while :; do :; done"'), code=124)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    part = used / (time.monotonic() - start)
    assert part < 0.5, f"{part:.2f} CPUs were used, with a limit of 0.25"


@case
def limits():
    run("busy", append='joist.run="while :; do :; done"')
    until_log("busy", UP)

    def cpu():
        return json.loads(joist("stats", "--json", "--interval", "2", "busy").stdout)[0]

    joist("update", "busy", "--cpu-limit", "20%")
    j = until("a throttled sample", lambda: (lambda s: s if s["throttled-ns"] or s["cpu-percent"] < 30
                                             else None)(cpu()), 30)
    j = cpu()
    assert j["cpu-percent"] < 45, j  # one CPU busy would be 100, were it not for the limit
    has(joist("inspect", "-o", "yaml", "busy").stdout, 'cpu-limit: "20%"')
    has(joist("update", "busy", "--memory", "192M").stderr, "when VM busy is started again")
    has(joist("update", "busy", "--cpus", "2").stderr, "when VM busy is started again")
    same(joist("update", "busy", "--cpus", "1").stderr, "", "fewer again")
    same(joist("update", "busy", "--disk-limit", "5M,iops=100", "--net-limit", "1M").stderr, "",
         "limits that hold at once")
    has(joist("inspect", "-o", "yaml", "busy").stdout, 'disk-limit: "5M,iops=100"')
    same(joist("update", "busy", "--disk-shares", "300", "--net-shares", "50").stderr, "",
         "shares that hold at once")
    has(joist("inspect", "-o", "yaml", "busy").stdout, "disk-shares: 300")
    has(joist("inspect", "-o", "yaml", "busy").stdout, "net-shares: 50")
    refused(2, "update", "busy", "--disk-shares", "1", says="--disk-shares 1: a number from 2")
    joist("update", "busy", "--disk-limit", "none")
    assert "disk-limit" not in joist("inspect", "-o", "yaml", "busy").stdout
    refused(2, "update", "busy", "--disk-limit", "5X", says="--disk-limit 5X")
    refused(2, "update", "busy", "--cpus", "0", says="--cpus 0")
    refused(2, "update", "busy", "--memory", "1000", says="--memory 1000")
    # Held among the VMs, in both directions and above 100 too.
    for shares in "300", "50", "100":
        same(joist("update", "busy", "--cpu-limit", "none", "--cpu-shares", shares).stderr, "",
             "CPU shares that hold at once")
    refused(2, "update", "busy", "--cpu-limit", "much", says="--cpu-limit much")
    refused(2, "update", "busy", says="what to change?")
    return f"limit 20%: {j['cpu-percent']:.0f}% used"


@case
def memory_while_it_runs():
    def usable():
        return json.loads(joist("stats", "--json", "--interval", "0.1", "thin").stdout)[0]["memory-usable"]

    run("thin", append="joist.modules=1 joist.end=shell")
    until_log("thin", "joist-guest: shell")
    same(usable(), 128 << 20, "bytes at first")
    same(joist("update", "thin", "--memory", "96M").stderr, "", "what there is to say")
    until("96 MiB", lambda: usable() == 96 << 20)
    has(joist("inspect", "-o", "yaml", "thin").stdout, "memory: 96M")
    joist("update", "thin", "--memory", "128M")
    until("128 MiB again", lambda: usable() == 128 << 20)
    joist("stop", "-f", "thin")
    run("fat", append="joist.end=shell")
    until_log("fat", "joist-guest: shell")
    has(joist("update", "fat", "--memory", "96M").stderr, "no balloon that listens")


class Console:
    """joist console on a pseudo terminal."""

    def __init__(self, name):
        self.master, slave = pty.openpty()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            for fd in (0, 1, 2):
                os.dup2(slave, fd)
            os.execv(vmlib.joist_path, ["joist", "console", name])
        os.close(slave)
        self.child = Child(self.pid)
        self.output = Output(self.master)
        self.wait_for = self.output.wait_for

    def say(self, data):
        os.write(self.master, data)

    def end(self):
        code = self.child.end(self.output)
        has(self.output.data, b"left ")
        os.close(self.master)
        return code


@case
def several_at_one_console():
    run("shared")
    until_log("shared", "shell (poweroff to leave)")
    a, b = Console("shared"), Console("shared")
    a.wait_for(UP.encode())  # the replay
    b.wait_for(UP.encode())
    a.say(b"echo one$((1+1))three\n")
    a.wait_for(b"one2three")
    b.wait_for(b"one2three")
    b.say(b"\x1d")
    same(b.end(), 0, "exit code")
    a.say(b"echo still-$((40+2))\n")
    a.wait_for(b"still-42")
    a.say(b"\x1d")
    same(a.end(), 0, "exit code")
    same(inspect("shared")["state"], "running", "after both have left")
    has(joist("logs", "-n", "5", "shared").stdout, "still-42")


@case
def log_follows_to_the_end():
    run("talker", append='joist.run="for i in 1 2 3; do echo line-$i; sleep 0.2; done"')
    p = joist("logs", "-f", "talker")
    has(p.stdout, "line-3")
    has(p.stdout, "power off")


@case
def strangers_at_the_socket():
    """What is no request gets an answer or a closed connection, and hurts nobody."""
    run("open")
    path = os.path.join(vmlib.home, "run/joist", inspect("open")["id"] + ".sock")
    same(os.stat(path).st_mode & 0o077, 0, "others' permissions")
    for data in (b"\n", b"[]\n", b"{}\n", b'{"op": 7}\n', b'{"op": "no"}\n', b"\0\xff\n", b"{" * 5000 + b"\n",
                 b'{"op": "agent"}\n', b'{"op": "renamed", "name": "../x"}\n',
                 b'{"op": "port-add", "port": "x"}\n', b'{"op":"console","replay":-1}\n'):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        s.connect(path)
        s.sendall(data)
        line = s.makefile("rb").readline()
        if b"console" not in data:
            assert b"error" in line, (data, line)
        s.close()
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(path)
    try:
        for _ in range(40):
            s.sendall(b"x" * (1 << 20))
        raise AssertionError("an endless line is taken")
    except OSError:
        pass  # it hung up
    s.close()
    same(inspect("open")["state"], "running", "after all that")


@case
def ports():
    run("net", "-p", "18080:80")
    has(joist("port", "ls", "net").stdout, "18080:80")
    joist("port", "add", "net", "18443:443")
    has(joist("port", "ls", "net").stdout, "18443:443")
    has(joist("inspect", "-o", "yaml", "net").stdout, "18443:443")
    with socket.create_connection(("127.0.0.1", 18443), timeout=10):
        pass
    joist("port", "rm", "net", "18443")
    joist("create", "--name", "still", *busybox())
    refused(3, "port", "rm", "still", "18443", says="VM still forwards no port 18443")
    assert "18443" not in joist("port", "ls", "net").stdout
    refused(2, "port", "add", "net", "nonsense", says="nonsense")
    joist("stop", "-f", "net")
    has(joist("port", "ls", "net").stdout, "18080:80")


@case
def events():
    run("seen")
    p = subprocess.Popen([vmlib.joist_path, "events", "--json"], stdout=subprocess.PIPE, text=True)
    refused(3, "events", "nobody", says="no VM nobody")
    try:
        def something_seen():  # it may not listen yet
            joist("pause", "seen")
            joist("resume", "seen")
            return select.select([p.stdout], [], [], 0.2)[0]
        until("an event", something_seen)
        joist("pause", "seen")
        joist("resume", "seen")
        joist("stop", "-f", "seen")
        got = []
        while not got or got[-1] != "ended":
            got.append(json.loads(p.stdout.readline())["event"])
        assert "paused" in got and "resumed" in got, got
    finally:
        p.kill()
        p.wait()


@case
def images():
    disk = os.path.join(vmlib.home, "base.img")
    with open(disk, "wb") as f:
        f.write(b"BASE" * 128)
        f.truncate(8 << 20)
    joist("image", "import", disk, "--name", "small", "--kernel", guest_file("vmlinuz-cloud"),
          "--initrd", guest_file("initramfs.cpio.gz"), "--append",
          'console=ttyS0 quiet joist.modules=1 joist.run="head -c 4 /dev/vda; echo; blockdev '
          '--getsize64 /dev/vda; echo OWN >/dev/vda; sync"')
    refused(4, "image", "import", disk, "--name", "small", says="there is an image small already")
    same(json.loads(joist("image", "ls", "--json").stdout)[0]["name"], "small", "image ls")
    joist("run", "-d", "--name", "one", "small", "-m", "128M", "--disk-size", "12M")
    until("its end", lambda: inspect("one")["state"] == "stopped")
    has(joist("logs", "one").stdout, "BASE")
    has(joist("logs", "one").stdout, str(12 << 20))
    joist("start", "one")
    until("its second end", lambda: joist("logs", "one").stdout.count("power off") == 2)
    has(joist("logs", "one").stdout, "OWN")  # its own disk, and it is kept
    refused(4, "image", "rm", "small", says="in use by VM one")
    refused(3, "run", "-d", "smal", says="did you mean small?")
    refused(1, "create", "small", "--disk-size", "1M", says="image small has 8 MiB")
    until("its end", lambda: inspect("one")["state"] == "stopped")
    joist("rm", "one")
    os.mkdir("small")  # where one stands a folder may have an image's name
    joist("create", "--name", "two", "small")
    os.rmdir("small")
    same(inspect("two")["image"], "small", "the image of a VM")
    joist("rm", "two")
    joist("image", "rm", "small")
    same(joist("image", "ls", "-q").stdout, "", "images left")


@case
def qcow2_images():
    base, over = os.path.join(vmlib.home, "b.qcow2"), os.path.join(vmlib.home, "o.qcow2")
    joist("disk", "create", base, "8M")
    joist("disk", "create", over, "--backing", base)
    refused(5, "image", "import", over, says="stands on a backing file")
    joist("image", "import", base, "--kernel", guest_file("vmlinuz-cloud"))
    same(json.loads(joist("image", "ls", "--json").stdout)[0]["size"], 8 << 20, "virtual size")
    joist("create", "--name", "q", "b", "--disk-size", "16M")
    has(joist("disk", "info", os.path.join(folder("q"), "disk0.qcow2")).stdout, "16M")
    joist("rm", "q")
    joist("image", "rm", "b")
    for name, text in [("x.img", "# Disk DescriptorFile\n"), ("y.img", "<<< Some VDI >>>\n"),
                       ("x.ova", "vm.ovf\0\0\0"), ("x.vhd", "MZ" * 99)]:
        path = os.path.join(vmlib.home, name)
        with open(path, "w") as f:
            f.write(text)
        refused(5, "image", "import", path, says="neither raw nor qcow2")


class Server(http.server.BaseHTTPRequestHandler):
    """Files by path, parts of them if asked so; breaks off once where it is told to."""
    files, ranges, break_at, resumes = {}, [], {}, True

    def do_GET(self):
        data = self.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0]) if self.resumes else 0
        if "Range" in self.headers:
            self.ranges.append((self.path, start))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        cut = self.break_at.pop(self.path, len(data))
        self.wfile.write(data[start:cut])
        self.close_connection = True

    def log_message(self, *args):
        pass


@case
def ssh_hands_options_on():
    """With a program of its own called ssh, and a guest that greets like a server."""
    here = os.path.join(vmlib.home, "bin")
    os.makedirs(here)
    fake = os.path.join(here, "ssh")
    with open(fake, "w") as f:
        f.write("#!/bin/sh\nfor w; do echo \"$w\"; done\n")
    os.chmod(fake, 0o755)
    net = "ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; "
    joist("run", "-d", "--name", "web", *busybox(
        append=f'joist.modules=1 joist.run="{net}while :; do echo SSH-2.0-fake | nc -l -p 22; done"'))
    env = dict(os.environ, PATH=here + ":" + os.environ["PATH"])

    def said(*args):
        return joist("ssh", "--timeout", "100", *args, env=env).stdout.splitlines()
    words = said("-A", "web", "-L", "8080:localhost:80", "-vvo", "Compression=yes", "-u", "me", "ls", "-l",
                 "--", "-A")
    same(words[:6], ["-A", "-L", "8080:localhost:80", "-vvo", "Compression=yes", "-o"], "ssh's own")
    same(words[-6:], ["me@127.0.0.1", "--", "ls", "-l", "--", "-A"], "the command, word by word")
    same(said("you@web", "-D9000")[-1], "you@127.0.0.1", "no command")
    same(said("web", "--", "-x")[-2:], ["--", "-x"], "a command that looks like an option")
    refused(2, "ssh", "-p", "22", "web", says="unknown option -p")
    refused(2, "ssh", "web", "-Ap", says="unknown option -Ap")


@case
def bridge():
    """A tap of a bridge, where one is root: in a network of its own, in which nothing else is."""
    if os.geteuid() or subprocess.run(["unshare", "-n", "ip", "link", "add", "br0", "type", "bridge"],
                                      capture_output=True).returncode or not os.path.exists("/dev/net/tun"):
        raise Skip("only root, with ip(8), /dev/net/tun and bridges, can try it")
    guest = busybox(append='joist.modules=1 joist.end=shell joist.run="ip link set eth0 up; '
                    'ip addr add 192.0.2.2/24 dev eth0"')
    script = ("ip link add br0 type bridge && ip addr add 192.0.2.1/24 dev br0 && ip link set br0 up && "
              '"$@" && for i in $(seq 60); do busybox ping -c 1 -W 2 192.0.2.2 && exit 0; sleep 1; done; exit 1')
    p = subprocess.run(["unshare", "-n", "sh", "-c", script, "sh", vmlib.joist_path, "run", "-d", "--name", "t",
                        "--net", "bridge=br0", *guest], capture_output=True, text=True, timeout=300)
    same(p.returncode, 0, f"{p.stdout}{p.stderr}{joist('logs', 't', code=None).stdout}")


@case
def image_pull():
    """Downloads with checksums, over a connection that breaks."""
    if not shutil.which("curl"):
        raise Skip("no curl here")
    disk = b"DISK" * (1 << 18)
    with open(guest_file("vmlinuz-cloud"), "rb") as f:
        Server.files = {"/d.img": disk, "/k": f.read()}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    good = hashlib.sha256(disk).hexdigest()
    try:
        args = ["image", "pull", base + "/d.img", "--name", "pulled", "--kernel", base + "/k"]
        refused(2, *args, says="--sha256")
        refused(2, *args, "--sha256", "abc", says="64 hexadecimal digits")
        refused(3, "image", "pull", base + "/none", "--sha256", good, says="404")
        refused(1, *args, "--sha256", "0" * 64, says="it is damaged")
        Server.break_at = {"/d.img": 300000}
        joist(*args, "--sha256", good, code=1)
        del Server.ranges[:]
        joist(*args, "--sha256", good)
        assert ("/d.img", 300000) in Server.ranges, Server.ranges
        j = json.loads(joist("image", "ls", "--json").stdout)[0]
        same((j["name"], j["sha256"], j["size"], j["kernel"]), ("pulled", good, len(disk), True),
             "the image")
        refused(4, *args, "--sha256", good, says="already")
        joist("image", "rm", "pulled")
        # A server that cannot go on in the middle: from its beginning.
        Server.break_at, Server.resumes = {"/d.img": 300000}, False
        joist(*args, "--sha256", good, code=1)
        joist(*args, "--sha256", good)
        refused(1, "image", "pull", "http://127.0.0.1:1/x", "--sha256", good, says=("connect", "try again"))
        refused(3, "image", "pull", "debian-14", says="did you mean debian-12?")
        refused(3, "image", "pull", "ubuntu-24.40", says="did you mean ubuntu-24.04?")
        joist("image", "rm", "pulled")
    finally:
        server.shutdown()


if __name__ == "__main__":
    sys.exit(vmlib.main(sys.argv))
