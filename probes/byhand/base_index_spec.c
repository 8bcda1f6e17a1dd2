// SPDX-License-Identifier: GPL-2.0
/*
 * Sites relocated by hand, as the systemtap runtime of 2008 did. The probe was
 * compiled with an offset from _stext of its vmlinux, or from a module's text.
 * The loader passes the present address of that base; the sum is the address.
 *
 * A site is written BASE+0xOFF, where BASE is an index, from 0, into the
 * parameter base:
 *
 *	insmod pinpoint_byhand.ko base=0xffffffff81000000 site=0+0x1a2b0
 */
#include <linux/moduleparam.h>

#include "../probe/base_index_plus_offset.h"

static unsigned long base[4];
static unsigned int bases;
module_param_array(base, ulong, &bases, 0444);
MODULE_PARM_DESC(base, "where _stext, or a module's text, is now; must come before the sites");

/**
 * pinpoint_read_spec() - fill a site's kprobe with the sum of base and offset
 * @site: has @spec, and in @symbol a copy of it that may be cut up
 *
 * Return: 0, or -EINVAL for a malformed site.
 */
int pinpoint_read_spec(struct pinpoint_site *site)
{
	return pinpoint_read_indexed(site, base, bases);
}
