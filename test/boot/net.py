#!/usr/bin/env python3
"""A Debian kernel's guest and the outside: channels, networks.

usage: net.py --joist JOIST [--long] [--list] [CASE]...
"""
import hashlib
import os
import random
import re
import socket
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True  # the source folder stays clean
from vm import Live, Run, case, guest_file, joist, main, options  # noqa: E402
from waiting import until  # noqa: E402

# Sockets need short names.
folder = tempfile.TemporaryDirectory(prefix="joist-net-")


def connect(path, seconds=20):
    def attempt():
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60 * options.factor)
        try:
            s.connect(path)
            return s
        except OSError:
            s.close()
            return None
    return until("a connection to " + path, attempt, seconds)


CHANNEL = """
port=
for p in /sys/class/virtio-ports/*; do
	[ "$(cat $p/name)" = org.joist.test ] && port=/dev/${p##*/}
done
echo "port: $port"
exec 3<>$port
until read line <&3; do usleep 50000; done
echo "got: $line"
seq 20000 >&3
echo "first: written"
until read line <&3; do usleep 50000; done
echo "then: $line"
"""


def channel(board):
    """A port by its name: both ways, two clients one after the other, 100 KB at once."""
    path = os.path.join(folder.name, "channel-" + board)
    with Live(board=board, script=CHANNEL, append="joist.modules=1",
              extra=["--channel", "org.joist.test=" + path]) as v:
        v.wait_for(r"^port: /dev/vport\d+p\d+$")
        with connect(path) as s:
            s.sendall(b"a question\n")
            v.wait_for(r"^got: a question$")
            data = b""
            while not data.endswith(b"\n20000\n"):
                more = s.recv(65536)
                if not more:
                    v.fail(f"the channel closes after {len(data)} bytes")
                data += more
            if data != "".join(f"{i}\n" for i in range(1, 20001)).encode():
                v.fail("what came through the channel is not what was sent")
            v.wait_for(r"^first: written$")
        with connect(path) as s:
            s.sendall(b"the second one\n")
            v.wait_for(r"^then: the second one$")
        v.end()
        v.want(0, [r"^joist-guest: status 0$"])
    if os.path.exists(path):
        v.fail("the socket is left behind")


for which in ("pc", "micro"):
    case("channel/" + which, long=which == "micro")(lambda b=which: channel(b))


# ---- user mode -----------------------------------------------------------------------

DHCP = r"""
cat >/tmp/dhcp <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
echo "lease: $ip/$mask router $router dns $dns host $hostname"
ip addr add $ip/$mask dev $interface
ip route add default via $router
mkdir -p /etc
echo nameserver $dns >/etc/resolv.conf
END
chmod +x /tmp/dhcp
ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -s /tmp/dhcp -q -n -t 10 -T 1 2>/dev/null
"""


def server(data=None):
    """A server on the host's loopback: sends `data` to whoever connects, or takes what it gets.
    Returns its port and the list of what clients sent until they closed their side."""
    s = socket.socket(socket.AF_INET)
    s.bind(("127.0.0.1", 0))
    s.listen(8)
    got = []

    def serve():
        while True:
            c, _ = s.accept()
            with c:
                if data:
                    c.sendall(data)
                    c.shutdown(socket.SHUT_WR)
                parts = []
                while more := c.recv(65536):
                    parts.append(more)
                got.append(b"".join(parts))
    threading.Thread(target=serve, daemon=True).start()
    return s.getsockname()[1], got


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


OUT = DHCP + """
echo "down: $(nc 10.0.2.2 %d </dev/null | md5sum)"
echo "frames: $(awk '/eth0:/ { print $3 }' /proc/net/dev)"
seq 200000 | nc 10.0.2.2 %d >/dev/null
n=0
while [ $n -lt 50 ] && ! ip -6 addr show dev eth0 | grep -q fd6a; do n=$((n+1)); usleep 200000; done
echo "six: $(ip -6 addr show dev eth0 scope global | awk '/inet6/ { print $2 }')"
ping -c 1 10.0.2.2 >/dev/null && echo "ping: yes"
"""


def user_out(board, cpus):
    """DHCP, a host's server through the gateway: 4 MB down, 1.3 MB up, IPv6 by advertisement."""
    data = random.Random(1).randbytes(4 << 20)
    port, _ = server(data)
    sink, got = server()
    v = Run(board=board, cpus=cpus, script=OUT % (port, sink), append="joist.modules=1",
            extra=["--net", "user,loopback,mac=52:54:00:00:00:01", "--name", "web"])
    v.want(0, [r"^lease: 10\.0\.2\.15/24 router 10\.0\.2\.2 dns 10\.0\.2\.3 host web$",
               rf"^down: {hashlib.md5(data).hexdigest()}  -$",
               r"^six: fd6a:6f69:7374:0?:?5054:ff:fe00:1/64$", r"^ping: yes$"])
    # A count that no load disturbs: libslirp cuts 4 MiB into 2900 frames, which are joined again.
    if int(v.line(r"^frames: (\d+)$")) > 1000:
        v.fail("what waited for the guest was not joined")
    if "".join(f"{i}\n" for i in range(1, 200001)).encode() not in got:
        v.fail("what the guest sent did not arrive: " + str([len(x) for x in got]))


for which in (("pc", 2), ("pc", 1), ("micro", 1)):
    case("user-out/%s-%d" % which, long=which != ("pc", 2))(lambda a=which: user_out(*a))


IN = DHCP + """
mkdir -p /www
seq 500000 >/www/numbers
httpd -p 80 -h /www
echo ready
read line
# busybox has no program that serves datagrams; the kernel counts those for a closed port.
echo "datagrams: $(awk '/^Udp:/ { n = $3 } END { print n }' /proc/net/snmp)"
"""


@case("user-forward")
def user_forward():
    """TCP and UDP ports of the host lead to the guest's; several connections at a time."""
    web, dns = free_port(), free_port(socket.SOCK_DGRAM)
    with Live(cpus=2, script=IN, append="joist.modules=1", extra=[
            "-p", f"{web}:80", "--publish", f"127.0.0.1:{dns}:5353/udp"]) as v:
        v.wait_for(r"^ready$")
        want = "".join(f"{i}\n" for i in range(1, 500001)).encode()
        socks = []
        for _ in range(4):
            s = socket.create_connection(("127.0.0.1", web), timeout=60 * options.factor)
            s.sendall(b"GET /numbers HTTP/1.0\r\n\r\n")
            socks.append(s)
        for s in socks:
            data = b""
            while more := s.recv(65536):
                data += more
            s.close()
            if data.partition(b"\r\n\r\n")[2] != want:
                v.fail(f"{len(data)} bytes of the wrong content came back")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for _ in range(20):  # some may get lost
                s.sendto(b"hello", ("127.0.0.1", dns))
                time.sleep(0.05)
        v.say("\n")
        v.end()
        v.want(0)
        if int(v.line(r"^datagrams: (\d+)$")) < 1:
            v.fail("no datagram reached the guest")


CLOSED = DHCP + """
for to in 10.0.2.2 127.0.0.1; do
	[ $to = 127.0.0.1 ] && { ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.0/8 via 10.0.2.2 2>/dev/null; }
	echo "$to: $(nc -w 3 $to %d </dev/null | wc -c)"
done
"""


@case("user-loopback")
def user_loopback():
    """Without being asked, no guest reaches what the host serves on its loopback."""
    port, got = server(b"secret")
    v = Run(script=CLOSED % port, append="joist.modules=1")
    v.want(0, [r"^lease: ", r"^10\.0\.2\.2: 0$", r"^127\.0\.0\.1: 0$"])
    if got:
        v.fail("the guest reached the host's loopback")


# ---- named networks --------------------------------------------------------------------

MEMBER = DHCP + """
echo 'hello from db' >/tmp/hello
[ $hostname ] || hostname -F /dev/null 2>/dev/null
httpd -p 80 -h /tmp
echo ready
while read line; do sh -c "$line"; echo "done: $?"; done
"""


def joist_ok(*args):
    code, out, err = joist(*args)
    if code:
        raise AssertionError(f"joist {' '.join(args)}: exit code {code}: {err}")
    return out


def ask(v, command, seconds=60):
    v.say(command + "\n")
    return v.wait_for(r"^done: (\d+)$", seconds).group(1)


def six_members(web, db):
    """IPv6 in 10.77.0.0/24: to member number `db`, from an own address, one that the router's prefix and
    the card make, one made by hand; and from one that is another card's."""
    prefix, card = "fd6a:6f69:7374:4d00", "5054:aff:fe4d"
    ask(web, "n=0; while [ $n -lt 50 ] && ! ip -6 addr show dev eth0 | grep -q fd6a; do "
             "n=$((n+1)); usleep 200000; done")
    for source, works in (("", True), (f"{prefix}::77", True), (f"{prefix}:{card}:fe", False)):
        if source:
            ask(web, "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad")
            if ask(web, f"ip -6 addr add {source}/64 dev eth0") != "0":
                web.fail("no address")
        # The guest asked nobody, so the first are lost while that is done for it.
        code = ask(web, f"ping -6 -c 6 -W 2 {'-I ' + source if source else ''} {prefix}:{card}:{db:x} | "
                        "grep -v ' 100% packet loss' | grep 'packet loss'")
        if (code == "0") != works:
            web.fail(f"IPv6 from {source or 'its own address'} {'fails' if works else 'works'}")


@case("lan")
def lan():
    """Two VMs in a named network: addresses, names, 8 MB of TCP, pretending refused, of IPv6, too; one killed."""
    os.environ["XDG_DATA_HOME"] = os.path.join(folder.name, "data")
    joist_ok("network", "create", "lab", "--subnet", "10.77.0.0/24")
    common = {"script": MEMBER, "append": "joist.modules=1"}
    port = free_port()
    with Live(**common, extra=["--net", "lab", "--name", "db", "-p", f"{port}:80"]) as db, \
            Live(**common, extra=["--net", "lab", "--name", "web"]) as web:
        a = db.wait_for(r"^lease: (10\.77\.0\.\d+)/24 router 10\.77\.0\.1 dns 10\.77\.0\.2 host db$")
        b = web.wait_for(r"^lease: (10\.77\.0\.\d+)/24 router 10\.77\.0\.1 dns 10\.77\.0\.2 host web$")
        db.wait_for(r"^ready$")
        web.wait_for(r"^ready$")
        if not re.search(r"^lab +10\.77\.0\.0/24 +2$", joist_ok("network", "ls"), re.MULTILINE):
            raise AssertionError("network ls does not show two VMs")
        for command in ("ping -c 2 db.lab.internal", "ping -c 2 db", "ping -c 1 10.77.0.1",
                        "wget -q -O - http://db/hello | grep 'hello from db'"):
            if ask(web, command) != "0":
                web.fail(f"{command} fails")
        if ask(web, "ping -c 1 nobody.lab.internal") == "0":
            web.fail("a name that nobody has")
        ask(db, "seq 1200000 >/tmp/numbers")
        if ask(web, "wget -q -O - http://db/numbers | md5sum") != "0":
            web.fail("no download")
        want = hashlib.md5("".join(f"{i}\n" for i in range(1, 1200001)).encode()).hexdigest()
        web.wait_for("") if want in web.out else web.fail("what came is not what was sent")
        with socket.create_connection(("127.0.0.1", port), timeout=30 * options.factor) as s:
            s.sendall(b"GET /hello HTTP/1.0\r\n\r\n")
            data = b""
            while more := s.recv(4096):
                data += more
            if b"hello from db" not in data:
                db.fail("the forwarded port does not lead to the guest")
        # Somebody else's addresses, of IP and of Ethernet.
        ask(web, f"ip addr add {a.group(1)[:-2]}99/24 dev eth0")
        if ask(web, f"ping -c 2 -W 1 -I {a.group(1)[:-2]}99 {a.group(1)}") == "0":
            web.fail("an address that is not its own works")
        ask(web, f"ip addr del {a.group(1)[:-2]}99/24 dev eth0")
        if ask(web, "ping -c 1 db") != "0":
            web.fail("afterwards its own address does not work")
        six_members(web, int(a.group(1).rsplit(".", 1)[1]))
        code, _, err = joist("network", "rm", "lab")
        if code != 4 or "2 VMs are in it" not in err:
            raise AssertionError(f"network rm of one in use: {code} {err}")
        os.kill(db.pid, 9)
        os.waitpid(db.pid, 0)
        db.code = -9
        if ask(web, "ping -c 1 -W 1 db") == "0":
            web.fail("the dead answer")
        if not re.search(r" 1$", joist_ok("network", "ls"), re.MULTILINE):
            raise AssertionError("network ls counts the dead")
        again = Run(script=DHCP, append="joist.modules=1", extra=["--net", "lab", "--name", "db"])
        again.want(0, [rf"^lease: {re.escape(a.group(1))}/24"])
    joist_ok("network", "rm", "lab")
    code, _, err = joist("run", "--kernel", guest_file("vmlinuz-cloud"), "--net", "lab")
    if code != 3 or "network create lab" not in err:
        raise AssertionError(f"a network that is not there: {code} {err}")


BALLOON = """
dd if=/dev/zero of=/tmp/x bs=1M count=200 2>/dev/null
echo filled
read line
rm /tmp/x
echo freed
read line
"""


def ram_of(pid):
    """Bytes of guest memory that the process has, of its memfd."""
    size = 0
    with open(f"/proc/{pid}/smaps") as f:
        inside = False
        for line in f:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                inside = "joist-ram" in line
            elif inside and line.startswith("Rss:"):
                size += int(line.split()[1]) << 10
    return size


@case("balloon")
def balloon():
    """200 MB that the guest used and freed go back to the host without being asked for."""
    with Live(script=BALLOON, append="joist.modules=1") as v:
        v.wait_for(r"^filled$")
        full = ram_of(v.pid)
        if full < 200 << 20:
            v.fail(f"only {full >> 20} MiB are used")
        v.say("\n")
        v.wait_for(r"^freed$")
        until(lambda: f"the return of most of {full >> 20} MiB, with {ram_of(v.pid) >> 20} there,",
              lambda: ram_of(v.pid) <= full - (150 << 20), fail=v.fail)
        now = ram_of(v.pid)
        v.say("\n")
        v.end()
        v.want(0)
        return f"{full >> 20} MiB, then {now >> 20}"


@case("none")
def no_net():
    Run(script="ls /sys/class/net; echo $?", append="joist.modules=1",
        extra=["--net", "none"]).want(0, [r"^lo$", r"^0$"])


@case("bad-network")
def bad_network():
    """What cannot be is refused in one sentence."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(1)
        used = s.getsockname()[1]
        for args, code, why in (
                (["--net", "NAT"], 2, "there are user"),
                (["--net", "nat"], 3, "no network nat"),
                (["--net-limit", "fast"], 2, "not RATE"),
                (["--net", "user,mac=1"], 2, "six bytes"),
                (["--net", "user,mac=01:00:00:00:00:00"], 2, "the first even"),
                (["--net", "user,mtu=10"], 2, "not a number from"),
                (["-p", "80"], 2, "not .ADDRESS:.HOST:GUEST"),
                (["-p", "0:80"], 2, "port numbers from 1"),
                (["-p", "8080:80/sctp"], 2, "HOST:GUEST"),
                (["--net", "none", "-p", "8080:80"], 2, "needs a network"),
                (["-p", f"{used}:80"], 1, "in use by another program")):
            got, _, err = joist("run", "--kernel", guest_file("vmlinuz-cloud"), *args)
            if got != code or not re.search(why, err) or err.count("\n") > 2:
                raise AssertionError(f"{args}: exit code {got}, not {code}: {err}")


if __name__ == "__main__":
    sys.exit(main())
