// SPDX-License-Identifier: GPL-2.0
/*
 * A congestion control, "pinpoint": Reno under a name of this module. A socket
 * that uses it holds the module (tcp_set_congestion_control()).
 */
#include <linux/module.h>
#include <net/tcp.h>

#include "pinnable_target.h"

static struct tcp_congestion_ops pinpoint_tcp = {
	.ssthresh	= tcp_reno_ssthresh,
	.cong_avoid	= tcp_reno_cong_avoid,
	.undo_cwnd	= tcp_reno_undo_cwnd,
	.owner		= THIS_MODULE,
	.name		= "pinpoint",
};

int pinpoint_register_tcp(void)
{
	return tcp_register_congestion_control(&pinpoint_tcp);
}

void pinpoint_unregister_tcp(void)
{
	tcp_unregister_congestion_control(&pinpoint_tcp);
}
