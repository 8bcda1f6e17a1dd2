// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_returns - registers a kretprobe at each requested site
 *
 * /sys/kernel/debug/pinpoint_returns/report has one line for each site:
 *
 * index=0 spec=pinpoint_leaf errno=0 address=0x... hits=3 missed=0 ip=0x... returns=3 value=0x...
 *
 * hits and ip belong to the entry, as in pinpoint_probe's report; returns counts
 * the returns seen, and value is the last returned value.
 */
#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/ptrace.h>
#include <linux/seq_file.h>
#include <linux/string.h>

#include "../probe/probe.h"

/* Enough for every level of the recursive shape, on any number of CPUs. */
#define PINPOINT_ACTIVE	32

/**
 * struct pinpoint_return - a site's kretprobe
 * @rp: the kretprobe; its place is copied from the site's kprobe
 * @site: the request, its error, hits at the entry and their ip
 * @returns: how often the function returned
 * @value: the last returned value
 */
struct pinpoint_return {
	struct kretprobe rp;
	struct pinpoint_site *site;
	atomic_long_t returns;
	unsigned long value;
};

static char *mutant = "none";
module_param(mutant, charp, 0444);
MODULE_PARM_DESC(mutant, "none or blind-to-returns");

static unsigned int data_size;
module_param(data_size, uint, 0444);
MODULE_PARM_DESC(data_size, "bytes of its own that each instance has");

static struct pinpoint_return *pinpoint_returns;
static struct dentry *pinpoint_dir;

/*
 * An instance may outlive its kretprobe, so get_kretprobe() returns it; in older
 * kernels it was a field. Kbuild finds out which from the header.
 */
static __always_inline struct pinpoint_return *pinpoint_return_of(struct kretprobe_instance *ri)
{
#ifdef PINPOINT_GET_KRETPROBE
	struct kretprobe *rp = get_kretprobe(ri);
#else
	struct kretprobe *rp = ri->rp;
#endif
	return container_of(rp, struct pinpoint_return, rp);
}

static int pinpoint_entered(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct pinpoint_return *each = pinpoint_return_of(ri);

	WRITE_ONCE(each->site->ip, instruction_pointer(regs));
	atomic_long_inc(&each->site->hits);
	return 0;
}
NOKPROBE_SYMBOL(pinpoint_entered);

static int pinpoint_returned(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct pinpoint_return *each = pinpoint_return_of(ri);

	WRITE_ONCE(each->value, regs_return_value(regs));
	atomic_long_inc(&each->returns);
	return 0;
}
NOKPROBE_SYMBOL(pinpoint_returned);

/* The mutant's handler: it sees functions entered, but never returning. */
static int pinpoint_looked_away(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	return 0;
}
NOKPROBE_SYMBOL(pinpoint_looked_away);

static int pinpoint_report_show(struct seq_file *out, void *unused)
{
	struct pinpoint_return *each;

	for (each = pinpoint_returns; each < pinpoint_returns + pinpoint_count; each++)
		seq_printf(out, "index=%u spec=%s errno=%d address=0x%lx hits=%ld missed=%d ip=0x%lx returns=%ld value=0x%lx\n",
			   each->site->index, each->site->spec, -each->site->error,
			   each->site->error ? 0 : (unsigned long)each->rp.kp.addr,
			   atomic_long_read(&each->site->hits), each->rp.nmissed,
			   READ_ONCE(each->site->ip), atomic_long_read(&each->returns),
			   READ_ONCE(each->value));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(pinpoint_report);

static void pinpoint_register(struct pinpoint_return *each, struct pinpoint_site *site)
{
	each->site = site;
	each->rp.kp.symbol_name = site->kp.symbol_name;
	each->rp.kp.addr = site->kp.addr;
	each->rp.kp.offset = site->kp.offset;
	each->rp.entry_handler = pinpoint_entered;
	each->rp.handler = strcmp(mutant, "none") ? pinpoint_looked_away : pinpoint_returned;
	each->rp.maxactive = PINPOINT_ACTIVE;
	each->rp.data_size = data_size;
	site->error = register_kretprobe(&each->rp);
}

static int __init pinpoint_returns_init(void)
{
	struct pinpoint_site *site;

	pinpoint_returns = kvcalloc(pinpoint_count + 1, sizeof(*pinpoint_returns), GFP_KERNEL);
	if (!pinpoint_returns)
		return -ENOMEM;
	list_for_each_entry(site, &pinpoint_sites, node)
		pinpoint_register(&pinpoint_returns[site->index], site);
	pinpoint_dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	debugfs_create_file("report", 0400, pinpoint_dir, NULL, &pinpoint_report_fops);
	return 0;
}
module_init(pinpoint_returns_init);

static void __exit pinpoint_returns_exit(void)
{
	struct pinpoint_return *each;

	debugfs_remove_recursive(pinpoint_dir);
	for (each = pinpoint_returns; each < pinpoint_returns + pinpoint_count; each++)
		if (!each->site->error)
			unregister_kretprobe(&each->rp);
	kvfree(pinpoint_returns);
}
module_exit(pinpoint_returns_exit);

MODULE_DESCRIPTION("kretprobes by symbol, and what became of each");
MODULE_LICENSE("GPL");
