// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_reseed SECONDS: set the clock to SECONDS since the epoch, mix standard
 * input into the kernel's random numbers, and reseed them. It is one program,
 * because starting a program takes long in a thawed guest.
 *
 * Guests thawed from one state would otherwise produce the same random numbers,
 * also for SSH. A write to /dev/urandom is mixed in at once, but has an effect only
 * at the next reseeding, up to a minute later (drivers/char/random.c, 6.1).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static int failed(const char *what)
{
	fprintf(stderr, "pinpoint_reseed: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	struct timespec now = { 0 };
	char seed[256];
	size_t length = 0;
	ssize_t got;
	int urandom;

	if (argc != 2) {
		errno = EINVAL;
		return failed("the time");
	}
	now.tv_sec = atoll(argv[1]);
	if (clock_settime(CLOCK_REALTIME, &now))
		return failed("the clock");
	while ((got = read(STDIN_FILENO, seed + length, sizeof(seed) - length)) > 0)
		length += got;
	if (got < 0 || !length)
		return failed("reading the seed");
	urandom = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	if (urandom < 0)
		return failed("/dev/urandom");
	if (write(urandom, seed, length) != (ssize_t)length)
		return failed("mixing");
	/* ENODATA: never seeded yet, so no number was produced that could be repeated. */
	if (ioctl(urandom, RNDRESEEDCRNG) && errno != ENODATA)
		return failed("RNDRESEEDCRNG");
	return 0;
}
