package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// service is the key of a cluster and group in a token. The token is opened when it is used.
type service struct {
	*settings
	names protocol.Names
}

func open(_ context.Context, raw json.RawMessage, n protocol.Names) (protocol.Service, error) {
	s, err := parseSettings(raw, n)
	if err != nil {
		return nil, err
	}
	return &service{settings: s, names: n}, nil
}

func (s *service) Close() {}

func (s *service) Describe() protocol.Description {
	return protocol.Description{Program: "plyfs-key-pkcs11 " + version, Service: "PKCS#11 module " + s.Module, Key: s.Key + " in token " + s.Token}
}

// formatVersion is the first byte of a wrapped secret.
const formatVersion = 1

// aad binds a wrapped secret to its cluster and group.
func (s *service) aad() []byte {
	return []byte("plyfs-key-pkcs11/1|" + s.names.Cluster + "|" + s.names.Group)
}

func (s *service) Wrap(_ context.Context, secret []byte) ([]byte, error) {
	t, err := openToken(s.settings, false)
	if err != nil {
		return nil, err
	}
	defer t.close()
	key, err := t.findKey()
	if err != nil {
		return nil, err
	}
	iv, sealed, err := t.encrypt(key, s.aad(), secret)
	if err != nil {
		return nil, err
	}
	wrapped := append([]byte{formatVersion, byte(len(iv))}, iv...)
	return append(wrapped, sealed...), nil
}

func (s *service) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	if len(wrapped) < 2 || wrapped[0] != formatVersion {
		return nil, protocol.Invalid("these bytes were not wrapped by this program")
	}
	n := int(wrapped[1])
	if n == 0 || n > maxIV || len(wrapped) < 2+n+tagBits/8 {
		return nil, protocol.Invalid("these bytes were not wrapped by this program")
	}
	iv, sealed := wrapped[2:2+n], wrapped[2+n:]
	t, err := openToken(s.settings, false)
	if err != nil {
		return nil, err
	}
	defer t.close()
	key, err := t.findKey()
	if err != nil {
		return nil, err
	}
	secret, err := t.decrypt(key, iv, s.aad(), sealed)
	var known *protocol.Failure
	if err == nil || errors.As(err, &known) {
		return secret, err
	}
	// Some modules say of changed bytes what they say of a broken token. If the key opens what it has just made, the
	// token works, and it was the bytes.
	probe := []byte("is this token well?")
	iv, sealed, probeErr := t.encrypt(key, s.aad(), probe)
	if probeErr != nil {
		return nil, err
	}
	if got, probeErr := t.decrypt(key, iv, s.aad(), sealed); probeErr != nil || !bytes.Equal(got, probe) {
		return nil, err
	}
	return nil, protocol.Invalid("%v", err)
}
