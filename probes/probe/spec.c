// SPDX-License-Identifier: GPL-2.0
/*
 * How a site is written:
 *
 *	SYM		MOD:SYM		SYM+0xOFF	MOD:SYM+0xOFF
 *	@0xADDR		@0xADDR+0xOFF
 *	@0xADDR/SYM+0xOFF (both, which the kernel must refuse)
 *	+0xOFF		(an empty name)
 */
#include <linux/kernel.h>
#include <linux/string.h>

#include "probe.h"

/* @0xADDR, @0xADDR+0xOFF: address and offset, and the text after the slash, NULL without one. */
static int pinpoint_read_address(struct kprobe *kp, char *text, char **rest)
{
	unsigned long address;
	char *offset;
	int error;

	*rest = strchr(text, '/');
	if (*rest)
		*(*rest)++ = '\0';
	offset = strchr(text, '+');
	if (offset) {
		*offset++ = '\0';
		error = kstrtouint(offset, 0, &kp->offset);
		if (error)
			return error;
	}
	error = kstrtoul(text, 0, &address);
	if (error)
		return error;
	kp->addr = (kprobe_opcode_t *)address;
	return 0;
}

/* SYM+0xOFF: the offset; the name remains in @text. */
static int pinpoint_read_symbol(struct kprobe *kp, char *text)
{
	char *offset = strchr(text, '+');

	if (!offset && !*text)
		return -EINVAL;
	kp->symbol_name = text;
	if (!offset)
		return 0;
	*offset++ = '\0';
	return kstrtouint(offset, 0, &kp->offset);
}

/**
 * pinpoint_read_spec() - fill a site's kprobe from its text
 * @site: has @spec, and in @symbol a copy of it that may be cut up
 *
 * Return: 0, or -EINVAL for a malformed site.
 */
int pinpoint_read_spec(struct pinpoint_site *site)
{
	char *text = site->symbol;
	int error = 0;

	/* Spaces separate the words of the report. */
	if (strpbrk(text, " \t\n"))
		return -EINVAL;
	if (*text == '@')
		error = pinpoint_read_address(&site->kp, text + 1, &text);
	if (!error && text)
		error = pinpoint_read_symbol(&site->kp, text);
	return error ? -EINVAL : 0;
}
