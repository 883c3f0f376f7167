// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#include "gauge.h"

static DEFINE_MUTEX(lock);
static unsigned int level;

static int gauge_show(struct seq_file *m, void *v)
{
	static unsigned int reads;

	mutex_lock(&lock);
	level = gauge_step(level);
	if (!level)
		pr_err("%s:%d: no level\n", __FILE__, __LINE__);
	seq_printf(m, "read %u level %u %s\n", ++reads, level, GAUGE_UNIT);
	mutex_unlock(&lock);
	return 0;
}

static int __init gauge_init(void)
{
	return proc_create_single("gauge", 0444, NULL, gauge_show) ? 0 : -ENOMEM;
}

static void __exit gauge_exit(void)
{
	remove_proc_entry("gauge", NULL);
}

module_init(gauge_init);
module_exit(gauge_exit);
MODULE_DESCRIPTION("counts how often it is read");
MODULE_LICENSE("GPL");
