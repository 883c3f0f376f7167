/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * kpatch-syscall.h: sources written for kpatch that define system calls include
 * this name.
 */
#ifndef LIVEPATCH_KPATCH_SYSCALL_H
#define LIVEPATCH_KPATCH_SYSCALL_H

#include "kpatch-macros.h"

#endif
