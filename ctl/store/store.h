/* The VMs of one user, as folders:
 *     vms/NAME/vm.yaml      the definition (ctl/def)
 *              state.json   id, times, how it ended; see below
 *              lock         held by the VM's process as long as it lives
 *              serial.log, vm.log, disk0.*, seed.iso
 * There is no daemon and no index: what a folder says and whether its lock is held is all that
 * is known. A VM comes into being by one rename() and goes by one, so that a crash leaves
 * a whole VM or none. state.json carries a version; newer ones are refused, not guessed at. */
#ifndef CTL_STORE_STORE_H
#define CTL_STORE_STORE_H

#include "core/base/err.h"
#include "core/base/types.h"
#include "ctl/store/paths.h"

#define STORE_NAME 64
#define STORE_ID 16
#define STORE_BOOT 40
#define STORE_SOCKET 108 /* what a socket's address holds */

enum store_phase {
	STORE_CREATED, /* never started */
	STORE_RUNNING, /* its process lives */
	STORE_STOPPED, /* ended in order; `end` says how */
	STORE_DIED,	   /* the process went away without a word: killed, or the host went down */
};

struct store_vm {
	char name[STORE_NAME];
	char id[STORE_ID]; /* 12 hexadecimal digits; never changes */
	char dir[PATHS_MAX];
	enum store_phase phase;
	int pid;						 /* 0: not running */
	int64_t created, started, ended; /* seconds since 1970; 0: not yet */
	int exit_code;					 /* of the last run, as enum cli_exit */
	char end[40];					 /* "powered off", "panicked"...; of one that died, too */
	char why[256];					 /* more about it; may be empty */
	char boot[STORE_BOOT];			 /* of the host, and its kills then: death.h */
	uint64_t oom_kills;
	char socket[STORE_SOCKET]; /* its process's control socket; empty: where we would put it */
};

struct store_list {
	struct store_vm *vms; /* sorted by name */
	unsigned n;
};

/* All VMs. Folders that are no VM are left out, broken ones are logged. */
int store_list(struct store_list *l, struct err *e);
void store_list_free(struct store_list *l);

/* By its whole name, by id, or by the only id that begins so (4 characters at least). -ERR_NOENT
 * with "did you mean"; -ERR_INVAL: it fits several. */
int store_find(struct store_vm *vm, const char *text, struct err *e);

/* A folder that becomes a VM with store_publish(), or goes with store_abandon(). `name` NULL:
 * one is made up. `vm` gets id, name and the folder's present path. */
int store_begin(struct store_vm *vm, const char *name, struct err *e);
int store_publish(struct store_vm *vm, struct err *e);
void store_abandon(struct store_vm *vm);

/* A running VM keeps its folder open and may be renamed. */
int store_rename(struct store_vm *vm, const char *name, struct err *e);
/* Waits for others that remove it: -ERR_NOENT, they did. -ERR_BUSY: it runs. */
int store_remove(struct store_vm *vm, struct err *e);

/* Reads or writes state.json in vm->dir. */
int store_load(struct store_vm *vm, struct err *e);
int store_save(const struct store_vm *vm, struct err *e);

/* The VM's lock for its process: a descriptor that holds it until it is closed. -ERR_BUSY:
 * another process has it. */
int store_lock(const struct store_vm *vm, struct err *e);
bool store_is_locked(const struct store_vm *vm);

const char *store_phase_name(enum store_phase p);

#endif
