// SPDX-License-Identifier: GPL-2.0
/*
 * A batch's text, written in pieces, and the sites in its lines.
 */
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "sweep.h"

#define PINPOINT_TEXT_MAX	(4 << 20)

struct pinpoint_batch pinpoint_batch;

/**
 * pinpoint_append_text() - append a piece to a batch's text
 * @buf: the piece, which may end within a line
 * @count: its bytes
 *
 * Return: 0, -EBUSY for a batch that was already read, -EFBIG, -ENOMEM or
 * -EFAULT.
 */
int pinpoint_append_text(const char __user *buf, size_t count)
{
	struct pinpoint_batch *batch = &pinpoint_batch;

	if (batch->sites)
		return -EBUSY;
	if (count > PINPOINT_TEXT_MAX - batch->length)
		return -EFBIG;
	if (!batch->text)
		batch->text = kvmalloc(PINPOINT_TEXT_MAX + 1, GFP_KERNEL);
	if (!batch->text)
		return -ENOMEM;
	if (copy_from_user(batch->text + batch->length, buf, count))
		return -EFAULT;
	batch->length += count;
	return 0;
}

/* SYM+0xOFF: the name remains in @line. */
static int pinpoint_read_line(struct pinpoint_swept *site, char *line)
{
	char *offset = strchr(line, '+');

	site->kp.symbol_name = line;
	if (!offset)
		return 0;
	*offset++ = '\0';
	return kstrtouint(offset, 0, &site->kp.offset);
}

static unsigned int pinpoint_count_lines(const struct pinpoint_batch *batch)
{
	unsigned int lines = 0;
	size_t i;

	for (i = 0; i < batch->length; i++)
		lines += batch->text[i] == '\n';
	return lines;
}

static int pinpoint_read_lines(struct pinpoint_batch *batch, unsigned int lines)
{
	char *rest = batch->text;
	int error = 0;

	batch->text[batch->length] = '\0';
	while (!error && batch->count < lines)
		error = pinpoint_read_line(&batch->sites[batch->count++], strsep(&rest, "\n"));
	return error;
}

/**
 * pinpoint_read_batch() - parse the batch's text into sites, at the first call
 *
 * Return: 0, -ENODATA when nothing was written, -EINVAL for a malformed line, or
 * -ENOMEM.
 */
int pinpoint_read_batch(void)
{
	struct pinpoint_batch *batch = &pinpoint_batch;
	unsigned int lines;
	int error = -ENOMEM;

	if (batch->sites)
		return 0;
	lines = pinpoint_count_lines(batch);
	if (!lines)
		return -ENODATA;
	batch->sites = kvcalloc(lines, sizeof(*batch->sites), GFP_KERNEL);
	batch->registered = kvcalloc(lines, sizeof(*batch->registered), GFP_KERNEL);
	if (batch->sites && batch->registered)
		error = pinpoint_read_lines(batch, lines) ? -EINVAL : 0;
	if (error)
		pinpoint_forget_batch();
	return error;
}

/**
 * pinpoint_forget_batch() - free a batch; nothing of it may be registered
 */
void pinpoint_forget_batch(void)
{
	kvfree(pinpoint_batch.text);
	kvfree(pinpoint_batch.sites);
	kvfree(pinpoint_batch.registered);
	memset(&pinpoint_batch, 0, sizeof(pinpoint_batch));
}
