// SPDX-License-Identifier: GPL-2.0
/*
 * Deliberate errors of a sweep, and sites that kill the guest.
 */
#include <linux/bug.h>
#include <linux/irqflags.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/processor.h>
#include <linux/string.h>

#include "sweep.h"

static char *mutant = "none";
module_param(mutant, charp, 0444);
MODULE_PARM_DESC(mutant, "none, one-instruction-off, report-without-registering, oops-at or hang-at");

static char *mutant_site = "";
module_param(mutant_site, charp, 0444);
MODULE_PARM_DESC(mutant_site, "the symbol at which oops-at and hang-at do that");

static unsigned int mutant_shift[64];
static unsigned int mutant_shifts;
module_param_array(mutant_shift, uint, &mutant_shifts, 0444);
MODULE_PARM_DESC(mutant_shift, "bytes that one-instruction-off aims too far, for each site");

static void pinpoint_hang(void)
{
	local_irq_disable();
	for (;;)
		cpu_relax();
}

/**
 * pinpoint_sweep_register() - register_kprobe(), or what the mutant does instead
 * @index: the site's number in the batch
 * @kp: its kprobe
 *
 * Return: as register_kprobe().
 */
int pinpoint_sweep_register(unsigned int index, struct kprobe *kp)
{
	int error;

	BUG_ON(!strcmp(mutant, "oops-at") && !strcmp(mutant_site, kp->symbol_name));
	if (!strcmp(mutant, "hang-at") && !strcmp(mutant_site, kp->symbol_name))
		pinpoint_hang();
	if (!strcmp(mutant, "one-instruction-off") && index < mutant_shifts)
		kp->offset += mutant_shift[index];
	error = register_kprobe(kp);
	/* The address is right, but nothing is registered there. */
	if (!error && !strcmp(mutant, "report-without-registering"))
		unregister_kprobe(kp);
	return error;
}
