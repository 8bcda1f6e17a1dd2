/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PINPOINT_FACTS_H
#define PINPOINT_FACTS_H

void look_at_targets(void);
void swap_handles(void);
char *probe_parameters(char **given);

#endif
