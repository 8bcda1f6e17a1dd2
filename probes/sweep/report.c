// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/debug/pinpoint_sweep/report: "REGISTERING REMOVING RECORDER", the
 * first two in nanoseconds, the address of the flight recorder in hex; then a line
 * for each site: "ERRNO ADDRESS HITS IP".
 *
 * ERRNO is positive, 0 for a kprobe that the kernel accepted. ADDRESS is kp.addr,
 * IP the instruction pointer at the last hit, both in hex. Lines have no names of
 * fields: there are tens of thousands, and they go through an emulated network.
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "sweep.h"

static void *pinpoint_swept_at(loff_t pos)
{
	if (!pos)
		return SEQ_START_TOKEN;
	return pos <= pinpoint_batch.count ? &pinpoint_batch.sites[pos - 1] : NULL;
}

static void *pinpoint_sweep_report_start(struct seq_file *out, loff_t *pos)
{
	mutex_lock(&pinpoint_sweeping);
	return pinpoint_swept_at(*pos);
}

static void *pinpoint_sweep_report_next(struct seq_file *out, void *at, loff_t *pos)
{
	return pinpoint_swept_at(++*pos);
}

static void pinpoint_sweep_report_stop(struct seq_file *out, void *at)
{
	mutex_unlock(&pinpoint_sweeping);
}

static int pinpoint_sweep_report_show(struct seq_file *out, void *at)
{
	struct pinpoint_swept *site = at;

	if (at == SEQ_START_TOKEN)
		seq_printf(out, "%llu %llu %lx\n", pinpoint_batch.registering,
			   pinpoint_batch.removing, (unsigned long)&pinpoint_recorder);
	else
		seq_printf(out, "%d %lx %lu %lx\n", -site->error,
			   site->error ? 0 : (unsigned long)site->kp.addr,
			   READ_ONCE(site->hits), READ_ONCE(site->ip));
	return 0;
}

static const struct seq_operations pinpoint_sweep_report_sops = {
	.start = pinpoint_sweep_report_start,
	.next = pinpoint_sweep_report_next,
	.stop = pinpoint_sweep_report_stop,
	.show = pinpoint_sweep_report_show,
};
DEFINE_SEQ_ATTRIBUTE(pinpoint_sweep_report);

/**
 * pinpoint_open_sweep_report() - create the file
 * @dir: the module's directory in debugfs
 */
void pinpoint_open_sweep_report(struct dentry *dir)
{
	debugfs_create_file("report", 0400, dir, NULL, &pinpoint_sweep_report_fops);
}
