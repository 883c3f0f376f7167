package kmod

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // for crypto.Hash
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

// A Signer signs modules with a key that a kernel trusts.
type Signer struct {
	key  crypto.Signer
	cert *x509.Certificate
	hash crypto.Hash
}

// signatureMark ends a signed module (include/linux/module_signature.h, 6.12).
const signatureMark = "~Module signature appended~\n"

// hashes are the digests that both kernels and this program know, by their
// names in CONFIG_MODULE_SIG_HASH.
var hashes = map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}

// NewSigner takes a private key (PEM: PKCS #8, PKCS #1 or SEC 1; RSA or EC) and
// its X.509 certificate (PEM or DER), as CONFIG_MODULE_SIG_KEY and sign-file
// have them; one file may hold both. hash is that of CONFIG_MODULE_SIG_HASH,
// "sha256" if empty.
func NewSigner(key, cert []byte, hash string) (*Signer, error) {
	if hash == "" {
		hash = "sha256"
	}
	s := &Signer{hash: hashes[hash]}
	if s.hash == 0 {
		return nil, fmt.Errorf("sign: digest %q is not supported (sha256, sha384, sha512)", hash)
	}
	var err error
	if s.key, err = parseKey(key); err != nil {
		return nil, fmt.Errorf("sign: read the key: %w", err)
	}
	if s.cert, err = parseCert(cert); err != nil {
		return nil, fmt.Errorf("sign: read the certificate: %w", err)
	}
	public, ok := s.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(s.cert.PublicKey) {
		return nil, errors.New("sign: the certificate is not that of the key")
	}
	return s, nil
}

func parseKey(b []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return nil, errors.New("there is no private key in it (PEM)")
		}
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, errors.New("the key is encrypted")
			}
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, errors.New("the key is encrypted")
			}
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("the key is encrypted")
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		return supportedKey(key)
	}
}

// supportedKey takes the kinds of keys that kernels verify.
func supportedKey(key any) (crypto.Signer, error) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return k, nil
	case *ecdsa.PrivateKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return nil, fmt.Errorf("curve %s is not one that kernels know", k.Curve.Params().Name)
		}
		return k, nil
	}
	return nil, fmt.Errorf("a key of type %T cannot sign modules (RSA or EC)", key)
}

func parseCert(b []byte) (*x509.Certificate, error) {
	if len(b) > 1 && b[0] == 0x30 { // DER: a SEQUENCE
		return x509.ParseCertificate(b)
	}
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return nil, errors.New("there is no certificate in it")
		}
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
}

// The types of a detached CMS SignedData (RFC 5652, sections 3 and 5) without
// certificates and attributes: only what a kernel reads.
type (
	algorithm struct {
		OID    asn1.ObjectIdentifier
		Params asn1.RawValue `asn1:"optional"`
	}
	issuerAndSerial struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
	signerInfo struct {
		Version   int
		Issuer    issuerAndSerial
		Digest    algorithm
		Signature algorithm
		Value     []byte
	}
	encapsulated struct{ Type asn1.ObjectIdentifier }
	signedData   struct {
		Version    int
		Algorithms []algorithm `asn1:"set"`
		Content    encapsulated
		Signers    []signerInfo `asn1:"set"`
	}
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content signedData `asn1:"explicit,tag:0"`
	}
)

var (
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidRSA        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidDigest     = map[crypto.Hash]asn1.ObjectIdentifier{
		crypto.SHA256: {2, 16, 840, 1, 101, 3, 4, 2, 1},
		crypto.SHA384: {2, 16, 840, 1, 101, 3, 4, 2, 2},
		crypto.SHA512: {2, 16, 840, 1, 101, 3, 4, 2, 3},
	}
	oidECDSA = map[crypto.Hash]asn1.ObjectIdentifier{
		crypto.SHA256: {1, 2, 840, 10045, 4, 3, 2},
		crypto.SHA384: {1, 2, 840, 10045, 4, 3, 3},
		crypto.SHA512: {1, 2, 840, 10045, 4, 3, 4},
	}
)

// Sign returns the module with its signature appended, as the kernel's
// sign-file does. With an RSA key the bytes are those of sign-file; EC
// signatures contain a number that others draw at random and that here follows
// from key and module (RFC 6979).
func (s *Signer) Sign(module []byte) ([]byte, error) {
	if bytes.HasSuffix(module, []byte(signatureMark)) {
		return nil, errors.New("sign: the module is signed already")
	}
	h := s.hash.New()
	h.Write(module)
	// Neither kind of signature takes anything from a source of random numbers.
	value, err := s.key.Sign(nil, h.Sum(nil), s.hash)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	digest := algorithm{OID: oidDigest[s.hash]}
	signature := algorithm{OID: oidRSA, Params: asn1.NullRawValue}
	if _, ok := s.key.(*ecdsa.PrivateKey); ok {
		signature = algorithm{OID: oidECDSA[s.hash]}
	}
	der, err := asn1.Marshal(contentInfo{oidSignedData, signedData{
		Version: 1, Algorithms: []algorithm{digest}, Content: encapsulated{oidData},
		Signers: []signerInfo{{1, issuerAndSerial{asn1.RawValue{FullBytes: s.cert.RawIssuer}, s.cert.SerialNumber}, digest, signature, value}},
	}})
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	// struct module_signature: algorithm, hash, type (2: PKCS #7), two lengths
	// and padding that this type leaves 0, and the length of the signature.
	tail := make([]byte, 12)
	tail[2] = 2
	binary.BigEndian.PutUint32(tail[8:], uint32(len(der)))
	out := append(bytes.Clone(module), der...)
	return append(append(out, tail...), signatureMark...), nil
}

// SignatureHash is the name of the digest that the signature at the end of a
// module is of; "" if there is none that can be read.
func SignatureHash(module []byte) string {
	body, ok := Unsigned(module)
	if !ok {
		return ""
	}
	var c contentInfo
	if _, err := asn1.Unmarshal(module[len(body):], &c); err != nil || len(c.Content.Algorithms) == 0 {
		return ""
	}
	for name, hash := range hashes {
		if oidDigest[hash].Equal(c.Content.Algorithms[0].OID) {
			return name
		}
	}
	return ""
}
