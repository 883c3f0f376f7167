package kernel

// A LineCallee is a function that is passed the source line of its caller.
type LineCallee struct {
	Name   string
	Arg    int // which argument the line is, from 0
	Source string
}

// LineCallees are functions that do nothing with a line but report it.
var LineCallees = []LineCallee{
	{"__might_sleep", 1, "include/linux/kernel.h, 6.12"},
	{"___might_sleep", 1, "include/linux/kernel.h, 5.15"},
	{"__might_resched", 1, "include/linux/kernel.h, 6.12"},
	{"__might_fault", 1, "include/linux/kernel.h, 6.12"},
	{"__cant_sleep", 1, "include/linux/kernel.h, 6.12"},
	{"__cant_migrate", 1, "include/linux/kernel.h, 6.12"},
	{"warn_slowpath_fmt", 1, "include/asm-generic/bug.h, 6.12"},
	{"warn_slowpath_fmt_taint", 1, "include/asm-generic/bug.h, 4.19"},
	{"warn_slowpath_null", 1, "include/asm-generic/bug.h, 4.19"},
	{"lockdep_rcu_suspicious", 1, "include/linux/lockdep.h, 6.12"},
	{"__kunit_fail_current_test", 1, "include/kunit/test-bug.h, 6.1"},
	{"xdp_warn", 2, "include/net/xdp.h, 6.12"},
	{"__jbd2_debug", 3, "include/linux/jbd2.h, 6.12"},
	{"jbd2__journal_start", 6, "include/linux/jbd2.h, 6.12"},
	{"__btrfs_abort_transaction", 2, "fs/btrfs/transaction.h, 6.12"},
	{"__btrfs_handle_fs_error", 2, "fs/btrfs/messages.h, 6.12"},
	{"__btrfs_panic", 2, "fs/btrfs/messages.h, 6.12"},
	{"btrfs_assertfail", 2, "fs/btrfs/messages.h, 5.15"},
	{"__ext4_journal_start_sb", 2, "fs/ext4/ext4_jbd2.h, 6.12"},
	{"__ext4_journal_start_reserved", 1, "fs/ext4/ext4_jbd2.h, 6.12"},
	{"__ext4_journal_stop", 1, "fs/ext4/ext4_jbd2.h, 6.12"},
	{"__ext4_journal_get_write_access", 1, "fs/ext4/ext4_jbd2.h, 6.12"},
	{"__ext4_journal_get_create_access", 1, "fs/ext4/ext4_jbd2.h, 6.12"},
	{"__ext4_handle_dirty_metadata", 1, "fs/ext4/ext4_jbd2.h, 6.12"},
	{"__ext4_forget", 1, "fs/ext4/ext4_jbd2.h, 6.12"},
	{"__ext4_std_error", 2, "fs/ext4/ext4.h, 6.12"},
	{"__ext4_error", 2, "fs/ext4/ext4.h, 6.12"},
	{"__ext4_error_inode", 2, "fs/ext4/ext4.h, 6.12"},
	{"__ext4_error_file", 2, "fs/ext4/ext4.h, 6.12"},
	{"__ext4_warning", 2, "fs/ext4/ext4.h, 6.12"},
	{"__ext4_warning_inode", 2, "fs/ext4/ext4.h, 6.12"},
	{"__ext4_abort", 2, "fs/ext4/ext4.h, 5.15"},
	{"__ext4_iget", 4, "fs/ext4/ext4.h, 6.12"},
	{"__ext4_check_dir_entry", 1, "fs/ext4/ext4.h, 6.12"},
	{"__ext4_mark_inode_dirty", 3, "fs/ext4/ext4_jbd2.h, 6.12"},
	{"ext4_check_blockref", 1, "fs/ext4/ext4.h, 6.12"},
	{"__check_block_validity", 2, "fs/ext4/inode.c, 6.12"},
	{"__mlog_printk", 2, "fs/ocfs2/cluster/masklog.h, 6.12"},
	{"xfs_error_report", 4, "fs/xfs/xfs_error.h, 6.12"},
	{"xfs_errortag_test", 2, "fs/xfs/xfs_error.h, 6.12"},
	{"xfs_do_force_shutdown", 3, "fs/xfs/xfs_mount.h, 6.12"},
	{"assfail", 3, "fs/xfs/xfs_message.h, 6.12"},
	{"asswarn", 3, "fs/xfs/xfs_message.h, 6.12"},
}

// LineArg tells which argument of a function is a line.
func LineArg(name string) (int, bool) {
	arg, ok := lineArgs[name]
	return arg, ok
}

var lineArgs = func() map[string]int {
	m := map[string]int{}
	for _, c := range LineCallees {
		m[c.Name] = c.Arg
	}
	return m
}()

// Printers are functions with a format, to which lines are passed as any other
// number. Only a file name beside it makes a number a line.
var Printers = []NameRule{
	{"_printk", "kernel log", "include/linux/printk.h, 6.12"},
	{"printk", "kernel log", "include/linux/printk.h, 5.10"},
	{"_printk_deferred", "kernel log", "include/linux/printk.h, 6.12"},
	{"__warn_printk", "message of a WARN", "include/asm-generic/bug.h, 6.12"},
	{"panic", "last message", "include/linux/panic.h, 6.12"},
	{"__dynamic_pr_debug", "debug message", "include/linux/dynamic_debug.h, 6.12"},
	{"__dynamic_dev_dbg", "debug message", "include/linux/dynamic_debug.h, 6.12"},
	{"_dev_err", "kernel log", "include/linux/dev_printk.h, 6.12"},
	{"_dev_warn", "kernel log", "include/linux/dev_printk.h, 6.12"},
	{"_dev_info", "kernel log", "include/linux/dev_printk.h, 6.12"},
	{"_dev_notice", "kernel log", "include/linux/dev_printk.h, 6.12"},
	{"_dev_printk", "kernel log", "include/linux/dev_printk.h, 6.12"},
}

// IsPrinter reports a function with a format.
func IsPrinter(name string) bool {
	for i := range Printers {
		if Printers[i].Name == name {
			return true
		}
	}
	return false
}

// A LineField is a field of data that describes a place in the source.
type LineField struct {
	Data   string // the data: a name of SpecialStatics, or a prefix of SanitizerData or UnnamedData
	Off    uint64
	Bits   int  // of the 32-bit word there
	Column bool // of the line: it goes with a line
	Source string
}

// LineFields are the lines and columns in data that belongs to places in code.
var LineFields = []LineField{
	{"Lubsan_data", 8, 32, false, "lib/ubsan.h: struct source_location, 6.12"},
	{"Lubsan_data", 12, 32, true, "lib/ubsan.h: struct source_location, 6.12"},
	{"__unnamed_", 8, 32, false, "lib/ubsan.h: struct source_location, 6.12"},
	{"__unnamed_", 12, 32, true, "lib/ubsan.h: struct source_location, 6.12"},
	{"descriptor", 32, 18, false, "include/linux/dynamic_debug.h: struct _ddebug, 5.4"},
	{"__UNIQUE_ID_ddebug", 32, 18, false, "include/linux/dynamic_debug.h: struct _ddebug, 6.12"},
	{"_entry", 24, 32, false, "include/linux/printk.h: struct pi_entry, 6.12"},
	{"_alloc_tag", 4, 32, false, "include/linux/codetag.h: struct codetag, 6.12"},
	{"______f", 16, 32, false, "include/linux/compiler_types.h: struct ftrace_branch_data, 6.12"},
}
