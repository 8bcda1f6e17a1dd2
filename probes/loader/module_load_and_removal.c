// SPDX-License-Identifier: GPL-2.0
/* The probe module's file, its loading, and the notice of its removal. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "step_output_and_gates.h"
#include "module_load_and_removal.h"

#define KERNEL_EVENTS	1

static int image_fd = -1;
static char *image;
static size_t image_size;
static int events = -1;

static int read_image(void)
{
	struct stat about;
	ssize_t got;

	if (fstat(image_fd, &about))
		return errno;
	image = malloc(about.st_size + 1);
	if (!image)
		return ENOMEM;
	while ((got = read(image_fd, image + image_size, about.st_size - image_size)) > 0)
		image_size += got;
	return got < 0 ? errno : 0;
}

/**
 * open_image() - prepare the file, so that loading it is one system call
 * @path: the module's file
 * @in_memory: read it into memory, for init_module(2)
 */
void open_image(const char *path, int in_memory)
{
	int error = 0;

	gate("image", path);
	image_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (image_fd < 0)
		fail(STATUS_IMAGE, "image", path, errno);
	if (in_memory)
		error = read_image();
	if (error)
		fail(STATUS_IMAGE, "image", path, error);
	did("image", path, "call=%s", in_memory ? "init_module" : "finit_module");
}

void load_image(const char *name, const char *parameters)
{
	long failed;

	gate("load", name);
	if (image)
		failed = syscall(SYS_init_module, image, image_size, parameters);
	else
		failed = syscall(SYS_finit_module, image_fd, parameters, 0);
	if (failed)
		fail(STATUS_LOAD, "load", name, errno);
	did("load", name, "parameters=%zu", strlen(parameters));
}

int delete_probe(const char *name, int flags)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK | flags) ? errno : 0;
}

/**
 * watch_removals() - receive the kernel's events about its objects from now on
 *
 * Call it before the load, so that a removal right after it is not missed.
 */
void watch_removals(void)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = KERNEL_EVENTS };

	events = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
	if (events < 0 || bind(events, (struct sockaddr *)&address, sizeof(address)))
		fail(STATUS_BEGIN, "begin", "", errno);
}

/* When events were lost in a flood, sysfs still shows the module or not. */
static int gone(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	return access(path, F_OK) != 0;
}

static int tells_removal(const char *name)
{
	char event[4096], wanted[256];
	ssize_t length = recv(events, event, sizeof(event) - 1, 0);

	if (length < 0)
		return errno == ENOBUFS && gone(name);
	event[length] = '\0';
	snprintf(wanted, sizeof(wanted), "remove@/module/%s", name);
	return !strcmp(event, wanted);
}

/**
 * await_removal() - return when the probe module is gone
 * @name: the module's name
 *
 * Fails if standard input is closed before, because then nothing waits for it.
 */
void await_removal(const char *name)
{
	struct pollfd sources[] = {
		{ .fd = events, .events = POLLIN },
		{ .fd = STDIN_FILENO },
	};

	for (;;) {
		if (poll(sources, 2, -1) < 0 && errno != EINTR)
			fail(STATUS_HOLD, "hold", name, errno);
		if (sources[0].revents && tells_removal(name))
			return;
		if (sources[1].revents)
			fail(STATUS_HOLD, "hold", name, EPIPE);
	}
}
