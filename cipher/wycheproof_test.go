package cipher_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"io/fs"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/plyfs/plyfs/cipher"
)

// wycheproofTest has the fields of all test types that are used here.
type wycheproofTest struct {
	ID     int      `json:"tcId"`
	Result string   `json:"result"`
	Key    hexBytes `json:"key"`
	IV     hexBytes `json:"iv"`
	AAD    hexBytes `json:"aad"`
	Msg    hexBytes `json:"msg"`
	CT     hexBytes `json:"ct"`
	Tag    hexBytes `json:"tag"`
	IKM    hexBytes `json:"ikm"`
	Salt   hexBytes `json:"salt"`
	Info   hexBytes `json:"info"`
	Size   int      `json:"size"`
	OKM    hexBytes `json:"okm"`
}

type wycheproofGroup struct {
	IVSize  int              `json:"ivSize"`
	KeySize int              `json:"keySize"`
	TagSize int              `json:"tagSize"`
	Tests   []wycheproofTest `json:"tests"`
}

// eachWycheproof runs the tests of a file that use selects, and fails where
// they are fewer than atLeast.
func eachWycheproof(t *testing.T, name string, atLeast int, use func(wycheproofGroup, wycheproofTest) bool, do func(*testing.T, wycheproofGroup, wycheproofTest)) {
	b, err := fs.ReadFile(wycheproof.TestVectors, name)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []wycheproofGroup `json:"testGroups"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range file.Groups {
		for _, c := range g.Tests {
			if use(g, c) {
				do(t, g, c)
				n++
			}
		}
	}
	if n < atLeast {
		t.Errorf("%s: %d tests were used, want %d or more", name, n, atLeast)
	}
}

func TestWycheproofAESGCM(t *testing.T) {
	use := func(g wycheproofGroup, _ wycheproofTest) bool {
		return g.KeySize == 256 && g.IVSize == 96 && g.TagSize == 128
	}
	eachWycheproof(t, "aes_gcm_test.json", 60, use, func(t *testing.T, _ wycheproofGroup, c wycheproofTest) {
		aead, err := cipher.NewAESGCM(c.Key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := aead.Open(nil, nil, cat(c.IV, c.CT, c.Tag), c.AAD)
		if valid := c.Result == "valid"; (err == nil) != valid || valid && !bytes.Equal(got, c.Msg) {
			t.Errorf("test %d, %s: opens to %x, %v", c.ID, c.Result, got, err)
		}
	})
}

func TestWycheproofXChaCha20Poly1305(t *testing.T) {
	use := func(g wycheproofGroup, _ wycheproofTest) bool { return g.IVSize == 192 }
	eachWycheproof(t, "xchacha20_poly1305_test.json", 250, use, func(t *testing.T, _ wycheproofGroup, c wycheproofTest) {
		aead, err := cipher.NewXChaCha(c.Key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := aead.Open(nil, c.IV, cat(c.CT, c.Tag), c.AAD)
		valid := c.Result == "valid"
		if (err == nil) != valid || valid && !bytes.Equal(got, c.Msg) {
			t.Errorf("test %d, %s: opens to %x, %v", c.ID, c.Result, got, err)
		}
		if got := aead.Seal(nil, c.IV, c.Msg, c.AAD); valid && !bytes.Equal(got, cat(c.CT, c.Tag)) {
			t.Errorf("test %d: seals to %x", c.ID, got)
		}
	})
}

func TestWycheproofHMACSHA256(t *testing.T) {
	use := func(wycheproofGroup, wycheproofTest) bool { return true }
	eachWycheproof(t, "hmac_sha256_test.json", 170, use, func(t *testing.T, g wycheproofGroup, c wycheproofTest) {
		h, err := cipher.NewHMAC(c.Key, 32)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time from the states that it keeps
			h.Reset()
			h.Write(c.Msg)
			if got := h.Sum(nil)[:g.TagSize/8]; bytes.Equal(got, c.Tag) != (c.Result == "valid") {
				t.Errorf("test %d, %s: MAC %x", c.ID, c.Result, got)
			}
		}
	})
}

// The package takes 32 bytes from HKDF-Expand alone, whose output for less is
// the start of its output for more.
func TestWycheproofHKDFSHA256(t *testing.T) {
	use := func(_ wycheproofGroup, c wycheproofTest) bool { return c.Result == "valid" && c.Size >= 32 }
	eachWycheproof(t, "hkdf_sha256_test.json", 50, use, func(t *testing.T, _ wycheproofGroup, c wycheproofTest) {
		prk, err := hkdf.Extract(sha256.New, []byte(c.IKM), c.Salt)
		if err != nil {
			t.Fatal(err)
		}
		if got := cipher.Expand1((*[32]byte)(prk), c.Info); !bytes.Equal(got[:], c.OKM[:32]) {
			t.Errorf("test %d: %x, want %x", c.ID, got, c.OKM[:32])
		}
	})
}
