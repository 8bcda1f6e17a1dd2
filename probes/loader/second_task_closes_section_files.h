/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PINPOINT_SECOND_TASK_CLOSES_SECTION_FILES_H
#define PINPOINT_SECOND_TASK_CLOSES_SECTION_FILES_H

void start_second(int betrays);

#endif
