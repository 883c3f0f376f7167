package kstate

import (
	"bytes"
	"encoding/binary"
)

// signatureMagic ends a signed module (MODULE_SIG_STRING in
// include/linux/module_signature.h, 6.12).
var signatureMagic = []byte("~Module signature appended~\n")

// Signed reports whether a module ends with a signature that the kernel would
// look at: the magic, before it 12 bytes that say that it is PKCS#7 and how
// long (struct module_signature), before them that many bytes. Whether the
// signature is good, and whether the kernel knows the key, is not looked at.
func Signed(module []byte) bool {
	const info, typePKCS7 = 12, 2
	rest, ok := bytes.CutSuffix(module, signatureMagic)
	if !ok || len(rest) < info {
		return false
	}
	ms := rest[len(rest)-info:]
	size := uint64(binary.BigEndian.Uint32(ms[8:]))
	return ms[2] == typePKCS7 && size > 0 && size <= uint64(len(rest)-info)
}
