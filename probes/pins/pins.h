/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of pinpoint_pins share.
 */
#ifndef PINPOINT_PINS_H
#define PINPOINT_PINS_H

int pinpoint_register_tcp(void);
void pinpoint_unregister_tcp(void);

int pinpoint_needed(int x);

#endif
