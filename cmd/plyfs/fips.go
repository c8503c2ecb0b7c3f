package main

import (
	"crypto/fips140"
	"fmt"
	"runtime/debug"
)

// fipsInfo says what of the cryptography runs in the Go Cryptographic Module, in
// FIPS 140-3 mode, and what does not. It claims nothing of a build that is not
// against a frozen module or whose mode is off.
type fipsInfo struct {
	Module  string   `json:"module"`  // version, or latest: the one of this Go, not frozen
	Build   string   `json:"build"`   // as GOFIPS140 said, with the module's hash; or empty
	Enabled bool     `json:"enabled"` // the mode
	Inside  []string `json:"inside"`  // empty unless frozen and enabled
	Outside []string `json:"outside"` // never inside
}

// moduleParts are what runs in the module, when it is enabled: all of layer 1,
// in files and in the wrapping of its keys.
var moduleParts = []string{
	"layer 1: AES-256-GCM with random nonces, AES-256-CTR, HMAC-SHA-256, HKDF-SHA-256",
	"random numbers",
}

// otherParts are not in any module.
var otherParts = []string{
	"layer 2: XChaCha20-Poly1305, XChaCha20, keyed BLAKE2b",
	"passphrases: Argon2id",
	"key providers, which are programs of their own",
}

func fipsOf() fipsInfo {
	f := fipsInfo{Module: fips140.Version(), Enabled: fips140.Enabled(), Inside: []string{}, Outside: otherParts}
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "GOFIPS140" {
				f.Build = s.Value
			}
		}
	}
	if f.Enabled && f.Module != "latest" {
		f.Inside = moduleParts
	}
	return f
}

// text is one line about it.
func (f *fipsInfo) text() string {
	switch {
	case len(f.Inside) > 0:
		return fmt.Sprintf("layer 1 and random numbers run in the Go Cryptographic Module %s in FIPS 140-3 mode; layer 2 and Argon2id do not", f.Module)
	case f.Enabled:
		return "FIPS 140-3 mode is on, but this build is not against a frozen module (plyfs-fips is): nothing is claimed"
	case f.Module != "latest":
		return fmt.Sprintf("built with the Go Cryptographic Module %s, but FIPS 140-3 mode is off: nothing is claimed", f.Module)
	}
	return "not a FIPS build (plyfs-fips is one)"
}
