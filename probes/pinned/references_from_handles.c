// SPDX-License-Identifier: GPL-2.0
/*
 * Turns a number that should be a module's handle into a reference to that module,
 * or refuses it.
 *
 * A look-up by address that finds a module is valid until preemption is enabled
 * again: free_module() unlinks the module, waits for RCU, and frees only then
 * (kernel/module/main.c, 6.1). A module that is GOING refuses the reference. The
 * module may still be another instance at the same address, so name, base and
 * build-id are compared as well, under the reference.
 */
#include <linux/kallsyms.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/preempt.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "pinned.h"

static char *mutant = "none";
module_param(mutant, charp, 0444);
MODULE_PARM_DESC(mutant, "none, handle-unchecked, no-name, no-base, no-build-id or anywhere");

static unsigned int pinpoint_taken;

static bool pinpoint_acts(const char *name)
{
	return !strcmp(mutant, name);
}

/* "SYMBOL+0xOFF/0xSIZE [MODULE]" of a module's address; other addresses have no bracket. */
static bool pinpoint_names_module(const char *symbol, const char *module)
{
	const char *bracket = strrchr(symbol, '[');
	size_t length = strlen(module);

	return bracket && !strncmp(bracket + 1, module, length) && bracket[length + 1] == ']';
}

/* Reads the name inside the struct without trusting the memory there. */
static bool pinpoint_is_called(struct module *handle, const char *name)
{
	char found[MODULE_NAME_LEN];

	if (copy_from_kernel_nofault(found, handle->name, sizeof(found)))
		return false;
	found[sizeof(found) - 1] = '\0';
	return !strcmp(found, name);
}

/*
 * Without KALLSYMS_ALL a module's data has no symbols, and the look-up finds only
 * the owner of the memory. The name inside distinguishes a struct module from
 * other data.
 */
static bool pinpoint_is_handle(const struct pinpoint_target *target)
{
	char symbol[KSYM_SYMBOL_LEN];

	sprint_symbol(symbol, (unsigned long)target->handle);
	if (IS_ENABLED(CONFIG_KALLSYMS_ALL) && !str_has_prefix(symbol, "__this_module+0x0/"))
		return false;
	if (pinpoint_acts("no-name"))
		return strchr(symbol, '[') != NULL;
	return pinpoint_names_module(symbol, target->name) && pinpoint_is_called(target->handle, target->name);
}

static bool pinpoint_take_reference(const struct pinpoint_target *target)
{
	bool taken;

	if (pinpoint_acts("handle-unchecked")) {
		__module_get(target->handle);
		return true;
	}
	preempt_disable();
	taken = pinpoint_is_handle(target) && try_module_get(target->handle);
	preempt_enable();
	return taken;
}

static const char *pinpoint_wrong(const struct pinpoint_target *target)
{
	if (pinpoint_acts("handle-unchecked"))
		return NULL;
	if (!pinpoint_acts("no-base") && !pinpoint_same_base(target))
		return "another base";
	return pinpoint_acts("no-build-id") || pinpoint_same_build(target) ? NULL : "another build";
}

static int pinpoint_take_target(const struct pinpoint_target *target)
{
	const char *wrong = "no such module there, or it is going";

	if (!target->handle)
		return -EINVAL;
	if (pinpoint_take_reference(target)) {
		wrong = pinpoint_wrong(target);
		if (!wrong)
			return 0;
		module_put(target->handle);
	}
	pr_notice(KBUILD_MODNAME ": %s at 0x%lx refused: %s\n", target->name,
		  (unsigned long)target->handle, wrong);
	return -ESTALE;
}

/**
 * pinpoint_take_targets() - validate every handle and take a reference to each
 *
 * Return: 0; -ESTALE if one is not the expected instance or is GOING; -EINVAL for
 * lists of different lengths or a handle of 0. On an error no reference is held.
 */
int pinpoint_take_targets(void)
{
	int error = pinpoint_check_lists();

	while (!error && pinpoint_taken < pinpoint_targets) {
		struct pinpoint_target target = pinpoint_target(pinpoint_taken);

		error = pinpoint_take_target(&target);
		if (!error)
			pinpoint_taken++;
	}
	if (error)
		pinpoint_put_targets();
	return error;
}

/**
 * pinpoint_put_targets() - drop every reference that is held
 */
void pinpoint_put_targets(void)
{
	while (pinpoint_taken)
		module_put(pinpoint_target(--pinpoint_taken).handle);
}

/**
 * pinpoint_within_targets() - check that an address is in a target's memory
 * @address: where a probe is to be registered
 *
 * Call it while the references are held.
 */
bool pinpoint_within_targets(unsigned long address)
{
	unsigned int i;

	if (pinpoint_acts("anywhere"))
		return true;
	for (i = 0; i < pinpoint_taken; i++)
		if (within_module(address, pinpoint_target(i).handle))
			return true;
	return false;
}
