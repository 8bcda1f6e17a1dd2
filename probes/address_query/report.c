// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/debug/pinpoint_data/report: one line for each place, with its state
 * at the time of the read.
 *
 * spec=0x.../4 address=0x... bytes=50494e01 errno=0 symbol=init_uts_ns+0x0/0x1a0
 *
 * address is where the bytes were read; for a per-CPU variable, the CPU's copy.
 * bytes are in memory order. errno is positive, EFAULT where nothing is mapped,
 * and then bytes end there. symbol is the rest of the line, the output of
 * sprint_symbol() for the given address: "sym+0xoff/0xsize", then " [mod]".
 */
#include <linux/debugfs.h>
#include <linux/kallsyms.h>
#include <linux/percpu.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#include "address_query.h"

static unsigned long pinpoint_real_address(const struct pinpoint_place *place)
{
	if (place->cpu < 0)
		return place->address;
	return (unsigned long)per_cpu_ptr((void __percpu *)place->address, place->cpu);
}

static int pinpoint_show_bytes(struct seq_file *out, unsigned long address, unsigned int size)
{
	unsigned int done, count;
	u8 some[16];
	int error;

	for (done = 0; done < size; done += count) {
		count = min_t(unsigned int, size - done, sizeof(some));
		error = copy_from_kernel_nofault(some, (void *)(address + done), count);
		if (error)
			return error;
		seq_printf(out, "%*phN", count, some);
	}
	return 0;
}

static void *pinpoint_places_start(struct seq_file *out, loff_t *pos)
{
	return seq_list_start(&pinpoint_places, *pos);
}

static void *pinpoint_places_next(struct seq_file *out, void *at, loff_t *pos)
{
	return seq_list_next(at, &pinpoint_places, pos);
}

static void pinpoint_places_stop(struct seq_file *out, void *at)
{
}

static int pinpoint_places_show(struct seq_file *out, void *at)
{
	struct pinpoint_place *place = list_entry(at, struct pinpoint_place, node);
	unsigned long address = pinpoint_real_address(place);
	char symbol[KSYM_SYMBOL_LEN];
	int error;

	seq_printf(out, "spec=%s address=0x%lx bytes=", place->spec, address);
	error = pinpoint_show_bytes(out, address, place->size);
	sprint_symbol(symbol, place->address);
	seq_printf(out, " errno=%d symbol=%s\n", -error, symbol);
	return 0;
}

static const struct seq_operations pinpoint_places_sops = {
	.start = pinpoint_places_start,
	.next = pinpoint_places_next,
	.stop = pinpoint_places_stop,
	.show = pinpoint_places_show,
};
DEFINE_SEQ_ATTRIBUTE(pinpoint_places);

/**
 * pinpoint_open_places() - create the file
 * @dir: the module's directory in debugfs
 */
void pinpoint_open_places(struct dentry *dir)
{
	debugfs_create_file("report", 0400, dir, NULL, &pinpoint_places_fops);
}
