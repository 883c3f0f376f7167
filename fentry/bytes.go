package fentry

import "encoding/hex"

// Bytes is machine code; as text it is lower-case hexadecimal.
type Bytes []byte

// MarshalText implements encoding.TextMarshaler.
func (b Bytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, b), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	var err error
	*b, err = hex.AppendDecode(nil, text)
	return err
}
