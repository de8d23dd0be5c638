#!/bin/sh
# `openssl speed`, Debian's own program and libraries, for the bench set: prints what bench.c prints,
# nanoseconds for 8 KiB or for a signature.
#   openssl.sh -l | openssl.sh NAME...
names="openssl-sha256 openssl-aes-128-gcm openssl-chacha20-poly1305 openssl-rsa2048"
[ "${1:-}" = -l ] && { echo "$names" | tr ' ' '\n'; exit 0; }

# In the guest it lies in the root with its libraries, in tools/bench-image's way.
if [ -e /ld-linux-x86-64.so.2 ] && [ -e /openssl ]; then
	openssl() {
		/ld-linux-x86-64.so.2 --library-path / /openssl "$@"
	}
fi

speed() { # ARGUMENTS...
	openssl speed -elapsed -mr -seconds 1 "$@" 2>/dev/null
}

for name in "$@"; do
	case " $names " in *" $name "*) ;; *) continue ;; esac
	echo "bench: start $name"
	command -v openssl >/dev/null || { echo "bench: $name skip"; continue; }
	algorithm=${name#openssl-}
	if [ "$algorithm" = rsa2048 ]; then
		ns=$(speed rsa2048 | awk -F: '/^\+F2/ { printf "%.1f", 1e9 / $4 }')
	else # the rate is of bytes a second
		ns=$(speed -bytes 8192 -evp "$algorithm" | awk -F: '/^\+F:/ { printf "%.1f", 8192e9 / $4 }')
	fi
	echo "bench: $name ${ns:-failed: no result}"
done
