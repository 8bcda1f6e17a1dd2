// SPDX-License-Identifier: GPL-2.0
/*
 * Checks that a module, to which a reference is held, is the one for which the
 * sites were computed.
 */
#include <linux/elf.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/uaccess.h>

/* bin2hex() moved from kernel.h to a header of its own. */
#if __has_include(<linux/hex.h>)
#include <linux/hex.h>
#endif

#include "pinned.h"

#define PINPOINT_ID_BYTES	64
#define PINPOINT_BUILD_ID	3

/* The member that holds the base was renamed twice; Kbuild finds it in the header. */
static unsigned long pinpoint_base(const struct module *mod)
{
#if defined(PINPOINT_MODULE_MEM)
	return (unsigned long)mod->mem[MOD_TEXT].base;
#elif defined(PINPOINT_CORE_LAYOUT)
	return (unsigned long)mod->core_layout.base;
#else
	return (unsigned long)mod->module_core;
#endif
}

/**
 * pinpoint_same_base() - check that the target's memory begins where expected
 */
bool pinpoint_same_base(const struct pinpoint_target *target)
{
	return pinpoint_base(target->handle) == target->base;
}

/* Elf32_Nhdr and Elf64_Nhdr are the same three words. */
struct pinpoint_note {
	struct elf32_note header;
	char name[4];
	u8 id[PINPOINT_ID_BYTES];
};

static bool pinpoint_read_note(const struct pinpoint_target *target, struct pinpoint_note *note)
{
	size_t fixed = offsetof(struct pinpoint_note, id);

	if (!within_module(target->note, target->handle) ||
	    copy_from_kernel_nofault(note, (void *)target->note, fixed))
		return false;
	if (note->header.n_type != PINPOINT_BUILD_ID || memcmp(note->name, "GNU", 4) ||
	    note->header.n_descsz > sizeof(note->id))
		return false;
	return !copy_from_kernel_nofault(note->id, (void *)(target->note + fixed), note->header.n_descsz);
}

/**
 * pinpoint_same_build() - check that the target has the expected build-id
 *
 * It is read from the module's memory, because struct module keeps it only under
 * CONFIG_STACKTRACE_BUILD_ID.
 */
bool pinpoint_same_build(const struct pinpoint_target *target)
{
	char hex[2 * PINPOINT_ID_BYTES + 1];
	struct pinpoint_note note;

	if (!*target->build_id)
		return true;
	if (!pinpoint_read_note(target, &note))
		return false;
	*bin2hex(hex, note.id, note.header.n_descsz) = '\0';
	return !strcmp(hex, target->build_id);
}
