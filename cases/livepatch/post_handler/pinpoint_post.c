// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_post - a kprobe with a post-handler on the entry of a function
 *
 * On a function that ftrace traces such a probe must be able to change the
 * instruction pointer, which only one user of the function may do.
 */
#include <linux/kprobes.h>
#include <linux/module.h>

static void pinpoint_post_handler(struct kprobe *p, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe pinpoint_probe = {
	.symbol_name = "pinpoint_target:pinpoint_leaf",
	.post_handler = pinpoint_post_handler,
};

static int __init pinpoint_post_init(void)
{
	return register_kprobe(&pinpoint_probe);
}
module_init(pinpoint_post_init);

static void __exit pinpoint_post_exit(void)
{
	unregister_kprobe(&pinpoint_probe);
}
module_exit(pinpoint_post_exit);

MODULE_DESCRIPTION("A kprobe with a post-handler");
MODULE_LICENSE("GPL");
