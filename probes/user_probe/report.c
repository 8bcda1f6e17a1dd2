// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/debug/pinpoint_uprobe/report: one line for each site, and one
 * more for each process that hit it.
 *
 * site=0 spec=p:0x1139 errno=0 offset=0x1139 lost=0
 * hit=0 pid=123 hits=3 returns=0 ip=0x... func=0x...
 *
 * errno is positive, 0 for a uprobe that was registered.
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "user.h"

static int pinpoint_report_show(struct seq_file *out, void *unused)
{
	struct pinpoint_site *site;
	struct pinpoint_hits *each;

	list_for_each_entry(site, &pinpoint_sites, node) {
		seq_printf(out, "site=%u spec=%s errno=%d offset=0x%llx lost=%lu\n", site->index, site->spec,
			   -site->error, site->offset, site->lost);
		for (each = site->processes; each < site->processes + PINPOINT_PROCESSES && each->tgid; each++)
			seq_printf(out, "hit=%u pid=%d hits=%lu returns=%lu ip=0x%lx func=0x%lx\n", site->index,
				   each->tgid, each->hits, each->returns, each->ip, each->func);
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(pinpoint_report);

/**
 * pinpoint_make_report() - create the file
 * @dir: the module's directory in debugfs
 */
void pinpoint_make_report(struct dentry *dir)
{
	debugfs_create_file("report", 0400, dir, NULL, &pinpoint_report_fops);
}
