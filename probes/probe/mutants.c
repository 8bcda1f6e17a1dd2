// SPDX-License-Identifier: GPL-2.0
/*
 * Deliberate errors, each of which a check must detect.
 */
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/string.h>

#include "probe.h"

static char *mutant = "none";
module_param(mutant, charp, 0444);
MODULE_PARM_DESC(mutant, "none, one-instruction-off, next-symbol, report-without-registering or clobbers");

static unsigned int mutant_shift[64];
static unsigned int mutant_shifts;
module_param_array(mutant_shift, uint, &mutant_shifts, 0444);
MODULE_PARM_DESC(mutant_shift, "bytes that one-instruction-off and next-symbol aim too far, for each site");

static unsigned int mutant_clobber;
module_param(mutant_clobber, uint, 0444);
MODULE_PARM_DESC(mutant_clobber, "bytes into struct pt_regs of what clobbers changes: the first argument");

static unsigned int mutant_victim;
module_param(mutant_victim, uint, 0444);
MODULE_PARM_DESC(mutant_victim, "number of the site, at a function's entry, where clobbers does so");

static void pinpoint_aim_too_far(struct pinpoint_site *site)
{
	if (site->index < mutant_shifts)
		site->kp.offset += mutant_shift[site->index];
}

/* The address is right, but there is no breakpoint. */
static int pinpoint_only_resolve(struct kprobe *kp)
{
	int error;

	error = register_kprobe(kp);
	if (!error)
		unregister_kprobe(kp);
	return error;
}

/* Changes the argument of the probed function. */
static void pinpoint_clobber(struct pinpoint_site *site, struct pt_regs *regs)
{
	unsigned long *argument = (void *)regs + mutant_clobber;

	if (site->index == mutant_victim && mutant_clobber <= sizeof(*regs) - sizeof(*argument))
		*argument ^= 1;
}
NOKPROBE_SYMBOL(pinpoint_clobber);

static const struct pinpoint_mutant pinpoint_mutants[] = {
	{ "none", NULL, register_kprobe, NULL },
	{ "one-instruction-off", pinpoint_aim_too_far, register_kprobe, NULL },
	{ "next-symbol", pinpoint_aim_too_far, register_kprobe, NULL },
	{ "report-without-registering", NULL, pinpoint_only_resolve, NULL },
	{ "clobbers", NULL, register_kprobe, pinpoint_clobber },
};

/**
 * pinpoint_mutant() - return the mutant that the parameter names
 *
 * Return: the mutant, an honest one by default, or NULL for an unknown name.
 */
const struct pinpoint_mutant *pinpoint_mutant(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(pinpoint_mutants); i++)
		if (!strcmp(pinpoint_mutants[i].name, mutant))
			return &pinpoint_mutants[i];
	return NULL;
}
