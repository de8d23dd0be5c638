/* How a 32-bit or 64-bit test guest starts, takes traps and enters ring 3. The board
 * enters at 1 MiB in flat 32-bit protected mode; a 64-bit guest goes on to long mode
 * from there. The multiboot header is for running the same image elsewhere.
 * See guest.h for what C sees of all this. */

#define SEL_CODE 0x08
#define SEL_DATA 0x10
#ifdef __x86_64__
#define SEL_CODE32 0x40
#define AX rax
#define SP rsp
#define DI rdi
#define WORD .quad
#define WSIZE 8
#else
#define SEL_CODE32 0x08
#define AX eax
#define SP esp
#define DI edi
#define WORD .long
#define WSIZE 4
#endif

	.section .text.start, "ax"
	.code32
	.globl start
start:
	jmp 1f
	.balign 4
multiboot:
	.long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
	.long multiboot, start, image_end, guest_end, start
1:
	cli
	cld
	mov $stack_end, %esp
	mov $image_end, %edi
	mov $guest_end, %ecx
	sub %edi, %ecx
	xor %eax, %eax
	rep stosb
	lgdt gdt_pointer
	ljmp $SEL_CODE32, $2f
2:
	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %eax, %fs
	mov %eax, %gs
#ifdef __x86_64__
	/* The first 4 GiB one to one in pages of 2 MiB that ring 3 may use as well. */
	mov $pml4, %edi
	movl $pdpt + 7, (%edi)
	mov $pdpt, %edi
	mov $pd + 7, %eax
	mov $4, %ecx
3:	mov %eax, (%edi)
	add $8, %edi
	add $4096, %eax
	loop 3b
	mov $pd, %edi
	mov $0x87, %eax
	mov $2048, %ecx
4:	mov %eax, (%edi)
	add $8, %edi
	add $0x200000, %eax
	loop 4b
	call enter_long
	.code64
	mov $stack_end, %rsp
#endif
	call guest_main
5:	cli
	hlt
	jmp 5b

#ifdef __x86_64__
/* From flat 32-bit code to 64-bit code, returning to the caller's address. */
	.code32
enter_long:
	pop %esi
	mov %cr4, %eax
	or $0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	mov %eax, %cr4
	mov $pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x100, %eax
	wrmsr
	mov %cr0, %eax
	or $0x80000001, %eax
	and $~0xc, %eax		/* no EM, TS */
	or $0x2, %eax
	mov %eax, %cr0
	ljmp $SEL_CODE, $1f
	.code64
1:	jmp *%rsi
#endif

/* Where a SIPI to vector 8 starts another processor: this code is copied to 8000h. */
	.code16
	.globl ap_start, ap_end
	.balign 16
ap_start:
	cli
	xor %ax, %ax
	mov %ax, %ds
	lgdtl 0x8000 + (ap_gdt - ap_start)
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $SEL_CODE32, $ap_32
	.balign 8
ap_gdt:
	.word 64 * 8 - 1
	.long gdt
ap_end:
	.code32
ap_32:
	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %eax, %fs
	mov %eax, %gs
	mov $1, %eax
	lock xadd %eax, ap_count
	inc %eax			/* this processor's number: 1, 2, ... */
	mov %eax, %ebx
	shl $14, %eax
	lea ap_stacks(%eax), %esp
#ifdef __x86_64__
	call enter_long
	.code64
	lidt idt_pointer
	mov %ebx, %edi
#else
	lidt idt_pointer
	push %ebx
#endif
	call ap_main
6:	cli
	hlt
	jmp 6b

/* One entry for each vector, 16 bytes apart. */
	.text
	.balign 16
	.globl trap_stubs
trap_stubs:
	vector = 0
	.rept 256
	.balign 16
	.if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17
	.else
	push $0
	.endif
	push $vector
	jmp trap_common
	vector = vector + 1
	.endr

	.globl trap_leave
#ifdef __x86_64__
trap_common:
	push %rax; push %rcx; push %rdx; push %rbx; push %rbp; push %rsi; push %rdi
	push %r8; push %r9; push %r10; push %r11; push %r12; push %r13; push %r14; push %r15
	cld
	mov %rsp, %rdi
	mov %rsp, %rbp
	and $-16, %rsp
	call trap_entry
	mov %rbp, %rsp
	pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8
	pop %rdi; pop %rsi; pop %rbp; pop %rbx; pop %rdx; pop %rcx; pop %rax
	add $16, %rsp
	iretq

/* void trap_leave(frame): back to trap_resume with the registers of the frame. */
trap_leave:
	mov %rdi, %rsp
	pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8
	pop %rdi; pop %rsi; pop %rbp; pop %rbx; pop %rdx; pop %rcx; pop %rax
	mov trap_sp, %rsp
	mov trap_bp, %rbp
	pushq $SEL_DATA
	pushq trap_sp
	pushq $2
	pushq $SEL_CODE
	pushq trap_resume
	movq $0, trap_resume
	iretq

/* void try_user(rip, rsp, cs, flags, arg): to ring 3; returns when something traps. */
	.globl try_user
try_user:
	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15
	mov %rsp, trap_sp
	movq $1f, trap_resume
	mov $0x23, %eax
	mov %eax, %ds
	mov %eax, %es
	push $0x23
	push %rsi
	push %rcx
	push %rdx
	push %rdi
	mov %r8, %rdi
	iretq
1:	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx
	ret
#else
trap_common:
	push %ds
	push %es
	push %fs
	push %gs
	pusha
	cld
	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	push %esp
	call trap_entry
	pop %eax
	popa
	pop %gs
	pop %fs
	pop %es
	pop %ds
	add $8, %esp
	iret

trap_leave:
	mov $SEL_DATA, %eax
	mov 4(%esp), %ebx
	mov %eax, %ss
	mov %ebx, %esp
	mov %eax, %fs
	mov %eax, %gs
	popa
	mov trap_sp, %esp
	mov trap_bp, %ebp
	push $2
	popf
	push trap_resume
	movl $0, trap_resume
	ret

/* void try_frame(const long *frame, n): IRET with these n words on the stack, the last of
 * which is at the lowest address; returns when something traps. DS and ES are ring 3's. */
	.globl try_frame
try_frame:
	push %ebx
	push %esi
	push %edi
	push %ebp
	mov 20(%esp), %esi
	mov 24(%esp), %ecx
	mov %esp, trap_sp
	movl $2f, trap_resume
1:	push (%esi)
	add $4, %esi
	loop 1b
	mov $0x23, %eax
	mov %eax, %ds
	mov %eax, %es
	.globl try_frame_iret
try_frame_iret:
	iret
2:	pop %ebp
	pop %edi
	pop %esi
	pop %ebx
	ret
#endif

	.data
	.balign 16
	.globl gdt_pointer, idt_pointer, gdt
gdt_pointer:
	.word 64 * 8 - 1
	WORD gdt
	.balign 8
	.word 0, 0, 0
idt_pointer:
	.word 256 * 2 * WSIZE - 1
	WORD idt
	.balign 16
gdt:
	.quad 0
#ifdef __x86_64__
	.quad 0x00af9b000000ffff	/* 08 code */
	.quad 0x00cf93000000ffff	/* 10 data */
	.quad 0x00cffb000000ffff	/* 18 ring 3, 32 bits */
	.quad 0x00cff3000000ffff	/* 20 ring 3, data */
	.quad 0x00affb000000ffff	/* 28 ring 3, 64 bits */
	.quad 0, 0			/* 30 TSS */
	.quad 0x00cf9b000000ffff	/* 40 code, 32 bits */
	.fill 55, 8, 0
#else
	.quad 0x00cf9b000000ffff	/* 08 code */
	.quad 0x00cf93000000ffff	/* 10 data */
	.quad 0x00cffb000000ffff	/* 18 ring 3 code */
	.quad 0x00cff3000000ffff	/* 20 ring 3 data */
	.fill 59, 8, 0
#endif

	.bss
	.balign 4096
#ifdef __x86_64__
	.globl pml4, pdpt, pd
pml4:	.skip 4096
pdpt:	.skip 4096
pd:	.skip 4 * 4096
#endif
	.skip 16384
	.globl stack_end
stack_end:
ap_stacks:
	.skip 16 * 16384
	.globl ap_count
ap_count:
	.skip 16
	.section .note.GNU-stack, "", @progbits
