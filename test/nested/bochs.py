"""Level 1 in Bochs: the only processor with VMX and EPT for machines without one, for kvm-intel, and
the only one with AVX-512. One CPU, about a tenth of QEMU's speed; packages bochs, bochsbios, grub-pc-bin, grub-common, xorriso, mtools.
"""
import glob
import os
import shutil
import subprocess

from level1 import APPEND, Level1, Missing, guest_file, make_initrd

CONFIG = """
config_interface: textconfig
display_library: rfb, options="timeout=0"
cpu: model={model}, count=1, ips=60000000, reset_on_triple_fault=0
megs: 1024
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path={iso}, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={console}
log: {log}
speaker: enabled=0
sound: driver=dummy
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"""


class Bochs(Level1):
    def __init__(self, programs, images, cases, scratch, limit=900, factor=1,
                 model="corei7_haswell_4770", module="kvm-intel.ko", append=""):
        self.bochs = shutil.which("bochs")
        plugins = glob.glob("/usr/lib/*/bochs/plugins")
        if not self.bochs or not plugins or not os.path.exists("/usr/share/bochs/BIOS-bochs-latest"):
            raise Missing("no bochs; packages bochs and bochsbios")
        if not shutil.which("grub-mkrescue") or not shutil.which("xorriso") or \
                not os.path.isdir("/usr/lib/grub/i386-pc"):
            raise Missing("no grub-mkrescue for i386-pc; packages grub-common grub-pc-bin xorriso mtools")
        self.limit = self.dead = limit * factor
        self.monitor = None
        self.cases = dict(cases)
        self.env = dict(os.environ, LTDL_LIBRARY_PATH=plugins[0])
        tree, iso = os.path.join(scratch, "iso"), os.path.join(scratch, "level1.iso")
        os.makedirs(os.path.join(tree, "boot/grub"))
        make_initrd(os.path.join(tree, "initrd"), programs, images, cases, module)
        shutil.copyfile(guest_file("vmlinuz-cloud"), os.path.join(tree, "vmlinuz"))
        with open(os.path.join(tree, "boot/grub/grub.cfg"), "w", encoding="ascii") as f:
            f.write(f"linux /vmlinuz {APPEND} {append}\ninitrd /initrd\nboot\n")
        subprocess.run(["grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", iso, tree],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        self.console = os.path.join(scratch, "console")
        os.mkfifo(self.console)
        config, go = os.path.join(scratch, "bochsrc"), os.path.join(scratch, "go")
        with open(config, "w", encoding="ascii") as f:
            f.write(CONFIG.format(model=model, iso=iso, console=self.console, log=os.path.join(scratch, "log")))
        with open(go, "w", encoding="ascii") as f:
            f.write("c\n")  # it is built with its debugger
        self.command = [self.bochs, "-q", "-f", config, "-rc", go]

    def start(self):
        console = os.open(self.console, os.O_RDWR)  # so that there is always a writer
        p = subprocess.Popen(self.command, env=self.env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return p, console
