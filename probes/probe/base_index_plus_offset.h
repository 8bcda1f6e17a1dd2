/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sites without a symbol: INDEX+0xOFF, where INDEX is an index, from 0, into a
 * list of addresses. The sum is the address of the kprobe.
 */
#ifndef PINPOINT_BASE_INDEX_PLUS_OFFSET_H
#define PINPOINT_BASE_INDEX_PLUS_OFFSET_H

#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/string.h>

#include "probe.h"

/**
 * pinpoint_read_indexed() - fill a site's kprobe with the sum of address and offset
 * @site: has in @symbol a copy of its text that may be cut up
 * @addresses: the list
 * @count: how many there are
 *
 * Return: 0, or -EINVAL for a malformed site.
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
