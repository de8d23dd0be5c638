"""A kernel of some hundred bytes that listens to the power button, which the busybox guest does not:
an ELF64 file whose code enables ACPI and the button, prints "ears", waits for the button's status
bit, prints "heard" and, if it is to obey, enters S5. Ports are those of the board pc (core/board)."""
import struct

BASE = 0x200000  # where it is loaded and entered
PM1, SERIAL, S5 = 0x600, 0x3f8, 5


def set_dx(port):
    return b"\x66\xba" + struct.pack("<H", port)


def say(text):
    return set_dx(SERIAL) + b"".join(b"\xb0" + bytes([c]) + b"\xee" for c in text.encode())


def kernel(obeys):
    code = b"\xb0\xf1\xe6\xb2"  # the command port: ACPI mode
    code += set_dx(PM1 + 2) + b"\x66\xb8\x00\x01\x66\xef"  # PM1_EN = PWRBTN_EN
    code += say("ears\n")
    code += set_dx(PM1) + b"\x66\xed\xf6\xc4\x01\x74\xf5"  # until PM1_STS.PWRBTN_STS
    code += say("heard\n")
    if obeys:
        code += set_dx(PM1 + 4) + b"\x66\xb8" + struct.pack("<H", S5 << 10 | 1 << 13) + b"\x66\xef"
    code += b"\xeb\xfe"
    head, program = 64, 56
    size = head + program + len(code)
    return (b"\x7fELF\x02\x01\x01" + bytes(9) +
            struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, BASE + head + program, head, 0, 0, head, program, 1, 0, 0, 0) +
            struct.pack("<IIQQQQQQ", 1, 7, 0, BASE, BASE, size, size, 4096) + code)
