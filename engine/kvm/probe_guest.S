/* What stock kernels need of KVM, one step a label (probe.c has their names). Copied to
 * PROBE_CODE in a throw-away VM and entered there; each step ends with OUT to port 10h when what
 * it did came out right, and to port 11h when not. Position-independent but for PROBE_CODE. */
#define PROBE_CODE 0x10000
#define DATA 0x20000	/* a page of scratch memory */
#define NOWHERE 0x40000000 /* not mapped */
#define MSR_STAR 0xc0000081
#define MSR_EFER 0xc0000080
#define MSR_LSTAR 0xc0000082
#define MSR_SFMASK 0xc0000084
#define MSR_KERNEL_GS_BASE 0xc0000102

	.section .rodata
	.globl kvm_probe_code, kvm_probe_code_end, kvm_probe_steps, kvm_probe_handlers
	.balign 16
kvm_probe_code:

	.code16
step_real:
	mov $0x1234, %ax
	mov %ax, %bx
	add $0x1111, %bx
	cmp $0x2345, %bx
	jne fail16
	out %al, $0x10
fail16:
	out %al, $0x11

	.code64
step_long:
	mov $0x123456789abcdef0, %rax
	mov %rax, DATA
	cmp %rax, DATA
	jne fail
	jmp pass

step_msr:
	mov $MSR_EFER, %ecx
	rdmsr
	test $0x400, %eax /* LMA */
	jz fail
	wrmsr
	xor %eax, %eax
	cpuid
	test %ebx, %ebx
	jz fail
	jmp pass

step_control:
	mov %cr4, %rax
	xor $0x80, %rax /* PGE */
	mov %rax, %cr4
	xor $0x80, %rax
	mov %rax, %cr4
	mov %cr3, %rax
	mov %rax, %cr3
	invlpg DATA
	mov %cr0, %rax
	mov %rax, %cr0
	clts
	xor %eax, %eax
	mov %rax, %dr7
	wbinvd
	jmp pass

step_cmpxchg16b:
	movq $1, DATA
	movq $2, DATA + 8
	mov $1, %eax
	mov $2, %edx
	mov $3, %ebx
	mov $4, %ecx
	lock cmpxchg16b DATA
	jne fail
	cmpq $4, DATA + 8
	jne fail
	mov $DATA, %edi
	lock btsq $5, (%rdi)
	mov $1, %eax
	lock xadd %rax, (%rdi)
	jmp pass

step_xsave:
	xor %ecx, %ecx
	mov $3, %eax
	xor %edx, %edx
	xsetbv
	mov $DATA + 512, %edi /* the header's reserved bytes must be 0 */
	xor %eax, %eax
	mov $64, %ecx
	rep stosb
	mov $DATA, %edi
	mov $0x5555, %eax
	movq %rax, %xmm3
	mov $3, %eax
	xsave (%rdi)
	pxor %xmm3, %xmm3
	mov $3, %eax
	xrstor (%rdi)
	movq %xmm3, %rax
	cmp $0x5555, %rax
	jne fail
	fxsave (%rdi)
	fxrstor (%rdi)
	fninit
	jmp pass

step_int3:
	mov $1, %ebx
	int3
	cmp $3, %ebx
	jne fail
	ud2
	cmp $6, %ebx
	jne fail
	jmp pass

step_page_fault:
	mov $NOWHERE, %edi
	mov $1, %ebx
	mov (%rdi), %rax /* the handler goes on behind these three bytes */
	cmp $14, %ebx
	jne fail
	mov %cr2, %rax
	cmp %rdi, %rax
	jne fail
	jmp pass

step_user:
	mov $MSR_STAR, %ecx
	xor %eax, %eax
	mov $0x00180008, %edx
	wrmsr
	mov $MSR_LSTAR, %ecx
	mov $PROBE_CODE + system_call - kvm_probe_code, %eax
	xor %edx, %edx
	wrmsr
	mov $MSR_SFMASK, %ecx
	mov $0x200, %eax
	wrmsr
	mov $MSR_KERNEL_GS_BASE, %ecx
	mov $DATA, %eax
	wrmsr
	pushq $0x23
	pushq $0x9000
	pushq $0x2
	pushq $0x2b
	lea user(%rip), %rax
	push %rax
	iretq
user:
	mov $39, %eax
	syscall
	jmp fail
system_call:
	swapgs
	movq $77, %gs:8
	cmpq $77, DATA + 8
	jne fail
	cmp $39, %eax
	jne fail
	swapgs
	jmp pass

step_interrupt:
	xor %ebx, %ebx
	sti
	nop
	hlt /* probe.c injects vector 30h */
	cmp $0x30, %ebx
	jne fail
	cli
	jmp pass

step_string:
	mov $DATA, %edi
	mov $0xaa, %eax
	mov $4096, %ecx
	cld
	rep stosb
	mov $DATA, %esi
	mov $DATA + 1, %edi
	mov $512, %ecx
	rep movsb
	jmp pass

step_fences:
	rdtsc
	mfence
	lfence
	sfence
	pause
	prefetcht0 DATA
	clflush DATA
	jmp pass

pass:
	out %al, $0x10
fail:
	out %al, $0x11

	/* Handlers say in RBX which one ran. */
handle_ud:
	mov $6, %ebx
	addq $2, (%rsp)
	iretq
handle_bp:
	mov $3, %ebx
	iretq
handle_pf:
	mov $14, %ebx
	add $8, %rsp
	addq $3, (%rsp)
	iretq
handle_irq:
	mov $0x30, %ebx
	iretq
handle_other:
	out %al, $0x12
	jmp handle_other
kvm_probe_code_end:

	.balign 4
	/* In the order of probe.c's table. */
kvm_probe_steps:
	.long step_real - kvm_probe_code
	.long step_long - kvm_probe_code
	.long step_msr - kvm_probe_code
	.long step_control - kvm_probe_code
	.long step_string - kvm_probe_code
	.long step_fences - kvm_probe_code
	.long step_cmpxchg16b - kvm_probe_code
	.long step_xsave - kvm_probe_code
	.long step_int3 - kvm_probe_code
	.long step_page_fault - kvm_probe_code
	.long step_user - kvm_probe_code
	.long step_interrupt - kvm_probe_code
	/* #BP, #UD, #PF, vector 30h, all others */
kvm_probe_handlers:
	.long handle_bp - kvm_probe_code
	.long handle_ud - kvm_probe_code
	.long handle_pf - kvm_probe_code
	.long handle_irq - kvm_probe_code
	.long handle_other - kvm_probe_code

	.section .note.GNU-stack, "", @progbits
