package match

import (
	"debug/elf"
	"strings"

	"livepatch/elfpatch/kernel"
)

// Kind says why a place of a proven function may hold other bytes than the
// object has there, or comes to hold them when a kernel starts.
type Kind uint8

const (
	Relocation       Kind = iota // a field that linking fills in; nothing else of the instruction
	GOTRelaxation                // an access through the GOT that became a direct one
	TLSRelaxation                // a thread-local access that became a cheaper one
	AddressRelax                 // adrp and add that became nop and adr
	Erratum                      // adrp that became adr, or a load that moved out of line
	WeakCall                     // a call of a weak symbol that nobody defines
	Veneer                       // a branch that goes on through a veneer
	BranchRelaxation             // a jump or reference of another length or distance, to the same place
	Padding                      // no-ops before an aligned place, more or fewer of them
	JumpLabel                    // a jump where the other file has a no-op
	FentryCall                   // a call of __fentry__ where the other file has a no-op

	// What only the start of a kernel rewrites, in memory: the file is compared there like
	// everywhere, but for the fields of relocations.
	ReturnThunk // a jump to the return thunk
	Retpoline   // an indirect branch through a thunk
	StaticCall  // a call of a static call's trampoline
	Alternative // instructions that are chosen by the processor's features
	Paravirt    // a paravirtual call
	LockPrefix  // a lock prefix, which one processor does not need
	RuntimeConst
	numKinds
)

var kindNames = [numKinds]string{
	"relocation", "got-relaxation", "tls-relaxation", "address-relaxation", "erratum-843419", "weak-call", "veneer",
	"branch-relaxation", "padding", "jump-label", "fentry-call",
	"return-thunk", "retpoline", "static-call", "alternative", "paravirt", "lock-prefix", "runtime-constant",
}

func (k Kind) String() string { return kindNames[k] }

// Kinds are all kinds, in the order in which they are listed.
func Kinds() []Kind {
	out := make([]Kind, numKinds)
	for i := range out {
		out[i] = Kind(i)
	}
	return out
}

// Masked counts the places of a proven function by kind.
type Masked [numKinds]int

// rewrittenAtStart are the tables of a kernel's object that name places in code
// which only its start rewrites.
var rewrittenAtStart = map[string]Kind{
	".altinstructions": Alternative, ".parainstructions": Paravirt, ".smp_locks": LockPrefix,
}

// siteKind is the kind of the places that a table names.
func siteKind(table string) (Kind, bool) {
	switch {
	case table == jumpTable:
		return JumpLabel, true
	case table == mcountTable:
		return FentryCall, true
	case strings.HasPrefix(table, "runtime_"):
		return RuntimeConst, true
	}
	k, ok := rewrittenAtStart[table]
	return k, ok
}

// comparedAtSite reports the tables at whose places the file may hold other
// bytes than the object.
func comparedAtSite(table string) bool { return table == jumpTable || table == mcountTable }

// kindOfField refines what the field of a relocation is: kernels tell calls that
// they rewrite when they start by whom they call.
func (w *window) kindOfField(sym int) Kind {
	if !w.img.kernel || w.m != elf.EM_X86_64 {
		return Relocation
	}
	name := w.obj.symbolName(sym)
	switch {
	case name == kernel.ReturnThunk:
		return ReturnThunk
	case strings.HasPrefix(name, kernel.IndirectThunks):
		return Retpoline
	case strings.HasPrefix(name, kernel.StaticCallTrampolines):
		return StaticCall
	}
	return Relocation
}
