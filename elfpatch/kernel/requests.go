package kernel

// A RequestKind is what a patch's author asks for with a macro.
type RequestKind uint8

const (
	PrePatch       RequestKind = iota + 1 // run this function before the patch is enabled
	PostPatch                             // … after all tasks have switched
	PreUnpatch                            // … before it is disabled
	PostUnpatch                           // … after all tasks have switched back
	IgnoreFunction                        // a change of this function does not count
	IgnoreSection                         // changes of the section whose name this string is do not count
	ForceUnsafe                           // switch this function while tasks are in it; the livepatch core cannot
)

// Requests says which sections hold the requests. Each relocation of a
// section leads to what one request is about. A callback section holds a
// record of two words, the function and a place for the name of the object
// that it is for; of IgnoreSection it leads to the section's name.
var Requests = []struct {
	Section string
	Kind    RequestKind
	Macro   string
	Source  string
}{
	{".kpatch.callbacks.pre_patch", PrePatch, "KPATCH_PRE_PATCH_CALLBACK", "kpatch-macros.h, kpatch 0.9"},
	{".kpatch.callbacks.post_patch", PostPatch, "KPATCH_POST_PATCH_CALLBACK", "kpatch-macros.h, kpatch 0.9"},
	{".kpatch.callbacks.pre_unpatch", PreUnpatch, "KPATCH_PRE_UNPATCH_CALLBACK", "kpatch-macros.h, kpatch 0.9"},
	{".kpatch.callbacks.post_unpatch", PostUnpatch, "KPATCH_POST_UNPATCH_CALLBACK", "kpatch-macros.h, kpatch 0.9"},
	{".kpatch.ignore.functions", IgnoreFunction, "KPATCH_IGNORE_FUNCTION", "kpatch-macros.h, kpatch 0.9"},
	{".kpatch.ignore.sections", IgnoreSection, "KPATCH_IGNORE_SECTION", "kpatch-macros.h, kpatch 0.9"},
	{".kpatch.force", ForceUnsafe, "KPATCH_FORCE_UNSAFE", "kpatch-macros.h, kpatch 0.9"},

	{".livepatch.callbacks.pre_patch", PrePatch, "LIVEPATCH_PRE_PATCH_CALLBACK", "livepatch's own header"},
	{".livepatch.callbacks.post_patch", PostPatch, "LIVEPATCH_POST_PATCH_CALLBACK", "livepatch's own header"},
	{".livepatch.callbacks.pre_unpatch", PreUnpatch, "LIVEPATCH_PRE_UNPATCH_CALLBACK", "livepatch's own header"},
	{".livepatch.callbacks.post_unpatch", PostUnpatch, "LIVEPATCH_POST_UNPATCH_CALLBACK", "livepatch's own header"},
	{".livepatch.ignore.functions", IgnoreFunction, "LIVEPATCH_IGNORE_FUNCTION", "livepatch's own header"},
	{".livepatch.ignore.sections", IgnoreSection, "LIVEPATCH_IGNORE_SECTION", "livepatch's own header"},
	{".livepatch.force", ForceUnsafe, "", "livepatch's own header"},
}

// RequestOf tells what a section asks for, 0 if nothing.
func RequestOf(section string) RequestKind {
	for _, r := range Requests {
		if r.Section == section {
			return r.Kind
		}
	}
	return 0
}
