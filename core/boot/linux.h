/* Offsets of Linux's x86 boot protocol, version 2.15: the setup header as it
 * stands both in a bzImage's file and in the zero page (boot.rst), and the zero
 * page's own fields (zero-page.rst). */
#ifndef CORE_BOOT_LINUX_H
#define CORE_BOOT_LINUX_H

#define HDR_START 0x1f1
#define HDR_SETUP_SECTS 0x1f1
#define HDR_SYSSIZE 0x1f4 /* of the protected-mode part, in 16 bytes */
#define HDR_BOOT_FLAG 0x1fe
#define HDR_JUMP 0x200 /* short jump over the header: its operand tells the end */
#define HDR_MAGIC 0x202
#define HDR_VERSION 0x206
#define HDR_TYPE_OF_LOADER 0x210
#define HDR_LOADFLAGS 0x211
#define HDR_RAMDISK_IMAGE 0x218
#define HDR_RAMDISK_SIZE 0x21c
#define HDR_CMD_LINE_PTR 0x228
#define HDR_INITRD_ADDR_MAX 0x22c
#define HDR_KERNEL_ALIGNMENT 0x230
#define HDR_RELOCATABLE 0x234
#define HDR_XLOADFLAGS 0x236
#define HDR_CMDLINE_SIZE 0x238
#define HDR_SETUP_DATA 0x250
#define HDR_PREF_ADDRESS 0x258
#define HDR_INIT_SIZE 0x260
#define HDR_END 0x26c
#define HDR_MAX_END 0x290 /* the zero page's EDD part starts here */

#define LINUX_BOOT_FLAG 0xaa55
#define LINUX_MAGIC 0x53726448 /* "HdrS" */
#define LOADED_HIGH 0x01
#define XLF_KERNEL_64 0x01

#define ZP_SIZE 4096
#define ZP_ACPI_RSDP 0x70
#define ZP_E820_ENTRIES 0x1e8
#define ZP_E820_TABLE 0x2d0

#endif
