package safety

import "strings"

// Role is what a function does to a lock or to a count of references.
type Role uint8

const (
	Lock   Role = iota + 1 // takes a lock
	Unlock                 // gives it back
	Count                  // takes or gives back a reference
	Sleep                  // may sleep, and is no lock
)

// A Call is a row of the tables of functions with a meaning for safety.
type Call struct {
	Name   string // exact; a prefix if it ends in "*"
	Role   Role
	Object string // what it is about; Lock and Unlock of one object belong together
	Sleeps bool   // of a lock: may sleep
	Atomic bool   // of a lock: whoever holds it must not sleep
	Source string
}

// kernelCalls are functions of the kernel as they are called in objects: what
// headers inline is not seen. The first row that fits counts.
var kernelCalls = []Call{
	{"_raw_spin_unlock*", Unlock, "spinlock", false, true, "kernel/locking/spinlock.c, 6.12"},
	{"_raw_spin_lock*", Lock, "spinlock", false, true, "kernel/locking/spinlock.c, 6.12"},
	{"_raw_spin_trylock*", Lock, "spinlock tried", false, false, "kernel/locking/spinlock.c, 6.12"},
	{"_raw_read_unlock*", Unlock, "rwlock", false, true, "kernel/locking/spinlock.c, 6.12"},
	{"_raw_read_lock*", Lock, "rwlock", false, true, "kernel/locking/spinlock.c, 6.12"},
	{"_raw_write_unlock*", Unlock, "rwlock", false, true, "kernel/locking/spinlock.c, 6.12"},
	{"_raw_write_lock*", Lock, "rwlock", false, true, "kernel/locking/spinlock.c, 6.12"},
	{"__rcu_read_lock", Lock, "rcu", false, true, "kernel/rcu/tree_plugin.h, 6.12"},
	{"__rcu_read_unlock", Unlock, "rcu", false, true, "kernel/rcu/tree_plugin.h, 6.12"},
	{"__srcu_read_lock*", Lock, "srcu", false, false, "kernel/rcu/srcutree.c, 6.12"},
	{"__srcu_read_unlock*", Unlock, "srcu", false, false, "kernel/rcu/srcutree.c, 6.12"},
	{"mutex_trylock", Lock, "mutex tried", false, false, "kernel/locking/mutex.c, 6.12"},
	{"mutex_unlock", Unlock, "mutex", false, false, "kernel/locking/mutex.c, 6.12"},
	{"mutex_lock*", Lock, "mutex", true, false, "kernel/locking/mutex.c, 6.12"},
	{"ww_mutex_lock*", Lock, "ww_mutex", true, false, "kernel/locking/mutex.c, 6.12"},
	{"ww_mutex_unlock", Unlock, "ww_mutex", false, false, "kernel/locking/mutex.c, 6.12"},
	{"rt_mutex_lock*", Lock, "rt_mutex", true, false, "kernel/locking/rtmutex_api.c, 6.12"},
	{"rt_mutex_unlock", Unlock, "rt_mutex", false, false, "kernel/locking/rtmutex_api.c, 6.12"},
	{"down_read_trylock", Lock, "rwsem tried", false, false, "kernel/locking/rwsem.c, 6.12"},
	{"down_write_trylock", Lock, "rwsem tried", false, false, "kernel/locking/rwsem.c, 6.12"},
	{"down_read*", Lock, "rwsem", true, false, "kernel/locking/rwsem.c, 6.12"},
	{"down_write*", Lock, "rwsem", true, false, "kernel/locking/rwsem.c, 6.12"},
	{"up_read*", Unlock, "rwsem", false, false, "kernel/locking/rwsem.c, 6.12"},
	{"up_write", Unlock, "rwsem", false, false, "kernel/locking/rwsem.c, 6.12"},
	{"downgrade_write", Unlock, "rwsem", false, false, "kernel/locking/rwsem.c, 6.12"},
	{"down_trylock", Lock, "semaphore tried", false, false, "kernel/locking/semaphore.c, 6.12"},
	{"down", Lock, "semaphore", true, false, "kernel/locking/semaphore.c, 6.12"},
	{"down_interruptible", Lock, "semaphore", true, false, "kernel/locking/semaphore.c, 6.12"},
	{"down_killable", Lock, "semaphore", true, false, "kernel/locking/semaphore.c, 6.12"},
	{"down_timeout", Lock, "semaphore", true, false, "kernel/locking/semaphore.c, 6.12"},
	{"up", Unlock, "semaphore", false, false, "kernel/locking/semaphore.c, 6.12"},
	{"lock_sock_nested", Lock, "socket", true, false, "net/core/sock.c, 6.12"},
	{"release_sock", Unlock, "socket", false, false, "net/core/sock.c, 6.12"},
	{"rtnl_lock", Lock, "rtnl", true, false, "net/core/rtnetlink.c, 6.12"},
	{"rtnl_unlock", Unlock, "rtnl", false, false, "net/core/rtnetlink.c, 6.12"},

	{"refcount_warn_saturate", Count, "refcount", false, false, "lib/refcount.c, 6.12: called where a count that headers inline is wrong"},
	{"refcount_dec_and_*", Count, "refcount", false, false, "lib/refcount.c, 6.12"},
	{"refcount_dec_not_one", Count, "refcount", false, false, "lib/refcount.c, 6.12"},
	{"kref_get*", Count, "kref", false, false, "include/linux/kref.h, 6.12"},
	{"kref_put*", Count, "kref", false, false, "include/linux/kref.h, 6.12"},
	{"kobject_get*", Count, "kobject", false, false, "lib/kobject.c, 6.12"},
	{"kobject_put", Count, "kobject", false, false, "lib/kobject.c, 6.12"},
	{"get_device", Count, "device", false, false, "drivers/base/core.c, 6.12"},
	{"put_device", Count, "device", false, false, "drivers/base/core.c, 6.12"},
	{"fget*", Count, "file", false, false, "fs/file.c, 6.12"},
	{"fput*", Count, "file", false, false, "fs/file_table.c, 6.12"},
	{"dget_parent", Count, "dentry", false, false, "fs/dcache.c, 6.12"},
	{"dput", Count, "dentry", false, false, "fs/dcache.c, 6.12"},
	{"ihold", Count, "inode", false, false, "fs/inode.c, 6.12"},
	{"iput", Count, "inode", false, false, "fs/inode.c, 6.12"},
	{"mntget", Count, "mount", false, false, "fs/namespace.c, 6.12"},
	{"mntput", Count, "mount", false, false, "fs/namespace.c, 6.12"},
	{"path_get", Count, "path", false, false, "fs/namei.c, 6.12"},
	{"path_put", Count, "path", false, false, "fs/namei.c, 6.12"},
	{"try_module_get", Count, "module", false, false, "kernel/module/main.c, 6.12"},
	{"module_put", Count, "module", false, false, "kernel/module/main.c, 6.12"},
	{"put_pid", Count, "pid", false, false, "kernel/pid.c, 6.12"},
	{"__put_task_struct*", Count, "task", false, false, "kernel/fork.c, 6.12"},
	{"mmput*", Count, "mm", false, false, "kernel/fork.c, 6.12"},
	{"of_node_get", Count, "device node", false, false, "drivers/of/dynamic.c, 6.12"},
	{"of_node_put", Count, "device node", false, false, "drivers/of/dynamic.c, 6.12"},

	{"schedule", Sleep, "schedule", true, false, "kernel/sched/core.c, 6.12"},
	{"schedule_timeout*", Sleep, "schedule", true, false, "kernel/time/sleep_timeout.c, 6.12"},
	{"msleep*", Sleep, "timer", true, false, "kernel/time/sleep_timeout.c, 6.12"},
	{"usleep_range_state", Sleep, "timer", true, false, "kernel/time/sleep_timeout.c, 6.12"},
	{"wait_for_completion*", Sleep, "completion", true, false, "kernel/sched/completion.c, 6.12"},
	{"__cond_resched", Sleep, "schedule", true, false, "kernel/sched/core.c, 6.12"},
	{"__might_sleep", Sleep, "schedule", true, false, "kernel/sched/core.c, 6.12"},
	{"synchronize_rcu*", Sleep, "rcu", true, false, "kernel/rcu/tree.c, 6.12"},
	{"synchronize_srcu*", Sleep, "srcu", true, false, "kernel/rcu/srcutree.c, 6.12"},
	{"synchronize_net", Sleep, "rcu", true, false, "net/core/dev.c, 6.12"},
	{"flush_work", Sleep, "workqueue", true, false, "kernel/workqueue.c, 6.12"},
	{"flush_delayed_work", Sleep, "workqueue", true, false, "kernel/workqueue.c, 6.12"},
	{"cancel_work_sync", Sleep, "workqueue", true, false, "kernel/workqueue.c, 6.12"},
	{"cancel_delayed_work_sync", Sleep, "workqueue", true, false, "kernel/workqueue.c, 6.12"},
	{"kthread_stop*", Sleep, "thread", true, false, "kernel/kthread.c, 6.12"},
	{"kthread_create_on_*", Sleep, "thread", true, false, "kernel/kthread.c, 6.12"},
	{"vmalloc*", Sleep, "memory", true, false, "mm/vmalloc.c, 6.12"},
	{"request_firmware", Sleep, "firmware", true, false, "drivers/base/firmware_loader/main.c, 6.12"},
}

// programCalls are those of programs.
var programCalls = []Call{
	{"pthread_mutex_unlock", Unlock, "mutex", false, false, "POSIX.1-2017, pthread_mutex_lock"},
	{"pthread_mutex_*lock", Lock, "mutex", true, false, "POSIX.1-2017, pthread_mutex_lock"},
	{"pthread_rwlock_unlock", Unlock, "rwlock", false, false, "POSIX.1-2017, pthread_rwlock_unlock"},
	{"pthread_rwlock_*lock", Lock, "rwlock", true, false, "POSIX.1-2017, pthread_rwlock_rdlock"},
	{"pthread_spin_unlock", Unlock, "spin lock", false, false, "POSIX.1-2017, pthread_spin_unlock"},
	{"pthread_spin_*lock", Lock, "spin lock", false, false, "POSIX.1-2017, pthread_spin_lock"},
	{"sem_wait", Lock, "semaphore", true, false, "POSIX.1-2017, sem_wait"},
	{"sem_trywait", Lock, "semaphore", false, false, "POSIX.1-2017, sem_trywait"},
	{"sem_timedwait", Lock, "semaphore", true, false, "POSIX.1-2017, sem_timedwait"},
	{"sem_post", Unlock, "semaphore", false, false, "POSIX.1-2017, sem_post"},
	{"mtx_unlock", Unlock, "mutex", false, false, "C11, 7.26.4"},
	{"mtx_*lock", Lock, "mutex", true, false, "C11, 7.26.4"},
	{"flockfile", Lock, "stream", true, false, "POSIX.1-2017, flockfile"},
	{"funlockfile", Unlock, "stream", false, false, "POSIX.1-2017, flockfile"},
}

// threadStarters are functions of the kernel that start a thread with the function
// whose address they are given.
var threadStarters = []Call{
	{"kthread_create_on_node", 0, "thread", false, false, "kernel/kthread.c, 6.12; also kthread_run and kthread_create of include/linux/kthread.h"},
	{"kthread_create_on_cpu", 0, "thread", false, false, "kernel/kthread.c, 6.12"},
	{"kthread_run_on_cpu", 0, "thread", false, false, "include/linux/kthread.h, 6.12"},
	{"kernel_thread", 0, "thread", false, false, "kernel/fork.c, 6.12"},
	{"user_mode_thread", 0, "thread", false, false, "kernel/fork.c, 6.12"},
}

// find returns the row of a name, nil if there is none.
func find(rows []Call, name string) *Call {
	for i := range rows {
		before, after, some := strings.Cut(rows[i].Name, "*")
		if name == before && !some || some && len(name) >= len(before)+len(after) && strings.HasPrefix(name, before) && strings.HasSuffix(name, after) {
			return &rows[i]
		}
	}
	return nil
}
