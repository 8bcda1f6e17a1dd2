// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_lto - calls a static function of another file, through a small one
 */
#include <linux/init.h>
#include <linux/module.h>

u32 pinpoint_small(u32 x);

static u32 pinpoint_sum;

static int pinpoint_set_calls(const char *text, const struct kernel_param *kp)
{
	unsigned int times;
	int err = kstrtouint(text, 0, &times);

	while (!err && times--)
		WRITE_ONCE(pinpoint_sum, pinpoint_small(READ_ONCE(pinpoint_sum)));
	return err;
}

static const struct kernel_param_ops pinpoint_calls_ops = {
	.set = pinpoint_set_calls,
};
module_param_cb(calls, &pinpoint_calls_ops, NULL, 0200);

static int __init pinpoint_lto_init(void)
{
	return 0;
}
module_init(pinpoint_lto_init);

static void __exit pinpoint_lto_exit(void)
{
}
module_exit(pinpoint_lto_exit);

MODULE_DESCRIPTION("A static function that link-time optimization makes global");
MODULE_LICENSE("GPL");
