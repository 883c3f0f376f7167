package live

// A Stay says why the memory of a reverted patch stays mapped: what an attempt to
// take it away has met last. It is one byte of the record.
type Stay uint8

const (
	NotTried       Stay = 0
	StaysLed       Stay = 1 // something leads to it
	StaysTaken     Stay = 2 // an address of its code or variables is taken
	StaysThread    Stay = 3 // a thread is in it, or holds an address in it
	StaysMemory    Stay = 4 // memory holds an address in it
	StaysUnread    Stay = 5 // not all memory could be looked through
	StaysUnwinder  Stay = 6 // an unwinder knows it
	StaysUnmapping Stay = 7 // no thread could be had to unmap it
)

func (s Stay) String() string {
	switch s {
	case NotTried:
		return "nobody has tried to take it away"
	case StaysLed:
		return "something leads to it"
	case StaysTaken:
		return "it uses addresses of its own code or variables, which may be where nobody can look"
	case StaysThread:
		return "a thread was in it, or held an address in it"
	case StaysMemory:
		return "memory of the process held an address in it"
	case StaysUnread:
		return "not all memory of the process could be looked through"
	case StaysUnwinder:
		return "an unwinder of the process knows it and could not be told otherwise"
	case StaysUnmapping:
		return "no thread could be had to unmap it"
	}
	return "for a reason that this program does not know"
}
