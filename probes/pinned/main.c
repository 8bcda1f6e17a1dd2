// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_pinned - a precompiled probe module, which gets the addresses of its
 * targets from the loader and trusts none of them.
 *
 * The initializer validates every handle, registers its kprobes at section +
 * offset while it holds references to the targets, and drops these when it
 * returns, unless it must keep them. It fails with ESTALE if a target is not the
 * expected instance, and with the kernel's own errno if the kernel refuses a
 * kprobe; in both cases it leaves nothing behind.
 */
#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "pinned.h"
#include "../probe/probe.h"

static bool keeps;
module_param(keeps, bool, 0444);
MODULE_PARM_DESC(keeps, "keep a reference to each target until unloaded");

static struct dentry *pinpoint_dir;

static int pinpoint_hit(struct kprobe *kp, struct pt_regs *regs)
{
	struct pinpoint_site *site = container_of(kp, struct pinpoint_site, kp);

	WRITE_ONCE(site->ip, instruction_pointer(regs));
	atomic_long_inc(&site->hits);
	return 0;
}
NOKPROBE_SYMBOL(pinpoint_hit);

static void pinpoint_unregister_sites(void)
{
	struct pinpoint_site *site;

	list_for_each_entry(site, &pinpoint_sites, node)
		if (!site->error)
			unregister_kprobe(&site->kp);
}

/* An address outside all targets came from another instance. */
static int pinpoint_register_site(struct pinpoint_site *site)
{
	if (!pinpoint_within_targets((unsigned long)site->kp.addr))
		return -ESTALE;
	site->kp.pre_handler = pinpoint_hit;
	return register_kprobe(&site->kp);
}

static int pinpoint_register_sites(void)
{
	struct pinpoint_site *site;

	list_for_each_entry(site, &pinpoint_sites, node)
		site->error = -ECANCELED;
	list_for_each_entry(site, &pinpoint_sites, node) {
		site->error = pinpoint_register_site(site);
		if (!site->error)
			continue;
		pinpoint_unregister_sites();
		return site->error;
	}
	return 0;
}

/* The references are held here. */
static int pinpoint_arm(void)
{
	int error;

	error = pinpoint_gate("validated");
	if (error)
		return error;
	error = pinpoint_register_sites();
	if (error)
		return error;
	error = pinpoint_gate("registered");
	if (error)
		pinpoint_unregister_sites();
	return error;
}

static int __init pinpoint_pinned_init(void)
{
	int error;

	error = pinpoint_gate("entered");
	if (error)
		return error;
	error = pinpoint_take_targets();
	if (error)
		return error;
	error = pinpoint_place_sites();
	if (!error)
		error = pinpoint_arm();
	if (error || !keeps)
		pinpoint_put_targets();
	if (error) {
		pinpoint_free_placed_sites();
		return error;
	}
	pinpoint_dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	pinpoint_open_report(pinpoint_dir);
	return 0;
}
module_init(pinpoint_pinned_init);

static void __exit pinpoint_pinned_exit(void)
{
	debugfs_remove_recursive(pinpoint_dir);
	pinpoint_unregister_sites();
	pinpoint_free_placed_sites();
	pinpoint_put_targets();
}
module_exit(pinpoint_pinned_exit);

MODULE_DESCRIPTION("kprobes by section and offset in modules given by their handles");
MODULE_LICENSE("GPL");
