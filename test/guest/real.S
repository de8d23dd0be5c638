/* Real mode: segments, interrupts, string instructions, big real mode, A20, the PIT through the
 * 8259. [SDM3 20] */
	.text
	.include "test/guest/real.inc"

	.macro clear_regs
	xor %eax, %eax
	xor %ebx, %ebx
	.endm

guest:
	/* -- segmentation */
	movw $0x1234, 0x9000
	mov $0x900, %ax
	mov %ax, %es
	clear_regs
	mov %es:0, %ax
	check "segment times 16", %eax, $0x1234
	mov $0xffff, %ax
	mov %ax, %es
	mov %es:0xfff0, %al	/* 10ffe0h: above 1 MiB */
	movb $0x77, %es:0xfff0
	xor %eax, %eax
	mov %es:0xfff0, %al
	check "FFFF:FFF0 is above 1 MiB", %eax, $0x77
	xor %ax, %ax
	mov %ax, %es
	try
	mov %es:0xffff, %ax
	tried
	check "word at FFFF: #GP", noted, $13
	try
	mov %es:0xfffd, %eax
	tried
	check "dword at FFFD: #GP", noted, $13
	try
	mov %es:0xffff, %al
	tried
	check "byte at FFFF", noted, $0xfff
	try
	mov $0xffff, %bp
	mov (%bp), %ax
	tried
	check "word at SS:FFFF: #SS", noted, $12
	try
	mov $0x10000, %ebx
	mov (%ebx), %al
	tried
	check "offset above FFFF: #GP", noted, $13
	mov $0xfff0, %bx
	movb $0x5a, 0x20
	xor %eax, %eax
	mov 0x30(%bx), %al
	check "16-bit offsets wrap", %eax, $0x5a
	movl $0x00007111, 0x20
	call set_vectors

	/* -- stack */
	mov %sp, %bp
	push %sp
	xor %eax, %eax
	xor %ecx, %ecx
	pop %ax
	mov %bp, %cx
	check "PUSH SP pushes the old one", %eax, %ecx
	movw $0x7e00, save_sp
	movl $0xfff, noted
	movw $1f, resume
	mov $0x6000, %ax
	mov %ax, %ss
	xor %sp, %sp
	pushl $0x11223344	/* wraps to FFFC */
	mov %esp, %eax
	movzwl %ax, %eax
	mov %ss:0xfffc, %ebx
	mov %cs:zero, %ss
	mov $0x7000, %sp
	check "SP wraps", %eax, $0xfffc
	check "at the top of the segment", %ebx, $0x11223344
1:

	/* -- INT and IRET */
	movw $int_60, 0x60 * 4
	movw $0, 0x60 * 4 + 2
	sti
	int $0x60
after_60:
	cli
	movzwl seen_flags, %eax
	and $0x300, %eax
	check "INT clears IF and TF", %eax, $0
	movzwl seen_ip, %eax
	check "INT pushes the next IP", %eax, $after_60
	movzwl seen_pushed, %eax
	and $0x200, %eax
	check "and the flags from before", %eax, $0x200
	try
	int3
	tried
	check "INT3", noted, $3
	try
	mov $0x7f, %al
	add $1, %al
	into
	tried
	check "INTO", noted, $4
	try
	xor %ax, %ax
	into
	tried
	check "INTO without OF", noted, $0xfff
	try
	xor %dx, %dx
	div %dx
	tried
	check "#DE", noted, $0
	try
	mov $bounds, %bx
	mov $9, %ax
	bound %ax, (%bx)
	tried
	check "BOUND", noted, $5
	try
	mov $4, %ax
	bound %ax, (%bx)
	tried
	check "BOUND inside", noted, $0xfff
	try
	ud2
	tried
	check "UD2", noted, $6
	try
	.byte 0x0f, 0x00, 0xc0	/* SLDT */
	tried
	check "SLDT: #UD", noted, $6
	try
	.byte 0x63, 0xc0	/* ARPL */
	tried
	check "ARPL: #UD", noted, $6
	try
	.byte 0xf0, 0x90		/* LOCK NOP */
	tried
	check "LOCK NOP", noted, $6
	try
	mov %ax, %ds
	.byte 0x8e, 0xc8	/* MOV CS */
	tried
	check "MOV CS: #UD", noted, $6
	try
	.fill 15, 1, 0x26
	nop
	tried
	check "16 bytes: #GP", noted, $13

	/* -- the vector table can move and ends where its limit says */
	sidt idt_saved
	movw $0x60 * 4 + 2, idt_short
	lidt idt_short
	try
	int $0x60
	tried
	lidt idt_saved
	check "INT beyond the limit: #GP", noted, $13
	xor %eax, %eax
	mov idt_saved, %ax
	check "the limit after reset", %eax, $0xffff
	mov $256, %cx		/* a copy elsewhere, one vector changed */
	xor %si, %si
	mov $0x9000, %di
	rep movsl
	movw $int_other, 0x9000 + 0x60 * 4
	lidt idt_moved
	movl $0, seen_flags
	int $0x60
	lidt idt_saved
	movzwl seen_flags, %eax
	check "a moved vector table", %eax, $0x4711

	/* -- far transfers */
	push %cs
	call far_near		/* as a far CALL: RETF takes it */
	mov $1, %eax
	check "RETF", %eax, $1
	lcall $0x7c0, $far_code - 0x7c00
	movzwl seen_cs, %eax
	check "far CALL loads CS", %eax, $0x7c0

	/* -- strings across 64 KiB */
	mov $0x2000, %ax
	mov %ax, %es
	mov $0xfffe, %di
	mov $4, %cx
	mov $0x61, %al
	cld
	rep stosb
	movzwl %di, %eax
	check "STOSB wraps DI", %eax, $2
	xor %eax, %eax
	mov %es:1, %al
	check "and stores at the start", %eax, $0x61
	mov $0xffff, %di
	movb $0, %es:0
	mov $2, %cx
	try
	mov $0x6262, %ax
	rep stosw
	tried
	check "STOSW at FFFF: #GP", noted, $13
	mov $0x2000, %ax
	mov %ax, %es
	mov $0xfffa, %di
	mov $5, %cx
	try
	rep stosw		/* fills FFFA, FFFC, FFFE, then wraps to 0 */
	tried
	check "STOSW wraps on even ends", noted, $0xfff
	mov $0x2000, %ax
	mov %ax, %es
	std
	mov $1, %di
	mov $3, %cx
	rep stosb
	cld
	movzwl %di, %eax
	check "backwards", %eax, $0xfffe
	mov $3, %ecx
	mov $0x10000, %edi
	try
	addr32 rep stosb
	tried
	check "32-bit addresses: #GP above FFFF", noted, $13
	check "and ECX is as it was", %ecx, $3
	xor %ax, %ax
	mov %ax, %es

	/* -- IP */
	mov $0x3000, %ax
	mov %ax, %es
	movb $0x90, %es:0xffff	/* NOP, then IP is 10000h: outside of the limit */
	movb $0xcb, %es:0
	try
	ljmp $0x3000, $0xffff
	tried
	check "running over FFFF: #GP", noted, $13
	/* a near jump wraps IP to 16 bits */
	mov $0x3000, %ax
	mov %ax, %es
	movb $0xeb, %es:0xfffd
	movb $0x01, %es:0xfffe	/* JMP +1 from FFFF: to 0 */
	try
	lcall $0x3000, $0xfffd
	tried
	check "JMP wraps IP", noted, $0xfff
	xor %ax, %ax
	mov %ax, %es

	/* -- big real mode */
	cli
	lgdt gdt_pointer
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	jmp 1f
1:	mov $8, %bx
	mov %bx, %fs
	and $~1, %al
	mov %eax, %cr0
	jmp 1f
1:	mov $0x200000, %ebx
	movl $0xdeadbeef, %fs:(%ebx)
	mov %fs:(%ebx), %eax
	check "4 GiB limit stays", %eax, $0xdeadbeef
	xor %ax, %ax
	mov %ax, %fs		/* loads base, keeps the limit */
	mov %fs:(%ebx), %eax
	check "also over MOV FS", %eax, $0xdeadbeef
	try
	mov $0x10000, %ebx
	mov (%ebx), %al
	tried
	check "DS still ends at FFFF", noted, $13

	/* -- A20, by port 92h and by the keyboard controller */
	movl $0x11111111, %fs:0x500
	mov $0x100500, %ebx
	movl $0x22222222, %fs:(%ebx)
	in $0x92, %al
	movzbl %al, %eax
	and $2, %eax
	check "A20 is on at first", %eax, $2
	mov %fs:0x500, %eax
	check "so 100500h is not 500h", %eax, $0x11111111
	xor %eax, %eax
	out %al, $0x92
	mov $2, %al
	out %al, $0x92
	mov %fs:(%ebx), %eax
	check "on again by port 92h", %eax, $0x22222222

	/* -- flags and CPU */
	pushf
	xor %eax, %eax
	pop %ax
	and $0x802a, %eax
	check "fixed flags", %eax, $2
	pushl $0x200002		/* ID can be set: there is CPUID */
	popfl
	pushfl
	popl %eax
	and $0x200000, %eax
	check "EFLAGS.ID", %eax, $0x200000
	smsw %ax
	and $1, %eax
	check "SMSW: PE", %eax, $0
	mov $0x12345678, %eax
	mov %eax, %ebx
	bswap %eax
	check "32-bit registers", %eax, $0x78563412

	/* -- HLT until the PIT's interrupt through the 8259 */
	cli
	mov $0x11, %al
	out %al, $0x20
	mov $0x50, %al		/* vector base 50h */
	out %al, $0x21
	mov $4, %al
	out %al, $0x21
	mov $1, %al
	out %al, $0x21
	mov $0xfe, %al
	out %al, $0x21
	movw $tick, 0x50 * 4
	movw $0, 0x50 * 4 + 2
	mov $0x34, %al
	out %al, $0x43
	mov $0xa9, %al
	out %al, $0x40
	mov $0x04, %al
	out %al, $0x40
	movl $0, ticks
	mov $5, %cx
1:	sti
	hlt
	cli
	loop 1b
	mov $0xff, %al
	out %al, $0x21
	cmpl $5, ticks		/* more: on a busy host one may come before its HLT */
	jbe 1f
	movl $5, ticks
1:
	check "five ticks end five HLTs", ticks, $5

	/* -- and a look at protected mode and back */
	lgdt gdt_pointer
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmp $16, $1f
1:	smsw %ax
	and $1, %ax
	movzwl %ax, %edx
	mov %cs, %ecx
	mov %cr0, %eax
	and $~1, %al
	mov %eax, %cr0
	ljmp $0, $1f
1:	movzwl %cx, %ecx
	check "protected mode", %edx, $1
	check "its CS", %ecx, $16
	xor %eax, %eax
	mov %cs, %ax
	check "back in real mode", %eax, $0
	jmp done

int_60:	push %bp
	mov %sp, %bp
	push %ax
	mov 2(%bp), %ax
	mov %ax, seen_ip
	mov 6(%bp), %ax
	mov %ax, seen_pushed
	pushf
	pop seen_flags
	pop %ax
	pop %bp
	iret
int_other:
	movw $0x4711, seen_flags
	iret
tick:	push %ax
	incl ticks
	mov $0x20, %al
	out %al, $0x20
	pop %ax
	iret
far_near:
	lret
far_code:
	mov %cs, %cs:seen_cs - 0x7c00
	lret

bounds:	.word 1, 5
	.balign 8
seen_flags: .long 0
seen_ip: .long 0
seen_pushed: .long 0
seen_cs: .long 0
ticks:	.long 0
idt_saved: .word 0
	.long 0
idt_short: .word 0
	.long 0
idt_moved: .word 0x3ff
	.long 0x9000
gdt_pointer: .word 23
	.long gdt
	.balign 8
gdt:	.quad 0
	.quad 0x00cf93000000ffff
	.quad 0x00009b000000ffff
	.section .note.GNU-stack, "", @progbits
