// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_probe - registers a kprobe at each requested site, counts its hits
 *
 * A site that the kernel refuses is reported, and the module is still loaded.
 * Only a malformed site or an unknown mutant makes the load fail (EINVAL).
 */
#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/jiffies.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "probe.h"

static bool disabled;
module_param(disabled, bool, 0444);
MODULE_PARM_DESC(disabled, "let the kernel resolve the sites, but put no breakpoints there");

static bool nests;
module_param(nests, bool, 0444);
MODULE_PARM_DESC(nests, "the first site's handler calls clock_t_to_jiffies(), which may be probed, too");

static const struct pinpoint_mutant *pinpoint_acting;
static struct dentry *pinpoint_dir;
static struct kprobe **pinpoint_registered;
static int pinpoint_registered_count;

static int pinpoint_hit(struct kprobe *kp, struct pt_regs *regs)
{
	struct pinpoint_site *site = container_of(kp, struct pinpoint_site, kp);

	if (pinpoint_acting->counts && !pinpoint_acting->counts(site))
		return 0;
	WRITE_ONCE(site->ip, instruction_pointer(regs));
	atomic_long_inc(&site->hits);
	if (nests && !site->index)
		clock_t_to_jiffies(0);
	if (pinpoint_acting->hit)
		pinpoint_acting->hit(site, regs);
	return 0;
}
NOKPROBE_SYMBOL(pinpoint_hit);

static void pinpoint_register(struct pinpoint_site *site)
{
	const struct pinpoint_mutant *mutant = pinpoint_acting;

	site->kp.pre_handler = pinpoint_hit;
	if (disabled)
		site->kp.flags = KPROBE_FLAG_DISABLED;
	if (mutant->aim)
		mutant->aim(site);
	site->error = mutant->arm(&site->kp);
	if (!site->error && mutant->arm == register_kprobe)
		pinpoint_registered[pinpoint_registered_count++] = &site->kp;
}

static int __init pinpoint_probe_init(void)
{
	struct pinpoint_site *site;

	pinpoint_acting = pinpoint_mutant();
	if (!pinpoint_acting)
		return -EINVAL;
	pinpoint_registered = kvcalloc(pinpoint_count + 1, sizeof(*pinpoint_registered), GFP_KERNEL);
	if (!pinpoint_registered)
		return -ENOMEM;
	list_for_each_entry(site, &pinpoint_sites, node) {
		pinpoint_register(site);
		cond_resched();
	}
	if (pinpoint_acting->also)
		pinpoint_acting->also();
	pinpoint_dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	pinpoint_open_report(pinpoint_dir);
	return 0;
}
module_init(pinpoint_probe_init);

static void __exit pinpoint_probe_exit(void)
{
	debugfs_remove_recursive(pinpoint_dir);
	if (pinpoint_acting->undo)
		pinpoint_acting->undo();
	unregister_kprobes(pinpoint_registered, pinpoint_registered_count);
	kvfree(pinpoint_registered);
}
module_exit(pinpoint_probe_exit);

MODULE_DESCRIPTION("kprobes by symbol and offset, and what became of each");
MODULE_LICENSE("GPL");
