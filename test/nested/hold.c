/* Level 1's code must not change while guests come and go: QEMU before 8.1 loses a change to code
 * that another of its processors is translating at that moment (its commit deba78709ae8). Linux
 * patches code when the first VM is made and the last one goes (preempt notifiers, in the
 * scheduler), and when the first APIC is switched off or the last one on; a processor whose
 * translation kept the patching's INT3 takes it for ever.
 *
 * So this makes one VM of each kind and keeps them, in the background, until level 1 ends: those
 * switches stay on. KVM then looks at each APIC itself, which is what it does on busy hosts. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int fail(const char *what) {
	perror(what);
	return 1;
}

/* A VM with one vCPU, whose local APIC is off by software, as after a reset; -1 on errors. */
static int make(int dev, int apics) {
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	int vm = ioctl(dev, KVM_CREATE_VM, 0);
	if (vm < 0 || (apics && ioctl(vm, KVM_ENABLE_CAP, &split) < 0))
		return -1;
	return ioctl(vm, KVM_CREATE_VCPU, 0);
}

int main(void) {
	struct kvm_sregs s;
	int dev = open("/dev/kvm", O_RDWR);
	if (dev < 0)
		return fail("hold: /dev/kvm");
	int off_by_software = make(dev, 1), off = make(dev, 1), none = make(dev, 0);
	if (off_by_software < 0 || off < 0 || none < 0)
		return fail("hold: making a VM");
	if (ioctl(off, KVM_GET_SREGS, &s) < 0)
		return fail("hold: KVM_GET_SREGS");
	s.apic_base = 0xfee00000;
	if (ioctl(off, KVM_SET_SREGS, &s) < 0)
		return fail("hold: switching an APIC off");
	pid_t child = fork();
	if (child < 0)
		return fail("hold: fork");
	while (child == 0)
		pause();
	return 0;
}
