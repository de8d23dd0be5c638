/* Parts of KVM that can be left out, to find which one is at fault and to test the way without it:
 * JOIST_KVM_OFF="ioeventfd,dirty-ring". What a host's KVM lacks is left out by itself. */
#include <stdlib.h>
#include <string.h>

#include "core/base/bits.h"
#include "engine/kvm/kvm.h"

bool kvm_part(enum kvm_part part) {
	static const char *const names[KVM_PARTS] = {
		[KVM_PART_IOEVENTFD] = "ioeventfd",
		[KVM_PART_DIRTY_RING] = "dirty-ring",
		[KVM_PART_COALESCED] = "coalesced",
		[KVM_PART_IRQFD] = "irqfd",
	};
	const char *s = getenv("JOIST_KVM_OFF");
	size_t len = strlen(names[part]);
	while (s && *s) {
		size_t n = strcspn(s, ",");
		if (n == len && !memcmp(s, names[part], n))
			return false;
		s += n + (s[n] == ',');
	}
	return true;
}
