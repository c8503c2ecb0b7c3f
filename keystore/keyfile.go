package keystore

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// A key file is one line of text, fit to be printed and typed in again (FORMAT.md §4).
const (
	keyFileMagic   = "plyfs-key "
	keyFileVersion = "1"
	keyFileMax     = 256 // bytes
)

// encodeKeyFile returns the line. The caller wipes it.
func encodeKeyFile(l cipher.Layer, key *secret) []byte {
	b := make([]byte, 0, keyFileMax)
	b = append(b, keyFileMagic...)
	b = append(b, keyFileVersion...)
	b = append(b, ' ')
	b = append(b, l.String()...)
	b = append(b, ' ')
	b = hex.AppendEncode(b, key.b[:])
	sum := sha256.Sum256(b)
	b = append(b, ' ')
	b = hex.AppendEncode(b, sum[:4])
	return append(b, '\n')
}

// decodeKeyFile parses the line strictly; a missing line end is allowed. The caller wipes b.
func decodeKeyFile(b []byte, want cipher.Layer) (*secret, error) {
	if len(b) < len(keyFileMagic) && bytes.HasPrefix([]byte(keyFileMagic), b) {
		return nil, ErrTruncated
	}
	rest, ok := bytes.CutPrefix(b, []byte(keyFileMagic))
	if !ok {
		return nil, ErrTampered
	}
	version, rest, more := bytes.Cut(rest, []byte{' '})
	if string(version) != keyFileVersion {
		if _, err := strconv.ParseUint(string(version), 10, 16); err == nil {
			return nil, ErrVersion
		}
		if len(version) == 0 && !more {
			return nil, ErrTruncated
		}
		return nil, ErrTampered
	}
	name, rest, more := bytes.Cut(rest, []byte{' '})
	if !more && (bytes.HasPrefix([]byte(cipher.LayerData.String()), name) || bytes.HasPrefix([]byte(cipher.LayerInfra.String()), name)) {
		return nil, ErrTruncated
	}
	if string(name) != cipher.LayerData.String() && string(name) != cipher.LayerInfra.String() {
		return nil, ErrTampered
	}
	rest = bytes.TrimSuffix(rest, []byte{'\n'})
	if l := 2*keySize + 1 + 8; len(rest) < l {
		return nil, ErrTruncated
	} else if len(rest) > l {
		return nil, ErrTampered
	}
	key := &secret{}
	if _, err := hex.Decode(key.b[:], rest[:2*keySize]); err != nil {
		return nil, ErrTampered
	}
	for _, l := range []cipher.Layer{cipher.LayerData, cipher.LayerInfra} {
		again := encodeKeyFile(l, key)
		same := bytes.Equal(bytes.TrimSuffix(again, []byte{'\n'}), bytes.TrimSuffix(b, []byte{'\n'}))
		wipe(again)
		if same && l == want {
			return key, nil
		}
		if same {
			key.wipe()
			return nil, &fault{what: fmt.Sprintf("it holds the key of the %s layer, not of the %s layer", name, want), kind: ErrWrongKey}
		}
	}
	key.wipe()
	return nil, ErrTampered
}

// readKeyFile reads a key file that is the caller's or root's alone.
func readKeyFile(path string, l cipher.Layer) (*secret, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &fault{what: "key file " + path + " of the " + l.String() + " layer", kind: ErrMissing, cause: fs.ErrNotExist,
			hint: "Restore the key file from its backup; it lies beside its key store."}
	}
	if err != nil {
		return nil, fmt.Errorf("key file of the %s layer: %w", l, err)
	}
	defer f.Close()
	if err := checkOwner(f); err != nil {
		return nil, err
	}
	b, err := readLimited(f, keyFileMax)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	defer wipe(b)
	key, err := decodeKeyFile(b, l)
	if err != nil {
		return nil, keyFileError(path, l, err)
	}
	return key, nil
}

func keyFileError(path string, l cipher.Layer, err error) error {
	what := fmt.Sprintf("key file %s of the %s layer", path, l)
	if errors.Is(err, ErrWrongKey) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return &fault{what: what, kind: err}
}

// checkOwner returns ErrPermissions unless f is closed to all but its owner, who is root or the caller.
func checkOwner(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return &fault{what: "key file " + f.Name() + " is not a regular file", kind: ErrTampered}
	}
	if mode := st.Mode & 0o7777; mode&0o077 != 0 {
		return &fault{what: fmt.Sprintf("key file %s has mode %04o and can be reached by others", f.Name(), mode), kind: ErrPermissions,
			hint: "Run: chmod 0600 " + f.Name() + " (and think about who may have read it)."}
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return &fault{what: fmt.Sprintf("key file %s belongs to user %d", f.Name(), st.Uid), kind: ErrPermissions,
			hint: "Run: chown root: " + f.Name() + " (root, or the user who runs plyfs, must own it)."}
	}
	return nil
}

// createKeyFile writes a new key file: ErrExists when there is one.
func createKeyFile(path string, l cipher.Layer, key *secret) error {
	d, err := openFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.close()
	b := encodeKeyFile(l, key)
	defer wipe(b)
	return d.create(filepath.Base(path), b)
}
