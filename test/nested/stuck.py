"""Why a level-1 machine says nothing any more, by QEMU's monitor.

QEMU's TCG loses things at times, the oftener the busier the host:

A write to code that another of its processors is translating (before 8.1; fixed by its commit deba78709ae8).
When Linux patches its own code, which begins with an INT3, a processor can keep the INT3 for ever,
although memory has the new code: the handler finds none there, goes back, and meets it again. hold.c keeps
Linux from most of its patching.

The global interrupt flag of a processor in a guest (seen in 7.2: HF2_GIF and HF2_VGIF are clear in a
processor with HF_GUEST_MASK, though VMRUN sets them). It takes no interrupt any more, so KVM never gets
it back. On real hardware nothing can keep an interrupt from ending a guest's run: KVM intercepts them.

And a processor may stay in its translated code for ever (seen in 7.2, a guest with two processors in a guest of
its own): QEMU waits for it then before it answers anything. Whatever a guest does, QEMU's processors leave
their code when they are asked to.

All are recognized by what only they can cause. All else that hangs counts as a defect of Joist.
"""
import re
import socket
import time

INT3 = 0xcc
BP = 3


class Monitor:
    """QEMU's human monitor on a socket. An answer that does not come is empty."""

    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(5)
        self.s.connect(path)
        self.answer()

    def answer(self):
        out, end = b"", time.monotonic() + 20
        while time.monotonic() < end and not out.endswith(b"(qemu) "):
            try:
                piece = self.s.recv(65536)
            except OSError:
                break
            if not piece:
                break
            out += piece
        # The command comes back letter by letter, with the escapes of a line editor.
        return out.decode(errors="replace").rsplit("\x1b[K", 1)[-1].replace("\r", "")

    def ask(self, command):
        try:
            self.s.sendall(command.encode() + b"\n")
        except OSError:
            return ""
        return self.answer()

    def number(self, command):
        """The one number of an examination of memory, or None."""
        m = re.search(r"[0-9a-f]+: (0x[0-9a-f]+)", self.ask(command))
        return int(m.group(1), 16) if m else None

    def close(self):
        self.s.close()


def stops(m, seconds=90):
    """Whether the machine can be stopped; it goes on then."""
    if m.ask("stop"):
        m.ask("cont")
        return True
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if m.answer():
            m.ask("cont")
            return True
    return False


def processors(m):
    """[(registers' text, RIP, RSP, IDT)] of each."""
    found = []
    for text in m.ask("info registers -a").split("CPU#")[1:]:
        values = [re.search(p, text) for p in
                  (r"RIP=([0-9a-f]{16})", r"RSP=([0-9a-f]{16})", r"IDT= *([0-9a-f]{16})")]
        if all(values):
            found.append((text, *(int(v.group(1), 16) for v in values)))
    return found


def lost_int3(m, tries=60):
    """The address at which a processor takes an INT3 that memory does not have, or None. It counts only
    when it is met three times at the same place: once can be a patch on its way."""
    met = {}
    for _ in range(tries):
        m.ask("stop")
        for n, (_, rip, rsp, idt) in enumerate(processors(m)):
            m.ask(f"cpu {n}")
            low, high = (m.number(f"x/1gx {idt + 16 * BP + at:#x}") for at in (0, 8))
            if low is None or high is None:
                continue
            entry = high << 32 | (low >> 48) << 16 | (low & 0xffff)
            if rip != entry:
                continue
            back = m.number(f"x/1gx {rsp:#x}")  # where the INT3's successor would be
            if back is not None and m.number(f"x/1bx {back - 1:#x}") != INT3:
                met[back - 1] = met.get(back - 1, 0) + 1
        m.ask("cont")
        for at, times in met.items():
            if times >= 3:
                return at
        time.sleep(0.01)
    return None


def lapic(m, n):
    """(PPR, set of vectors that wait) of a processor, or None."""
    text = m.ask(f"info lapic {n}")
    ppr = re.search(r"PPR 0x([0-9a-f]+)", text)
    irr = re.search(r"^IRR\s+([0-9 ]+)", text, re.MULTILINE)
    return ppr and irr and (int(ppr.group(1), 16), {int(v) for v in irr.group(1).split()})


def lost_interrupt(m, looks=20, pause=0.5):
    """(processor, vector) of an interrupt that a guest's processor does not take, or None.

    Ring 0 at a low address is a guest: level 1's kernel is in the upper half. The interrupt has waited at each
    look, with a priority above the processor's."""
    waits = None
    for _ in range(looks):
        now = set()
        for n, (text, rip, *_) in enumerate(processors(m)):
            apic = lapic(m, n) if "CPL=0" in text and "HLT=0" in text and rip < 1 << 63 else None
            if apic:
                now |= {(n, v) for v in apic[1] if v >> 4 > apic[0] >> 4}
        waits = now if waits is None else waits & now
        if not waits:
            return None
        time.sleep(pause)
    return min(waits)


def reason(path):
    """Why QEMU with its monitor at `path` cannot go on, as words, or None if it is not QEMU's fault."""
    m = Monitor(path)
    try:
        if not stops(m):
            return "QEMU's processors do not stop when they are asked to"
        at = lost_int3(m)
        if at is not None:
            return f"QEMU runs an INT3 at {at:#x} that is not there any more"
        lost = lost_interrupt(m)
        if lost:
            return f"QEMU's processor {lost[0]} is in a guest and does not take interrupt {lost[1]}"
    finally:
        m.close()
    return None


def describe(m):
    """Lines for people: where each processor is, and what its interrupt controller has."""
    lines = []
    for round_no in range(3):
        for n, (text, *_) in enumerate(processors(m)):
            where = re.search(r"RIP=.*", text)
            lines.append(f"processor {n}, look {round_no + 1}: {where.group(0) if where else ''}")
        time.sleep(0.1)
    for n in range(len(processors(m))):
        state = m.ask(f"info lapic {n}")
        lines += [f"processor {n}: {x.strip()}" for x in state.splitlines()
                  if re.match(r"(LVTT\b|Timer|ISR|IRR|APR)", x)]
    return lines
