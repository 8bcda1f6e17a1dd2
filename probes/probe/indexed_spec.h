/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sites without a symbol: INDEX+0xOFF, where INDEX counts a list of addresses
 * from 0 and the sum is where the kprobe goes.
 */
#ifndef PINPOINT_INDEXED_SPEC_H
#define PINPOINT_INDEXED_SPEC_H

#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/string.h>

#include "probe.h"

/**
 * pinpoint_read_indexed() - fill a site's kprobe with the sum of address and offset
 * @site: has in @symbol a copy of its words that may be cut up
 * @addresses: what INDEX counts
 * @count: how many there are
 *
 * Return: 0, or -EINVAL for words that mean no site.
 */
static inline int pinpoint_read_indexed(struct pinpoint_site *site,
					const unsigned long *addresses, unsigned int count)
{
	char *offset = strchr(site->symbol, '+');
	unsigned long distance;
	unsigned int which;

	if (!offset)
		return -EINVAL;
	*offset++ = '\0';
	if (kstrtouint(site->symbol, 0, &which) || which >= count || kstrtoul(offset, 0, &distance))
		return -EINVAL;
	site->kp.addr = (kprobe_opcode_t *)(addresses[which] + distance);
	return 0;
}

#endif
