/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PINPOINT_SECOND_H
#define PINPOINT_SECOND_H

void start_second(int betrays);

#endif
