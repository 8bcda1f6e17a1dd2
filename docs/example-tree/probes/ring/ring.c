// SPDX-License-Identifier: GPL-2.0
/*
 * A ring of the last eight numbers: writing to its parameter `put` adds one, and
 * reading the parameter returns their sum.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

static u32 ring[8];
static unsigned int next;

static noinline void ring_put(u32 number)
{
	ring[next] = number;
	next = (next + 1) % ARRAY_SIZE(ring);
}

static noinline u32 ring_sum(void)
{
	u32 sum = 0;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ring); i++)
		sum += ring[i];
	return sum;
}

static int put_set(const char *text, const struct kernel_param *param)
{
	u32 number;
	int error = kstrtou32(text, 0, &number);

	if (!error)
		ring_put(number);
	return error;
}

static int put_get(char *text, const struct kernel_param *param)
{
	return sprintf(text, "%u\n", ring_sum());
}

static const struct kernel_param_ops put_ops = {
	.set = put_set,
	.get = put_get,
};
module_param_cb(put, &put_ops, NULL, 0600);
MODULE_PARM_DESC(put, "adds a number to the ring; reads as the sum of all");

MODULE_DESCRIPTION("A ring of the last eight numbers");
MODULE_LICENSE("GPL");
