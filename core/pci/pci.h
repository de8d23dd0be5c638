/* The PCI bus and what a device on it looks like: configuration space, BARs,
 * interrupt pins, MSI and MSI-X ([PCI3.0 6], [PCI3.0 6.8]).
 * A device embeds struct pci_device, fills in its identity, registers BARs and
 * capabilities, and is added to a bus by the board. VM lock held throughout. */
#ifndef CORE_PCI_PCI_H
#define CORE_PCI_PCI_H

#include "core/base/types.h"
#include "core/vm/irq.h"
#include "core/vm/mem.h"
#include "core/vm/state.h"

#define PCI_CFG_SIZE 4096
#define PCI_BARS 6
#define PCI_DEVFN(dev, fn) ((uint8_t)((dev) << 3 | (fn)))

/* Registers of the type 0 header ([PCI3.0 6.1]). */
enum {
	PCI_VENDOR = 0x00,
	PCI_DEVICE = 0x02,
	PCI_COMMAND = 0x04,
	PCI_STATUS = 0x06,
	PCI_REVISION = 0x08,
	PCI_CLASS = 0x09,
	PCI_CACHE_LINE = 0x0c,
	PCI_LATENCY = 0x0d,
	PCI_HEADER_TYPE = 0x0e,
	PCI_BAR0 = 0x10,
	PCI_SUBVENDOR = 0x2c,
	PCI_SUBDEVICE = 0x2e,
	PCI_CAP_POINTER = 0x34,
	PCI_INTERRUPT_LINE = 0x3c,
	PCI_INTERRUPT_PIN = 0x3d,
};

#define PCI_COMMAND_IO 0x1u
#define PCI_COMMAND_MEMORY 0x2u
#define PCI_COMMAND_MASTER 0x4u
#define PCI_COMMAND_NO_INTX 0x400u
#define PCI_STATUS_INTX 0x08u
#define PCI_STATUS_CAPS 0x10u

struct pci_bus;
struct pci_device;

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

/* A BAR answers while the command register enables its space. The guest chooses where, so
 * its priority is below that of RAM and of all that the board placed: what it covers of
 * them stays hidden. */
#define PCI_BAR_PRIORITY (-1)

struct pci_bar {
	enum pci_bar_kind kind;
	uint64_t size;		   /* power of two */
	uint64_t assigned;	   /* address after reset; 0: none */
	struct mem_region mem; /* ops and dev filled in by pci_add_bar */
	struct port_region port;
};

#define PCI_MSIX_VECTORS 64

struct pci_msix {
	uint8_t cap; /* offset of the capability; 0: none */
	uint8_t bar;
	uint16_t nvectors;
	struct {
		uint64_t addr;
		uint32_t data;
		uint32_t ctrl; /* bit 0: masked */
		bool pending;
	} vec[PCI_MSIX_VECTORS];
	uint32_t table_off, pba_off; /* in the BAR */
};

struct pci_device {
	const char *name;
	struct pci_bus *bus; /* NULL until added */
	uint8_t devfn;
	uint8_t cfg[PCI_CFG_SIZE];
	uint8_t writable[256]; /* which bits of the first 256 bytes the guest may write */
	struct pci_bar bar[PCI_BARS];
	struct pci_msix msix;
	uint8_t msi_cap;  /* offset of the MSI capability; 0: none */
	uint8_t next_cap; /* where the next capability goes */
	bool intx;		  /* level of the INTx pin as the device drives it */
	bool intx_driven; /* and as the bus sees it: not while the command register disables it */
	/* After a configuration write landed; may be NULL. */
	void (*cfg_written)(struct pci_device *d, unsigned off, unsigned size);
	/* Overrides for a device's own capability registers (e.g. virtio's PCI cfg access);
	 * may be NULL; return false to let the default act. */
	bool (*cfg_read)(struct pci_device *d, unsigned off, unsigned size, uint32_t *val);
};

struct pci_bus {
	struct mem_space *mem;
	struct msi_sink msi;
	struct irq_line intx[4];	 /* INTA..INTD after the board's swizzle */
	struct pci_device *dev[256]; /* by devfn */
	uint32_t config_addr;		 /* port CF8 */
	uint8_t intx_count[4];		 /* devices asserting each line */
	uint8_t intx_irq[4];		 /* what the interrupt line register says after reset */
	struct port_region cf8, cfc;
	struct mem_region ecam;
	/* Where the board lets BARs be placed at reset, for guests without firmware. */
	uint64_t mmio32_next, mmio32_end, mmio64_next, mmio64_end;
	uint32_t io_next, io_end;
};

/* Makes the bus and the ways to its configuration space: mechanism 1 at CF8/CFC and, if
 * ecam_base is not 0, ECAM for bus 0 there (1 MiB). A reset register at port CF9 lies among
 * them and must be added to `mem` before. The board fills in the windows and intx_irq. */
void pci_bus_init(struct pci_bus *b, struct mem_space *mem, const struct msi_sink *msi,
				  const struct irq_line intx[4], gpa_t ecam_base);

/* Fills identity; type 0 header with interrupt pin A (a device without one clears
 * cfg[PCI_INTERRUPT_PIN]). class_code = class << 16 | subclass << 8 | prog-if. */
void pci_device_init(struct pci_device *d, const char *name, uint16_t vendor, uint16_t device,
					 uint32_t class_code, uint8_t revision, uint16_t subvendor, uint16_t subdevice);

/* BARs, capabilities and identity come before pci_bus_add(). A 64-bit BAR takes two. */
void pci_add_bar(struct pci_device *d, unsigned bar, enum pci_bar_kind kind, uint64_t size,
				 const struct io_ops *ops, void *dev);

/* Reserves `len` bytes of a capability with this id, links it, returns its offset. */
uint8_t pci_add_cap(struct pci_device *d, uint8_t id, unsigned len);
/* One vector, 64-bit address, with a mask bit. */
void pci_add_msi(struct pci_device *d);
/* Table at 0 and PBA right behind it in BAR `bar`, which this call registers. */
void pci_add_msix(struct pci_device *d, unsigned bar, unsigned nvectors);

/* Adds to the bus at devfn; assigns BARs from the bus's windows and enables nothing
 * (command register 0; direct-boot guests enable what they use, BARs are ready). */
void pci_bus_add(struct pci_bus *b, struct pci_device *d, uint8_t devfn);

/* Back to power-on: command 0, MSI/MSI-X off, BARs as assigned. */
void pci_device_reset(struct pci_device *d);
void pci_bus_reset(struct pci_bus *b);

/* Interrupts: the pin (level), and one message of MSI-X (vector) or MSI. Masked messages
 * stay pending; without the enable bit, or for a vector that is not there, nothing happens.
 * The bus master bit is not looked at. */
void pci_set_intx(struct pci_device *d, bool level);
bool pci_msix_enabled(const struct pci_device *d);
void pci_msix_notify(struct pci_device *d, unsigned vector);
bool pci_msi_enabled(const struct pci_device *d);
void pci_msi_notify(struct pci_device *d);

/* One access to a device's configuration space: off + size <= PCI_CFG_SIZE. */
uint32_t pci_cfg_read(struct pci_device *d, unsigned off, unsigned size);
void pci_cfg_write(struct pci_device *d, unsigned off, unsigned size, uint32_t val);

/* The bus's own part, and what every device's walk begins with. Loading maps BARs. */
void pci_bus_state(struct state_io *io, void *bus);
void pci_device_state(struct state_io *io, struct pci_device *d);

#endif
