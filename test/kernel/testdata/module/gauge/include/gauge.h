/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GAUGE_H
#define GAUGE_H

#include <linux/bug.h>

unsigned int gauge_step(unsigned int from);

/* The bug table names the file that this is expanded in. */
static inline unsigned int gauge_bounded(unsigned int level)
{
	return WARN_ON_ONCE(level > 1000) ? 1000 : level;
}

#endif
