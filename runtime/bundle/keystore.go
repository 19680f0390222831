package bundle

import (
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"time"
)

// storePassword is the one that every JDK ships its cacerts with. It protects nothing: it keys a checksum.
const storePassword = "changeit"

// keyStore encodes certificates as a Java key store of type JKS, version 2, of trusted entries: the format of
// sun.security.provider.JavaKeyStore (OpenJDK), which every JVM since 1.2 reads whatever its default type is.
// PKCS #12 was the other choice: before JDK 8u301 it needs Oracle's trustedKeyUsage attribute and a password to open.
func keyStore(certs [][]byte, made time.Time) []byte {
	const magic, version, trusted = 0xfeedfeed, 2, 2
	size := 64
	for _, der := range certs {
		size += len(der) + 64
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, size), magic)
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint32(b, uint32(len(certs)))
	for i, der := range certs {
		b = binary.BigEndian.AppendUint32(b, trusted)
		b = appendUTF(b, fmt.Sprintf("superserve-%d", i))
		b = binary.BigEndian.AppendUint64(b, uint64(made.UnixMilli()))
		b = appendUTF(b, "X.509")
		b = binary.BigEndian.AppendUint32(b, uint32(len(der)))
		b = append(b, der...)
	}
	return append(b, storeDigest(b)...)
}

// appendUTF appends ASCII text as java.io.DataOutput.writeUTF does: a length of two bytes, then the text.
func appendUTF(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// storeDigest is SHA-1 over the password in UTF-16BE, a fixed phrase of the JDK's, and the store.
func storeDigest(store []byte) []byte {
	h := sha1.New()
	for _, c := range storePassword {
		h.Write([]byte{byte(c >> 8), byte(c)})
	}
	h.Write([]byte("Mighty Aphrodite"))
	h.Write(store)
	return h.Sum(nil)
}
