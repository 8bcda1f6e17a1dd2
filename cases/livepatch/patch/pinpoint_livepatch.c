// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_livepatch - replaces a function of pinpoint_target
 *
 * The new function uses two symbols that are not exported. Their names here are
 * replaced by .klp.sym names after the build.
 */
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/stringify.h>

/* A static function of pinpoint_target, and a variable of the kernel. */
u32 pinpoint_klp_twin(u32 x);
extern const char pinpoint_klp_banner[];

u32 pinpoint_new_leaf(u32 x);

noinline u32 pinpoint_new_leaf(u32 x)
{
	x ^= 0x6b6c70;
	x += x << 3;
	x ^= READ_ONCE(pinpoint_klp_banner[0]);
	return pinpoint_klp_twin(x) ^ 0x6e6577;
}

static struct klp_func pinpoint_funcs[] = {
	{
		.old_name = __stringify(PINPOINT_OLD),
		.new_func = pinpoint_new_leaf,
	},
	{ }
};

static struct klp_object pinpoint_objects[] = {
	{
		.name = "pinpoint_target",
		.funcs = pinpoint_funcs,
	},
	{ }
};

static struct klp_patch pinpoint_patch = {
	.mod = THIS_MODULE,
	.objs = pinpoint_objects,
};

static int __init pinpoint_livepatch_init(void)
{
	return klp_enable_patch(&pinpoint_patch);
}
module_init(pinpoint_livepatch_init);

static void __exit pinpoint_livepatch_exit(void)
{
}
module_exit(pinpoint_livepatch_exit);

MODULE_DESCRIPTION("A live patch with .klp.rela sections");
MODULE_INFO(livepatch, "Y");
MODULE_LICENSE("GPL");
