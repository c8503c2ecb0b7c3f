package cipher_test

import (
	"testing"

	"golang.org/x/crypto/blake2b"
)

// Values of another implementation (Python's hashlib), for the key and digest
// lengths that layer 2 uses. There are no public vectors for these lengths.
func TestBLAKE2bAgreesWithAnotherImplementation(t *testing.T) {
	for _, c := range []struct {
		digest, length int
		want           string
	}{
		{16, 0, "3daf97bce7888fd59773c66bf647459c"},
		{16, 129, "aab5517a7ade99ce990a81aa3d3ea27d"},
		{32, 3, "e14fc9161564dd081204f2dd6146a9ffbef66f95d5dc80e0a225e213c09dad7b"},
		{32, 300, "89870f2a4f222ac9406bbfd9b1d8da5a614ae381882d590b9d0bb33de8642c02"},
	} {
		h, err := blake2b.New(c.digest, count(0, 32))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time after a Reset, which keeps the key
			h.Reset()
			h.Write(pattern(c.length))
			if got, err := hexBytes(h.Sum(nil)).MarshalText(); err != nil || string(got) != c.want {
				t.Errorf("digest of %d over %d bytes: %s, want %s", c.digest, c.length, got, c.want)
			}
		}
	}
}
