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
MODULE_PARM_DESC(mutant, "none, or the name of one in pinpoint_mutants");

static unsigned int mutant_shift[64];
static unsigned int mutant_shifts;
module_param_array(mutant_shift, uint, &mutant_shifts, 0444);
MODULE_PARM_DESC(mutant_shift, "bytes for each site that a mutant adds to the offset to register");

static int mutant_claim[64];
static unsigned int mutant_claims;
module_param_array(mutant_claim, int, &mutant_claims, 0444);
MODULE_PARM_DESC(mutant_claim, "bytes for each site that a mutant adds to an address that it reports or probes, too");

static unsigned int mutant_clobber;
module_param(mutant_clobber, uint, 0444);
MODULE_PARM_DESC(mutant_clobber, "bytes into struct pt_regs of what clobbers changes: the first argument");

static unsigned int mutant_victim;
module_param(mutant_victim, uint, 0444);
MODULE_PARM_DESC(mutant_victim, "number of the site, at a function's entry, where clobbers does so");

static unsigned int pinpoint_shift(const struct pinpoint_site *site)
{
	return site->index < mutant_shifts ? mutant_shift[site->index] : 0;
}
NOKPROBE_SYMBOL(pinpoint_shift);

static long pinpoint_claim(const struct pinpoint_site *site)
{
	return site->index < mutant_claims ? mutant_claim[site->index] : 0;
}
NOKPROBE_SYMBOL(pinpoint_claim);

static void pinpoint_aim_too_far(struct pinpoint_site *site)
{
	site->kp.offset += pinpoint_shift(site);
}

/* The probe stands elsewhere, and the report shows the address that was asked for. */
static void pinpoint_aim_and_lie(struct pinpoint_site *site)
{
	pinpoint_aim_too_far(site);
	site->claimed = pinpoint_claim(site);
}

/* The probe stands where it was asked for, and the report shows another address. */
static void pinpoint_only_lie(struct pinpoint_site *site)
{
	site->claimed = pinpoint_claim(site);
}

/* Every fourth hit is not counted. */
static bool pinpoint_drops_fourth(struct pinpoint_site *site)
{
	return atomic_inc_return(&site->seen) % 4;
}
NOKPROBE_SYMBOL(pinpoint_drops_fourth);

static void pinpoint_report_next_ip(struct pinpoint_site *site, struct pt_regs *regs)
{
	WRITE_ONCE(site->ip, instruction_pointer(regs) + pinpoint_claim(site));
}
NOKPROBE_SYMBOL(pinpoint_report_next_ip);

/* A second probe, which no report shows. */
static struct kprobe pinpoint_second;

static int pinpoint_ignore_hit(struct kprobe *kp, struct pt_regs *regs)
{
	return 0;
}
NOKPROBE_SYMBOL(pinpoint_ignore_hit);

static void pinpoint_register_second(void)
{
	struct pinpoint_site *site = list_first_entry_or_null(&pinpoint_sites, struct pinpoint_site, node);

	if (!site || site->error)
		return;
	pinpoint_second.addr = (void *)((unsigned long)site->kp.addr + pinpoint_claim(site));
	pinpoint_second.pre_handler = pinpoint_ignore_hit;
	if (register_kprobe(&pinpoint_second))
		pinpoint_second.addr = NULL;
}

static void pinpoint_remove_second(void)
{
	if (pinpoint_second.addr)
		unregister_kprobe(&pinpoint_second);
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
	{ .name = "none", .arm = register_kprobe },
	{ .name = "one-instruction-off", .arm = register_kprobe, .aim = pinpoint_aim_too_far },
	{ .name = "next-symbol", .arm = register_kprobe, .aim = pinpoint_aim_too_far },
	{ .name = "lies", .arm = register_kprobe, .aim = pinpoint_aim_and_lie },
	{ .name = "misreports", .arm = register_kprobe, .aim = pinpoint_only_lie },
	{ .name = "wrong-ip", .arm = register_kprobe, .hit = pinpoint_report_next_ip },
	{ .name = "deaf", .arm = register_kprobe, .counts = pinpoint_drops_fourth },
	{ .name = "also-elsewhere", .arm = register_kprobe, .also = pinpoint_register_second, .undo = pinpoint_remove_second },
	{ .name = "report-without-registering", .arm = pinpoint_only_resolve },
	{ .name = "clobbers", .arm = register_kprobe, .hit = pinpoint_clobber },
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
