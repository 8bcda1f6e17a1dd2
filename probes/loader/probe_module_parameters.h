/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PINPOINT_PROBE_MODULE_PARAMETERS_H
#define PINPOINT_PROBE_MODULE_PARAMETERS_H

void look_at_targets(void);
void swap_handles(void);
char *probe_parameters(char **given);

#endif
