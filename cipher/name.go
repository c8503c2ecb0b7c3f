package cipher

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
)

const (
	sivSize       = 16 // synthetic IV of each layer
	xattrNameSize = 32
	maxName       = 255

	// MaxDirectName is the length of the longest plaintext name whose sealed
	// form is at most 255 bytes in a double-layer volume. It is the limit for
	// single-layer volumes as well.
	MaxDirectName = 159

	longPrefix = "plyfs.long."
)

// LongNameSuffix, after a LongName, names the sidecar that holds the sealed
// name.
const LongNameSuffix = ".name"

var nameEncoding = base64.RawURLEncoding.Strict()

// errName is of what no layer has sealed; errNameOf says which one has not.
var (
	errName   = fmt.Errorf("name: %w", ErrAuth)
	errNameOf = [2]error{fmt.Errorf("name: %w", errLayer1), fmt.Errorf("name: %w", errLayer2)}
)

// SealName returns the sealed form of a name in a directory: base64url without
// padding, the same each time. Where name is longer than MaxDirectName it can
// exceed 255 bytes; see LongName. name is 1 to 255 bytes, neither "." nor ".."
// and without "/" and NUL; for others OpenName will refuse the result.
func (v *Volume) SealName(dir DirID, name string) string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	k := v.small
	if k == nil {
		return ""
	}
	m := k.nameMACs.get()
	defer k.nameMACs.put(m)
	text := []byte(name)
	for i := range int(v.params.Layers) {
		out := make([]byte, sivSize+len(text))
		copy(out, m.layer(i, typeName, dir, uint64(len(text)), text))
		if err := v.plies[i].stream(k.nameStream[i][:], out[:sivSize], out[sivSize:], text); err != nil {
			panic("cipher: name: " + err.Error()) // key and IV lengths are constants
		}
		text = out
	}
	return nameEncoding.EncodeToString(text)
}

// OpenName verifies and opens a sealed name of a directory. It returns ErrAuth
// for whatever SealName does not return for a valid name in this directory; for
// what could be one and was not sealed by a layer, LayersOf tells which.
func (v *Volume) OpenName(dir DirID, sealed string) (string, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	k := v.small
	if k == nil {
		return "", ErrWiped
	}
	if len(sealed) > nameEncoding.EncodedLen(maxName+int(v.params.Layers)*sivSize) || strings.ContainsAny(sealed, "\r\n") {
		return "", errName // the decoder skips line ends
	}
	text, err := nameEncoding.DecodeString(sealed)
	if err != nil {
		return "", errName
	}
	m := k.nameMACs.get()
	defer k.nameMACs.put(m)
	for i := int(v.params.Layers) - 1; i >= 0; i-- {
		if len(text) <= sivSize {
			return "", errName
		}
		siv := text[:sivSize]
		text = text[sivSize:]
		if err := v.plies[i].stream(k.nameStream[i][:], siv, text, text); err != nil {
			return "", err
		}
		if !v.plies[i].equal(siv, m.layer(i, typeName, dir, uint64(len(text)), text)) {
			return "", errNameOf[i]
		}
	}
	if name := string(text); validName(name) {
		return name, nil
	}
	return "", errName
}

func validName(name string) bool {
	return name != "" && len(name) <= maxName && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// LongName returns the fixed-length name that stands for a sealed name which is
// too long for the backing filesystem. It holds a ".", which no sealed name
// does.
func LongName(sealed string) string {
	sum := sha256.Sum256([]byte(sealed))
	return longPrefix + nameEncoding.EncodeToString(sum[:])
}
