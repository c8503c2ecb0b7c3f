package keystore

import (
	"bytes"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// known reports whether an error is one of those that a parser may give.
func known(t *testing.T, err error) {
	t.Helper()
	if Hint(err) == "" {
		t.Errorf("error without a sentinel: %v", err)
	}
}

func FuzzStore(f *testing.F) {
	for _, name := range []string{"data", "infra", "data-passphrase", "infra-passphrase"} {
		f.Add(readFile(f, "testdata/v1/"+name+".store"), false)
		f.Add(readFile(f, "testdata/v1/"+name+".store"), true)
	}
	for _, name := range []string{"data-host", "infra-host"} {
		f.Add(readFile(f, "testdata/v1/"+name+".store"), true)
	}
	f.Add([]byte(storeMagic), false)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		if fix && len(b) >= storeHeaderSize {
			fixStoreChecksum(b)
		}
		h, err := parseStore(b)
		if err != nil {
			known(t, err)
			return
		}
		if again := h.encode(len(b)); !bytes.Equal(again[:offCommitment], b[:offCommitment]) {
			t.Errorf("header encodes as\n%x, want\n%x", again[:offCommitment], b[:offCommitment])
		}
		if _, err := openStoreContent(h, b, &secret{}); err == nil {
			t.Error("opens with a zero key")
		} else {
			known(t, err)
		}
	})
}

func FuzzContent(f *testing.F) {
	f.Add(rootRecord(1))
	f.Add(bytes.Join([][]byte{rootRecord(1), rootRecord(2), clusterRecord("a"), clusterRecord("b-1"), groupRecord("a", "x"), groupRecord("b-1", "y")}, nil))
	f.Add(bytes.Join([][]byte{keyRecord("a", "x", 1, 1, 1), keyRecord("a", "x", 1, 2, 1), retiredRecord("", "", 1), retiredRecord("a", "x", forGood)}, nil))
	f.Add(bytes.Join([][]byte{rootRecord(1), clusterRecord("a"), groupRecord("a", "x"), retiredRecord("a", "", 1), retiredRecord("a", "x", 1)}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeContent(b)
		if err != nil {
			return
		}
		if got := c.encode(); !bytes.Equal(got, b) {
			t.Errorf("encodes as\n%x, want\n%x", got, b)
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	f.Add(readFile(f, "testdata/v1/data.key"), true)
	f.Add(readFile(f, "testdata/v1/infra.key"), false)
	f.Fuzz(func(t *testing.T, b []byte, data bool) {
		l := cipher.LayerInfra
		if data {
			l = cipher.LayerData
		}
		before := bytes.Clone(b)
		key, err := decodeKeyFile(b, l)
		if !bytes.Equal(b, before) {
			t.Error("input was changed")
		}
		if err != nil {
			known(t, err)
			return
		}
		if got := encodeKeyFile(l, key); !bytes.Equal(bytes.TrimSuffix(got, []byte("\n")), bytes.TrimSuffix(b, []byte("\n"))) {
			t.Errorf("encodes as %q, want %q", got, b)
		}
	})
}

func FuzzDescriptor(f *testing.F) {
	f.Add(encodeDescriptor(testParams(1)))
	p := testParams(2)
	p.VolumeID[0] = 1
	f.Add(encodeDescriptor(p))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodeDescriptor(b)
		if err != nil {
			known(t, err)
			return
		}
		if got := encodeDescriptor(p); !bytes.Equal(got, b) {
			t.Errorf("encodes as\n%x, want\n%x", got, b)
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add(readFile(f, "testdata/v1/single.json"))
	f.Add(readFile(f, "testdata/v1/double.json"))
	f.Add(readFile(f, "testdata/v1/slots.json"))
	f.Add([]byte(`{"plyfs":"volume","version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			known(t, err)
			return
		}
		e := envelope{Magic: envelopeMagic, Version: envelopeVersion, Descriptor: encodeDescriptor(c.Params())}
		e.Data, e.Infra = c.files[0].sections[0].json(), c.files[0].sections[1].json()
		if got, err := e.render(); err != nil || !bytes.Equal(got, b) {
			t.Errorf("renders as\n%s, error %v, want\n%s", got, err, b)
		}
		for _, l := range c.Layers() {
			for _, s := range c.Slots(l) {
				if (s.Names.Validate() != nil) != (s.Kind == KindRecovery) || c.Generation(l) == 0 {
					t.Errorf("slot %v", s)
				}
			}
		}
	})
}

func FuzzPins(f *testing.F) {
	f.Add([]byte("{\n  \"plyfs\": \"hosts\",\n  \"version\": 1,\n  \"volumes\": []\n}\n"))
	one := &pinFile{}
	one.set(cipher.VolumeID{1}, Pin{Data: 1, Infra: 2, Journal: 3})
	one.set(cipher.VolumeID{}, Pin{Data: 7})
	b, err := one.render()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePins(b)
		if err != nil {
			known(t, err)
			return
		}
		if got, err := p.render(); err != nil || !bytes.Equal(got, b) {
			t.Errorf("renders as\n%s, error %v, want\n%s", got, err, b)
		}
	})
}
