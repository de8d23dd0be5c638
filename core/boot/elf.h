/* The little of ELF that a boot loader reads ([gABI 4], [gABI 5]) and of the
 * PVH boot protocol (Xen's docs/misc/pvh.pandoc and start_info.h). */
#ifndef CORE_BOOT_ELF_H
#define CORE_BOOT_ELF_H

#define ELF_MAGIC 0x464c457f
#define ELF_CLASS 4 /* offsets into e_ident */
#define ELF_DATA 5
#define ELF_CLASS32 1
#define ELF_CLASS64 2
#define ELF_LSB 1
#define EM_386 3
#define EM_X86_64 62
#define PT_LOAD 1
#define PT_NOTE 4

#define NOTE_PHYS32_ENTRY 18 /* XEN_ELFNOTE_PHYS32_ENTRY, of owner "Xen" */

#define START_INFO_MAGIC 0x336ec578
#define START_INFO_SIZE 56
#define START_INFO_MODULE 32
#define START_INFO_RANGE 24

#endif
