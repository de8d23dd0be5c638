/* A board: the machine as one places it on a table. It owns every chip of one
 * VM, knows all addresses, irq numbers and wires, and puts into RAM what boots.
 * Nothing outside core/board does.
 *
 *     vm_init(&vm, &host, &clock);
 *     board_create(&vm, ram, &config, &board, &err);   // chips, vCPUs, address map
 *     engine_create(...);                              // sees the map and the vCPUs
 *     vm_reset(&vm); board_load(board, &err);          // at start and after each reset
 *
 * Called by the host's main with the VM lock held or before any vCPU thread runs.
 * What `config` points to (images, back ends, command line, the CPUID policy) stays
 * the caller's and must live as long as the VM: each reset loads the images again. */
#ifndef CORE_BOARD_BOARD_H
#define CORE_BOARD_BOARD_H

#include "core/base/err.h"
#include "core/boot/boot.h"
#include "core/vm/backend.h"
#include "core/vm/vm.h"

#define BOARD_DISKS 16
#define BOARD_CHANNELS 8
#define BOARD_NETS 4
#define BOARD_MEMORY_MIN (8ull << 20)
#define BOARD_MEMORY_MAX (1ull << 38) /* stays below every CPU model's physical width */

struct board;

/* A named port of virtio-console: /dev/virtio-ports/NAME in a Linux guest. */
struct board_channel {
	const char *name;
	struct char_backend backend;
};

/* A network card. */
struct board_net {
	struct net_backend backend;
	uint8_t mac[6];
	uint16_t mtu; /* told to the guest; 0: nothing is said */
};

struct board_config {
	const char *board; /* "pc" or "micro" */
	uint64_t memory;   /* bytes of RAM, a multiple of 4 KiB; `ram` has as many */
	unsigned cpus;	   /* 1..VM_VCPUS */
	const struct cpuid_policy *cpuid;

	/* What boots. No kernel: nothing; the vCPU starts at the reset vector. */
	struct boot_image kernel, initrd;
	const char *append;		/* the kernel's command line; NULL: empty */
	enum boot_format force; /* BOOT_AUTO: by the image's magic; BOOT_FLAT_*: a test image */
	gpa_t flat_at;			/* where a flat image goes; 0: its format's default */

	/* Back ends. One whose first function is NULL is absent, and so is its device,
	 * except for `serial`: COM1 always exists and then writes to nobody. */
	struct char_backend serial;	 /* COM1 */
	struct char_backend console; /* virtio-console */
	struct rng_backend rng;
	const struct block_backend *disks[BOARD_DISKS];
	bool disk_nvme[BOARD_DISKS]; /* on an NVMe controller instead of virtio-blk; needs PCI */
	unsigned ndisks;
	struct board_channel channels[BOARD_CHANNELS];
	unsigned nchannels;
	struct board_net nets[BOARD_NETS];
	unsigned nnets;
	struct vsock_backend vsock; /* virtio-vsock; and the guest's address on it */
	uint32_t vsock_cid;
	/* Takes back memory that the guest does not use: virtio-balloon. */
	void (*discard)(void *opaque, uint8_t *host, uint64_t len);
	void *discard_opaque;

	/* Test mode: port E9 writes characters to `serial`, port F4 calls debug_exit with the
	 * value written (1, 2 or 4 bytes). Not for guests of users. */
	bool test_ports;
	void (*debug_exit)(void *opaque, uint32_t value);
	void *debug_opaque;
};

/* Makes the machine in `vm` (after vm_init): memory map, chips, vCPUs, hooks. `ram` is
 * `config->memory` zeroed bytes, page-aligned, and stays the caller's. 0, or -ERR_* with
 * `e` filled: a bad config or no memory. */
int board_create(struct vm *vm, uint8_t *ram, const struct board_config *config, struct board **out,
				 struct err *e);

/* After vm_reset(): writes kernel, initrd, command line and firmware tables into RAM and
 * sets vCPU 0 to the kernel's entry; the others wait for their SIPI. Also right before
 * the first run. 0, or -ERR_* with a sentence about the image. */
int board_load(struct board *b, struct err *e);

/* Where the host gives input: COM1, and virtio-console (receive NULL: none). */
struct char_device board_serial_device(struct board *b);
struct char_device board_console_device(struct board *b);
/* The same for channel `i`, and whether somebody is at its host's end: at first nobody is. */
struct char_device board_channel_device(struct board *b, unsigned i);
void board_channel_set_open(struct board *b, unsigned i, bool open);
/* Asks the guest to do with so many bytes less than it has; it may take its time. false: there is
 * no balloon, or no driver for it yet, which will find this when it comes. */
bool board_set_balloon(struct board *b, uint64_t bytes);
/* Bytes that it was asked for, has given, and has reported as free, ever; all 0 without one. */
void board_balloon(struct board *b, uint64_t *target, uint64_t *actual, uint64_t *reported);
/* The way into network card `i`, for its back end. */
struct net_device board_net_device(struct board *b, unsigned i);

/* The way into the vsock device, for its back end. */
struct vsock_device board_vsock_device(struct board *b);

/* Presses the ACPI power button; the guest decides what follows. false: nothing in it listens. */
bool board_power_button(struct board *b);

/* For inspection: calls `line` once a device with its name and where it sits. */
void board_list(struct board *b, void (*line)(void *out, const char *name, const char *where),
				void *out);

/* The names for --board, NULL at the end. */
extern const char *const board_names[];

#endif
