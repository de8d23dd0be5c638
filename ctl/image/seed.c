/* See seed.h. cloud-init's documentation: datasources/nocloud. */
#include "ctl/image/seed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/image/iso.h"
#include "ctl/store/paths.h"
#include "host/linux/file.h"

int seed_key(char *path, size_t size, struct err *e) {
	char dir[PATHS_MAX];
	int r = paths_data(dir, sizeof(dir), "keys", e);
	if (r || (r = paths_join(path, size, dir, "id_ed25519", e)) != 0)
		return r;
	if (access(path, R_OK) == 0)
		return 0;
	pid_t pid = fork();
	if (pid == 0) {
		execlp("ssh-keygen", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "joist", "-f",
			   path, (char *)NULL);
		_exit(127);
	}
	int status = -1;
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid < 0 || status)
		return err_set(e, ERR_NOTSUP,
					   "cannot make an ssh key with ssh-keygen (package openssh-client); give one "
					   "with --ssh-key");
	return 0;
}

/* One line of a public key file, without what would break the YAML it goes into. */
static int read_key(const char *given, char *key, size_t size, struct err *e) {
	char path[PATHS_MAX];
	struct host_file f;
	int r;
	if (given) {
		snprintf(path, sizeof(path), "%s", given);
	} else {
		if ((r = seed_key(path, sizeof(path) - 4, e)) != 0)
			return r;
		strcat(path, ".pub");
	}
	if ((r = host_file_read(&f, path, "ssh key", e)) != 0)
		return r;
	size_t n = 0;
	while (n < f.len && n + 1 < size && f.data[n] >= ' ' && f.data[n] < 127 && f.data[n] != '"' &&
		   f.data[n] != '\\') {
		key[n] = (char)f.data[n];
		n++;
	}
	key[n] = 0;
	host_file_free(&f);
	if (strncmp(key, "ssh-", 4) && strncmp(key, "ecdsa-", 6) && strncmp(key, "sk-", 3))
		return err_set(e, ERR_INVAL, "--ssh-key %s: not a public key (one line, \"ssh-...\")",
					   path);
	return 0;
}

static bool valid_user(const char *user) {
	return *user && strlen(user) <= 32 && strchr("abcdefghijklmnopqrstuvwxyz_", *user) &&
		   strspn(user, "abcdefghijklmnopqrstuvwxyz0123456789_-") == strlen(user);
}

static int user_data(const struct def *d, const char *host, char *text, size_t size,
					 struct err *e) {
	const char *user = def_text(d, "user");
	char key[2048];
	if (!valid_user(user))
		return err_set(e, ERR_INVAL, "--user %s: not a user name", user);
	int r = read_key(def_text(d, "ssh-key"), key, sizeof(key), e);
	if (r)
		return r;
	snprintf(text, size,
			 "#cloud-config\n"
			 "hostname: %s\n"
			 "preserve_hostname: false\n"
			 "ssh_pwauth: false\n"
			 "users:\n"
			 "  - name: %s\n"
			 "    shell: /bin/bash\n"
			 "    lock_passwd: true\n"
			 "    sudo: \"ALL=(ALL) NOPASSWD:ALL\"\n"
			 "    ssh_authorized_keys: [\"%s\"]\n",
			 host, user, key);
	return 0;
}

int seed_make(const struct def *d, const char *name, const char *dir, struct err *e) {
	static const char network[] = "version: 2\n"
								  "ethernets:\n"
								  "  all:\n"
								  "    match: {name: \"e*\"}\n"
								  "    dhcp4: true\n"
								  "    dhcp6: true\n";
	const char *host = def_text(d, "hostname"), *file = def_text(d, "user-data");
	char user[4096], meta[256], path[PATHS_MAX];
	struct host_file given = {0};
	size_t len;
	if (!host)
		host = name;
	int r = file ? host_file_read(&given, file, "user-data", e)
				 : user_data(d, host, user, sizeof(user), e);
	if (r || (r = paths_join(path, sizeof(path), dir, "seed.iso", e)) != 0) {
		host_file_free(&given);
		return r;
	}
	/* A new instance-id makes cloud-init do its first-boot work, once for each VM. */
	snprintf(meta, sizeof(meta), "instance-id: joist-%s\nlocal-hostname: %s\n",
			 strrchr(dir, '-') + 1, host);
	struct iso_file files[] = {
		{"user-data", file ? (void *)given.data : user, file ? given.len : strlen(user)},
		{"meta-data", meta, strlen(meta)},
		{"network-config", network, sizeof(network) - 1},
	};
	uint8_t *iso = iso_make("cidata", files, 3, &len);
	host_file_free(&given);
	if (!iso)
		return err_set(e, ERR_NOMEM, "no memory for %s", path);
	r = paths_write_file(path, (char *)iso, len, e);
	free(iso);
	return r;
}
