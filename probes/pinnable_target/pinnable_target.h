/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the files of pinpoint_pins.
 */
#ifndef PINPOINT_PINNABLE_TARGET_H
#define PINPOINT_PINNABLE_TARGET_H

int pinpoint_register_tcp(void);
void pinpoint_unregister_tcp(void);

int pinpoint_needed(int x);

#endif
