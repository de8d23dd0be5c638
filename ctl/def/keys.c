/* What a kept VM has besides its machine (ctl/cli/run.c has the machine's options). */
#include "ctl/cli/cli.h"

const struct cli_option cli_vm_options[] = {
	{"image", 0, CLI_TEXT, "IMAGE", "Image whose kernel and disk it starts with", NULL, NULL,
	 false},
	{"disk-size", 0, CLI_SIZE, "SIZE", "Size of the disk made from the image", NULL, NULL, false},
	{"hostname", 0, CLI_NAME, "NAME", "What cloud-init calls the guest, else the VM's name", NULL,
	 NULL, false},
	{"user", 0, CLI_TEXT, "USER", "User that cloud-init makes, and for joist ssh", "joist", NULL,
	 false},
	{"ssh-key", 0, CLI_FILE, "FILE",
	 "Public key for the user, else one that joist makes for all your VMs", NULL, NULL, false},
	{"user-data", 0, CLI_FILE, "FILE", "cloud-init's user-data, instead of user and key", NULL,
	 NULL, false},
	{"cpu-shares", 0, CLI_NUMBER, "N",
	 "Weight against your other VMs when CPUs are short, 2 to 10000", "100", NULL, false},
	{"cpu-limit", 0, CLI_TEXT, "PERCENT", "Most CPU time it may take, 150% is one CPU and a half",
	 NULL, NULL, false},
	{"memory-limit", 0, CLI_SIZE, "SIZE",
	 "Memory of the VM's process on this host, where cgroups allow it", NULL, NULL, false},
	{"restart", 0, CLI_CHOICE, "WHEN", "Start it again when it ends, by its process or at login",
	 "no", "no on-failure always", false},
	{"stop-timeout", 0, CLI_SECONDS, "TIME",
	 "How long the guest may take to shut down when the VM is stopped, or gets SIGTERM (60, or 10 "
	 "for one that lives in joist run)",
	 NULL, NULL, false},
	{"rm", 0, CLI_FLAG, NULL, "Remove the VM when it has ended", NULL, NULL, false},
	{0},
};
