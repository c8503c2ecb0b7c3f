package cipher

import (
	"encoding/binary"
	"fmt"
)

// XattrName returns the 43 characters that stand for an extended attribute's
// name on an owner. They are the same each time and cannot be reversed: the
// name itself lies in the value's blob.
func (v *Volume) XattrName(owner [16]byte, name string) string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	k := v.small
	if k == nil {
		return ""
	}
	m := k.xattrMACs.get()
	defer k.xattrMACs.put(m)
	// XOR, since side by side the key of one layer would be enough to test a
	// guess, and one in the other a broken outer one would make all names one.
	var out [xattrNameSize]byte
	for i := range int(v.params.Layers) {
		for j, c := range m.layer(i, typeXattrName, owner, uint64(len(name)), []byte(name)) {
			out[j] ^= c
		}
	}
	return nameEncoding.EncodeToString(out[:])
}

// SealXattr seals an extended attribute of an owner as a blob of its name, at
// most 65535 bytes, and its value.
func (v *Volume) SealXattr(owner [16]byte, name string, value []byte) ([]byte, error) {
	if len(name) > 0xffff {
		return nil, fmt.Errorf("xattr name of %d bytes: %w", len(name), ErrTooLong)
	}
	plain := make([]byte, 0, 2+len(name)+len(value))
	plain = binary.BigEndian.AppendUint16(plain, uint16(len(name)))
	plain = append(plain, name...)
	plain = append(plain, value...)
	return v.SealBlob(BlobXattr, owner, plain)
}

// OpenXattr verifies and opens the attribute of an owner that name is asked
// for. ErrAuth where it is that of another name.
func (v *Volume) OpenXattr(owner [16]byte, name string, sealed []byte) ([]byte, error) {
	inside, value, err := v.openXattr(owner, sealed)
	if err != nil {
		return nil, err
	}
	if inside != name {
		return nil, fmt.Errorf("xattr of another name: %w", ErrAuth)
	}
	return value, nil
}

// OpenXattrName verifies the attribute of an owner that was found under an
// XattrName, and returns its name. ErrAuth where it is that of another name.
func (v *Volume) OpenXattrName(owner [16]byte, found string, sealed []byte) (string, error) {
	inside, _, err := v.openXattr(owner, sealed)
	if err != nil {
		return "", err
	}
	if v.XattrName(owner, inside) != found {
		return "", fmt.Errorf("xattr of another name: %w", ErrAuth)
	}
	return inside, nil
}

func (v *Volume) openXattr(owner [16]byte, sealed []byte) (name string, value []byte, err error) {
	plain, err := v.OpenBlob(BlobXattr, owner, sealed)
	if err != nil {
		return "", nil, err
	}
	if len(plain) < 2 || len(plain)-2 < int(binary.BigEndian.Uint16(plain)) {
		return "", nil, fmt.Errorf("xattr is cut: %w", ErrAuth)
	}
	end := 2 + int(binary.BigEndian.Uint16(plain))
	return string(plain[2:end]), plain[end:], nil
}
