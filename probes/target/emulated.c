// SPDX-License-Identifier: GPL-2.0
/*
 * Shapes whose instructions a kernel cannot single-step and emulates, or whose
 * flags it has to keep: compares of equal values, flags saved and restored, a call
 * through a high register, a carry that is set and used, a branch on a bit and on
 * a word.
 *
 * The assembly computes what the C of the other architectures computes.
 */
#include <linux/compiler.h>
#include <linux/jump_label.h>

#include "shapes.h"

/* Never enabled. */
static DEFINE_STATIC_KEY_FALSE(pinpoint_key);

#if defined(CONFIG_X86_64)

#include <asm/asm.h>
#include <asm/nospec-branch.h>

/* By ja, which is not taken if both are equal. */
static __always_inline u32 pinpoint_above(u32 a, u32 b)
{
	u32 result = 1;

	asm volatile("cmpl %2, %1\n\t"
		     "ja 1f\n\t"
		     "xorl %0, %0\n"
		     "1:" : "+r" (result) : "r" (a), "r" (b) : "cc");
	return result;
}
#define pinpoint_above pinpoint_above

/* By jg, likewise. */
static __always_inline u32 pinpoint_greater(u32 a, u32 b)
{
	u32 result = 1;

	asm volatile("cmpl %2, %1\n\t"
		     "jg 1f\n\t"
		     "xorl %0, %0\n"
		     "1:" : "+r" (result) : "r" (a), "r" (b) : "cc");
	return result;
}
#define pinpoint_greater pinpoint_greater

/* neg, which is single-stepped in a copy, sets the carry that adc adds. */
static __always_inline u32 pinpoint_not_zero(u32 a)
{
	u32 result = 0;

	asm volatile("negl %1\n\t"
		     "adcl $0, %0" : "+r" (result), "+r" (a) : : "cc");
	return result;
}
#define pinpoint_not_zero pinpoint_not_zero

/* The carry that bt sets goes through pushf and popf. */
static __always_inline u32 pinpoint_odd(u32 a)
{
	u32 result = 0;

	asm volatile("btl $0, %1\n\t"
		     "pushfq\n\t"
		     "popfq\n\t"
		     "adcl $0, %0" : "+r" (result) : "r" (a) : "cc", "memory");
	return result;
}
#define pinpoint_odd pinpoint_odd

/* Two moves, each as long as a jump, between the carry and the instruction that adds it. */
static __always_inline u32 pinpoint_carried(u32 a)
{
	u32 result = 0;

	asm volatile("btl $0, %1\n\t"
		     "movl $0x5eed, %%ecx\n\t"
		     "movl $0x5eed, %%edx\n\t"
		     "adcl $0, %0" : "+a" (result) : "D" (a) : "ecx", "edx", "cc");
	return result;
}
#define pinpoint_carried pinpoint_carried

/* A loop of three turns. A jump at its first instruction would displace a branch target. */
static __always_inline u32 pinpoint_three(void)
{
	u32 result;

	asm volatile("xorl %0, %0\n"
		     "1:\taddl $1, %0\n\t"
		     "cmpl $3, %0\n\t"
		     "jne 1b" : "=a" (result) : : "cc");
	return result;
}
#define pinpoint_three pinpoint_three

/* The instruction before a static branch: shorter than a jump, and may be displaced. */
#define pinpoint_in_front()	asm volatile("xorl %%edx, %%edx" : : : "edx", "cc")

/* Through r11; rbx, whose number is 8 less, holds another function. */
static __always_inline u32 pinpoint_through_r11(u32 (*right)(u32), u32 (*wrong)(u32), u32 x)
{
	register u32 (*called)(u32) asm("r11") = right;
	unsigned long argument = x;
	u32 result;

	/* Ubuntu's objtool makes an indirect call without the annotation an error. */
	asm volatile(ANNOTATE_RETPOLINE_SAFE "\n\t"
		     "call *%1"
		     : "=a" (result), "+r" (called), "+D" (argument), ASM_CALL_CONSTRAINT
		     : "b" (wrong)
		     : "rcx", "rdx", "rsi", "r8", "r9", "r10", "cc", "memory");
	return result;
}
#define pinpoint_through_r11 pinpoint_through_r11

#elif defined(CONFIG_ARM64)

static __always_inline u32 pinpoint_above(u32 a, u32 b)
{
	u32 result = 1;

	asm volatile("cmp %w1, %w2\n\t"
		     "b.hi 1f\n\t"
		     "mov %w0, #0\n"
		     "1:" : "+r" (result) : "r" (a), "r" (b) : "cc");
	return result;
}
#define pinpoint_above pinpoint_above

/* By b.gt, which is not taken if both are equal. */
static __always_inline u32 pinpoint_greater(u32 a, u32 b)
{
	u32 result = 1;

	asm volatile("cmp %w1, %w2\n\t"
		     "b.gt 1f\n\t"
		     "mov %w0, #0\n"
		     "1:" : "+r" (result) : "r" (a), "r" (b) : "cc");
	return result;
}
#define pinpoint_greater pinpoint_greater

/* cbnz of a word in a register whose upper half is set. */
static __always_inline u32 pinpoint_not_zero(u32 a)
{
	u64 wide = a | 1ULL << 40;
	u32 result = 1;

	asm volatile("cbnz %w1, 1f\n\t"
		     "mov %w0, #0\n"
		     "1:" : "+r" (result) : "r" (wide));
	return result;
}
#define pinpoint_not_zero pinpoint_not_zero

/* tbz of a bit with an odd number: bit 0 moved to bit 1. */
static __always_inline u32 pinpoint_odd(u32 a)
{
	u32 result = 0;

	asm volatile("tbz %w1, #1, 1f\n\t"
		     "mov %w0, #1\n"
		     "1:" : "+r" (result) : "r" (a << 1));
	return result;
}
#define pinpoint_odd pinpoint_odd

#elif defined(CONFIG_SPARC64)

/* By bgu, whose delay slot runs only if it is taken. */
static __always_inline u32 pinpoint_above(u32 a, u32 b)
{
	u32 result = 0;

	asm volatile("cmp %1, %2\n\t"
		     "bgu,a,pt %%icc, 1f\n\t"
		     " mov 1, %0\n"
		     "1:" : "+r" (result) : "r" (a), "r" (b) : "cc");
	return result;
}
#define pinpoint_above pinpoint_above

/* By ba, whose delay slot never runs. */
static __always_inline u32 pinpoint_greater(u32 a, u32 b)
{
	u32 result = (s32)a > (s32)b;

	asm volatile("ba,a,pt %%xcc, 1f\n\t"
		     " add %0, 1, %0\n\t"
		     "add %0, 2, %0\n"
		     "1:" : "+r" (result));
	return result;
}
#define pinpoint_greater pinpoint_greater

/* By brnz of a register. */
static __always_inline u32 pinpoint_not_zero(u32 a)
{
	u64 wide = a;
	u32 result = 1;

	asm volatile("brnz,pt %1, 1f\n\t"
		     " nop\n\t"
		     "clr %0\n"
		     "1:" : "+r" (result) : "r" (wide));
	return result;
}
#define pinpoint_not_zero pinpoint_not_zero

#elif defined(CONFIG_SUPERH)

/* Three turns of a loop. `or` has the last four bits of a return, and bf goes back. */
static __always_inline u32 pinpoint_above(u32 a, u32 b)
{
	u32 result, turns = 3;

	asm volatile("cmp/hi %3, %2\n\t"
		     "movt %0\n"
		     "1:\tor %0, %0\n\t"
		     "dt %1\n\t"
		     "bf 1b" : "=&r" (result), "+r" (turns) : "r" (a), "r" (b) : "t");
	return result;
}
#define pinpoint_above pinpoint_above

#endif

/* In C, the shapes for which the architecture defines no macro: it has no assembly for them. */

#ifndef pinpoint_above
static __always_inline u32 pinpoint_above(u32 a, u32 b)
{
	return a > b;
}
#endif

#ifndef pinpoint_greater
static __always_inline u32 pinpoint_greater(u32 a, u32 b)
{
	return (s32)a > (s32)b;
}
#endif

#ifndef pinpoint_not_zero
static __always_inline u32 pinpoint_not_zero(u32 a)
{
	return a != 0;
}
#endif

#ifndef pinpoint_odd
static __always_inline u32 pinpoint_odd(u32 a)
{
	return a & 1;
}
#endif

#ifndef pinpoint_carried
static __always_inline u32 pinpoint_carried(u32 a)
{
	return a & 1;
}
#endif

#ifndef pinpoint_three
static __always_inline u32 pinpoint_three(void)
{
	return 3;
}
#endif

#ifndef pinpoint_in_front
#define pinpoint_in_front()	barrier()
#endif

#ifndef pinpoint_through_r11
static __always_inline u32 pinpoint_through_r11(u32 (*right)(u32), u32 (*wrong)(u32), u32 x)
{
	return right(x);
}
#endif

/* Called with 0 to 7, each comparison gives less, equal and greater in turn. */
PINPOINT_SHAPE u32 pinpoint_emulated(u32 x)
{
	u32 sum = pinpoint_mix(x, 0xe301);

	sum += pinpoint_above(x, 3) << 1;
	sum ^= pinpoint_greater(x, 5) << 2;
	sum += pinpoint_not_zero(x & 2) << 3;
	sum ^= pinpoint_odd(x) << 4;
	return sum;
}

/* The carry is live while the probed instructions run. */
PINPOINT_SHAPE u32 pinpoint_carries(u32 x)
{
	return pinpoint_mix(x, 0xca44) + pinpoint_carried(x);
}

/* A loop in which a jump could be placed by mistake. */
PINPOINT_SHAPE u32 pinpoint_counts(u32 x)
{
	return pinpoint_mix(x, 0xc047) + pinpoint_three();
}

/* A jump label that a jump could displace by mistake. */
PINPOINT_SHAPE u32 pinpoint_keyed(u32 x)
{
	u32 sum = pinpoint_mix(x, 0x4e7d);

	pinpoint_in_front();
	if (static_branch_unlikely(&pinpoint_key))
		sum ^= pinpoint_leaf(sum);
	return sum + 1;
}

/* Two words next to each other, of which one is read. */
static u32 pinpoint_words[] = { 0x50494e11, 0x50494e12, 0x50494e13, 0x50494e14 };

PINPOINT_SHAPE u32 pinpoint_reads_word(u32 x)
{
	return pinpoint_mix(x, 0x40d5) ^ READ_ONCE(pinpoint_words[1]);
}

PINPOINT_SHAPE u32 pinpoint_register_call(u32 x)
{
	return pinpoint_through_r11(pinpoint_leaf, pinpoint_alternate, x) ^ 0x411;
}

/* The target of a call through the wrong register. */
PINPOINT_SHAPE u32 pinpoint_alternate(u32 x)
{
	return pinpoint_mix(x, 0xa17e);
}
