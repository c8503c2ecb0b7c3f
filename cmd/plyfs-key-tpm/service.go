package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// settings are those of a provider's file.
type settings struct {
	Device string `json:"device"` // /dev/tpmrm0; a socket is that of an emulator
	PCRs   []uint `json:"pcrs"`   // of the SHA-256 bank; none: the machine alone counts
}

const defaultDevice = "/dev/tpmrm0"

// maxPCR is the highest number of a PCR.
const maxPCR = 23

// service seals for a cluster and group. The TPM is opened when it is used.
type service struct {
	settings
	names protocol.Names
}

func open(_ context.Context, raw json.RawMessage, n protocol.Names) (protocol.Service, error) {
	s := &service{settings: settings{Device: defaultDevice}, names: n}
	if err := protocol.Settings(raw, &s.settings); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(s.Device) {
		return nil, protocol.Usage("settings: device is not an absolute path")
	}
	slices.Sort(s.PCRs)
	for i, p := range s.PCRs {
		if p > maxPCR || i > 0 && p == s.PCRs[i-1] {
			return nil, protocol.Usage("settings: pcrs are different numbers from 0 to %d", maxPCR)
		}
	}
	return s, nil
}

func (s *service) Close() {}

func (s *service) Describe() protocol.Description {
	key := "storage root key"
	if len(s.PCRs) > 0 {
		key = fmt.Sprintf("storage root key, PCRs %v", s.PCRs)
	}
	return protocol.Description{Program: "plyfs-key-tpm " + version, Service: "TPM " + s.Device, Key: key}
}

// namesHash is what is sealed behind the secret.
func (s *service) namesHash() []byte {
	sum := sha256.Sum256([]byte("plyfs-key-tpm/1|" + s.names.Cluster + "|" + s.names.Group))
	return sum[:]
}

const (
	formatVersion = 1
	selectionSize = 3
	// maxSecret is what a TPM seals at most, 128 bytes, less the hash of the names.
	maxSecret = 128 - sha256.Size
)

func (s *service) Wrap(_ context.Context, secret []byte) ([]byte, error) {
	if len(secret) > maxSecret {
		return nil, protocol.Usage("a secret of %d bytes; a TPM seals %d", len(secret), maxSecret)
	}
	t, err := openTPM(s.Device)
	if err != nil {
		return nil, err
	}
	defer t.close()
	data := append(append(make([]byte, 0, maxSecret+sha256.Size), secret...), s.namesHash()...)
	defer clear(data)
	selection := tpm2.PCClientCompatible.PCRs(s.PCRs...)
	public, private, err := t.seal(data, selection)
	if err != nil {
		return nil, err
	}
	wrapped := append([]byte{formatVersion}, selection...)
	for _, part := range [][]byte{public, private} {
		wrapped = binary.BigEndian.AppendUint16(wrapped, uint16(len(part)))
		wrapped = append(wrapped, part...)
	}
	return wrapped, nil
}

func (s *service) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	selection, public, private, ok := split(wrapped)
	if !ok {
		return nil, protocol.Invalid("these bytes were not wrapped by this program")
	}
	t, err := openTPM(s.Device)
	if err != nil {
		return nil, err
	}
	defer t.close()
	data, err := t.unseal(public, private, selection)
	if err != nil {
		return nil, err
	}
	n := len(data) - sha256.Size
	if n < 1 || subtle.ConstantTimeCompare(data[n:], s.namesHash()) != 1 {
		clear(data)
		return nil, protocol.Invalid("these bytes were wrapped for another cluster or group")
	}
	return data[:n], nil
}

// split takes a wrapped secret apart.
func split(wrapped []byte) (selection, public, private []byte, ok bool) {
	if len(wrapped) < 1+selectionSize || wrapped[0] != formatVersion {
		return nil, nil, nil, false
	}
	selection, rest := wrapped[1:1+selectionSize], wrapped[1+selectionSize:]
	if public, rest, ok = part(rest); !ok {
		return nil, nil, nil, false
	}
	if private, rest, ok = part(rest); !ok || len(rest) > 0 {
		return nil, nil, nil, false
	}
	return selection, public, private, true
}

// part cuts off a byte string with its length before it.
func part(b []byte) (p, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; n == 0 || n > len(b) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}
