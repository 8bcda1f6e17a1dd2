// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/debug/pinpoint_probe/report: one line for each site.
 *
 * index=0 spec=clock_t_to_jiffies+0x4 errno=0 address=0x... hits=3 missed=0 ip=0x...
 *
 * errno is positive, 0 for a kprobe that was registered. address is kp.addr (two
 * mutants add to it), 0 for a refused one. ip is the instruction pointer at the
 * last hit, in the architecture's form, 0 before any hit.
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "probe.h"

static void *pinpoint_report_start(struct seq_file *out, loff_t *pos)
{
	return seq_list_start(&pinpoint_sites, *pos);
}

static void *pinpoint_report_next(struct seq_file *out, void *at, loff_t *pos)
{
	return seq_list_next(at, &pinpoint_sites, pos);
}

static void pinpoint_report_stop(struct seq_file *out, void *at)
{
}

static int pinpoint_report_show(struct seq_file *out, void *at)
{
	struct pinpoint_site *site = list_entry(at, struct pinpoint_site, node);
	unsigned long address = site->error ? 0 : (unsigned long)site->kp.addr + site->claimed;

	seq_printf(out, "index=%u spec=%s errno=%d address=0x%lx hits=%ld missed=%lu ip=0x%lx\n",
		   site->index, site->spec, -site->error, address,
		   atomic_long_read(&site->hits), site->kp.nmissed, READ_ONCE(site->ip));
	return 0;
}

static const struct seq_operations pinpoint_report_sops = {
	.start = pinpoint_report_start,
	.next = pinpoint_report_next,
	.stop = pinpoint_report_stop,
	.show = pinpoint_report_show,
};
DEFINE_SEQ_ATTRIBUTE(pinpoint_report);

/**
 * pinpoint_open_report() - create the file
 * @dir: the module's directory in debugfs
 */
void pinpoint_open_report(struct dentry *dir)
{
	debugfs_create_file("report", 0400, dir, NULL, &pinpoint_report_fops);
}
