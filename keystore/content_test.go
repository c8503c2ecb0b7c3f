package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

func rootRecord(epoch uint32) []byte {
	return appendRecord(nil, recordRoot, be32(epoch), make([]byte, keySize))
}

func clusterRecord(name string) []byte {
	return appendRecord(nil, recordCluster, be32(1), lp8(name))
}

func groupRecord(cluster, name string) []byte {
	return appendRecord(nil, recordGroup, be32(1), lp8(cluster), lp8(name))
}

func keyRecord(cluster, group string, er, ec, eg uint32) []byte {
	return appendRecord(nil, recordKey, be32(eg), lp8(cluster), lp8(group), be32(er), be32(ec), make([]byte, keySize))
}

func retiredRecord(cluster, group string, epoch uint32) []byte {
	return appendRecord(nil, recordRetired, be32(epoch), lp8(cluster), lp8(group))
}

func TestContentParser(t *testing.T) {
	errAny := errors.New("any")
	tests := []struct {
		name    string
		records [][]byte
		want    error
	}{
		{"root alone", [][]byte{rootRecord(1)}, nil},
		{"everything", [][]byte{rootRecord(1), rootRecord(7), clusterRecord("a"), clusterRecord("b"), groupRecord("a", "x"), groupRecord("a", "y"), groupRecord("b", "x")}, nil},
		{"empty", nil, errAny},
		{"no root", [][]byte{clusterRecord("a")}, errAny},
		{"root epoch 0", [][]byte{rootRecord(0)}, errAny},
		{"root twice", [][]byte{rootRecord(1), rootRecord(1)}, errAny},
		{"roots out of order", [][]byte{rootRecord(2), rootRecord(1)}, errAny},
		{"short root", [][]byte{appendRecord(nil, recordRoot, be32(1), make([]byte, 31))}, errAny},
		{"long root", [][]byte{appendRecord(nil, recordRoot, be32(1), make([]byte, 33))}, errAny},
		{"cluster twice", [][]byte{rootRecord(1), clusterRecord("a"), clusterRecord("a")}, errAny},
		{"clusters out of order", [][]byte{rootRecord(1), clusterRecord("b"), clusterRecord("a")}, errAny},
		{"cluster before root", [][]byte{clusterRecord("a"), rootRecord(1)}, errAny},
		{"bad cluster name", [][]byte{rootRecord(1), clusterRecord("A")}, errAny},
		{"empty cluster name", [][]byte{rootRecord(1), clusterRecord("")}, errAny},
		{"bytes after a cluster", [][]byte{rootRecord(1), appendRecord(nil, recordCluster, be32(1), lp8("a"), []byte{0})}, errAny},
		{"group of no cluster", [][]byte{rootRecord(1), clusterRecord("a"), groupRecord("b", "x")}, errAny},
		{"group twice", [][]byte{rootRecord(1), clusterRecord("a"), groupRecord("a", "x"), groupRecord("a", "x")}, errAny},
		{"groups out of order", [][]byte{rootRecord(1), clusterRecord("a"), clusterRecord("b"), groupRecord("b", "x"), groupRecord("a", "x")}, errAny},
		{"group before cluster", [][]byte{rootRecord(1), groupRecord("a", "x"), clusterRecord("a")}, errAny},
		{"group without a name", [][]byte{rootRecord(1), clusterRecord("a"), appendRecord(nil, recordGroup, be32(1), lp8("a"))}, errAny},
		{"bytes after a group", [][]byte{rootRecord(1), clusterRecord("a"), append(groupRecord("a", "x"), 0)}, errAny},
		{"kind 0", [][]byte{appendRecord(nil, 0, be32(1))}, errRecordKind},
		{"kind of a later version", [][]byte{rootRecord(1), appendRecord(nil, 6, be32(1))}, errRecordKind},
		{"group keys", [][]byte{keyRecord("a", "x", 1, 1, 1), keyRecord("a", "x", 1, 1, 2), keyRecord("a", "x", 1, 2, 1), keyRecord("a", "x", 2, 1, 1), keyRecord("a", "y", 1, 1, 1), keyRecord("b", "x", 1, 1, 1)}, nil},
		{"group keys with retirements", [][]byte{keyRecord("a", "x", 2, 3, 4), retiredRecord("", "", 1), retiredRecord("a", "", 2), retiredRecord("a", "x", 3)}, nil},
		{"group key beside a root", [][]byte{rootRecord(1), keyRecord("a", "x", 1, 1, 1)}, errAny},
		{"group key beside a cluster", [][]byte{clusterRecord("a"), keyRecord("a", "x", 1, 1, 1)}, errAny},
		{"group key twice", [][]byte{keyRecord("a", "x", 1, 1, 1), keyRecord("a", "x", 1, 1, 1)}, errAny},
		{"group keys out of order", [][]byte{keyRecord("a", "x", 1, 1, 2), keyRecord("a", "x", 1, 1, 1)}, errAny},
		{"group keys with roots out of order", [][]byte{keyRecord("a", "x", 2, 1, 1), keyRecord("a", "x", 1, 1, 2)}, errAny},
		{"group key of root epoch 0", [][]byte{keyRecord("a", "x", 0, 1, 1)}, errAny},
		{"group key of cluster epoch 0", [][]byte{keyRecord("a", "x", 1, 0, 1)}, errAny},
		{"group key of group epoch 0", [][]byte{keyRecord("a", "x", 1, 1, 0)}, errAny},
		{"group key of no group", [][]byte{keyRecord("a", "", 1, 1, 1)}, errAny},
		{"short group key", [][]byte{appendRecord(nil, recordKey, be32(1), lp8("a"), lp8("x"), be32(1), be32(1), make([]byte, 31))}, errAny},
		{"long group key", [][]byte{appendRecord(nil, recordKey, be32(1), lp8("a"), lp8("x"), be32(1), be32(1), make([]byte, 33))}, errAny},
		{"retirement alone", [][]byte{retiredRecord("", "", 1)}, errAny},
		{"retirements", [][]byte{rootRecord(1), rootRecord(2), clusterRecord("a"), groupRecord("a", "x"), retiredRecord("", "", 1), retiredRecord("a", "", 1), retiredRecord("a", "x", forGood)}, nil},
		{"newest root retired", [][]byte{rootRecord(1), rootRecord(2), retiredRecord("", "", 2)}, errAny},
		{"epoch to come retired", [][]byte{rootRecord(1), clusterRecord("a"), retiredRecord("a", "", 2)}, errAny},
		{"retirement of no cluster", [][]byte{rootRecord(1), retiredRecord("a", "", 1)}, errAny},
		{"retirement of no group", [][]byte{rootRecord(1), clusterRecord("a"), retiredRecord("a", "x", 1)}, errAny},
		{"retirement of a group alone", [][]byte{keyRecord("a", "x", 1, 1, 1), retiredRecord("", "x", 1)}, errAny},
		{"retirement twice", [][]byte{rootRecord(1), clusterRecord("a"), retiredRecord("a", "", 1), retiredRecord("a", "", 1)}, errAny},
		{"retirement of epoch 0", [][]byte{rootRecord(1), clusterRecord("a"), retiredRecord("a", "", 0)}, errAny},
		{"bytes after a retirement", [][]byte{rootRecord(1), clusterRecord("a"), append(retiredRecord("a", "", 1), 0)}, errAny},
		{"bad name retired", [][]byte{keyRecord("a", "x", 1, 1, 1), retiredRecord("A", "", 1)}, errAny},
		{"record without an epoch", [][]byte{appendRecord(nil, recordRoot, []byte{0, 0, 1})}, errAny},
	}
	for _, tt := range tests {
		b := bytes.Join(tt.records, nil)
		c, err := decodeContent(b)
		switch {
		case tt.want == nil && err != nil:
			t.Errorf("%s: got error %v", tt.name, err)
		case tt.want == nil:
			if got := c.encode(); !bytes.Equal(got, b) {
				t.Errorf("%s: encodes as %x, want %x", tt.name, got, b)
			}
			for n := range b {
				if c, err := decodeContent(b[:n]); err == nil && !bytes.Equal(c.encode(), b[:n]) {
					t.Errorf("%s: cut to %d bytes it parses as something else", tt.name, n)
				}
			}
		case err == nil || tt.want != errAny && !errors.Is(err, tt.want):
			t.Errorf("%s: got error %v", tt.name, err)
		}
	}
}

func TestContentLimits(t *testing.T) {
	c := &content{roots: []root{{epoch: 1, key: &secret{}}}}
	for i := range maxClusters {
		if err := c.addCluster(fmt.Sprintf("cluster-%054d", i)); err != nil {
			t.Fatal(err)
		}
	}
	check(t, "one cluster too many", c.addCluster("a"), ErrUsage)
	for i := range maxGroups {
		if err := c.addGroup(Names{c.clusters[i%5].name, fmt.Sprintf("group-%057d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	check(t, "one group too many", c.addGroup(Names{c.clusters[7].name, "a"}), ErrUsage)
	for i := uint32(2); i <= maxRoots; i++ {
		c.roots = append(c.roots, root{epoch: i, key: &secret{}})
	}
	b, err := sealStore(storeHeader{layer: 2, protection: ByKeyFile, generation: 1}, &secret{}, c, constReader(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := openBytes(b, &secret{}); err != nil {
		t.Errorf("a full store of %d bytes: %v", len(b), err)
	}
	plain := c.encode()
	if _, err := decodeContent(append(rootRecord(1), plain...)); err == nil {
		t.Error("a root too many parses")
	}
	if _, err := decodeContent(append(plain, groupRecord(c.clusters[maxClusters-1].name, "z")...)); err == nil {
		t.Error("a group too many parses")
	}
	hint := Hint(c.unknownCluster("x"))
	if len(hint) > 2500 || !bytes.Contains([]byte(hint), []byte("and 1004 more")) {
		t.Errorf("hint of %d bytes: %s", len(hint), hint)
	}
}

func TestKeyFile(t *testing.T) {
	key := &secret{b: [32]byte{1, 2, 3}}
	for _, l := range bothLayers {
		line := encodeKeyFile(l, key)
		for _, b := range [][]byte{line, bytes.TrimSuffix(line, []byte("\n"))} {
			got, err := decodeKeyFile(b, l)
			if err != nil || got.b != key.b {
				t.Errorf("%q: got error %v", b, err)
			}
		}
		for bit := range 8 * len(line) {
			b := bytes.Clone(line)
			b[bit/8] ^= 1 << (bit % 8)
			_, err := decodeKeyFile(b, l)
			if !errors.Is(err, ErrTampered) && !(errors.Is(err, ErrVersion) && bit/8 == len(keyFileMagic)) {
				t.Errorf("bit %d of %q: got error %v", bit, line, err)
			}
		}
		for n := range len(line) - 1 {
			if _, err := decodeKeyFile(line[:n], l); !errors.Is(err, ErrTruncated) {
				t.Errorf("cut to %d bytes: got error %v", n, err)
			}
		}
		for _, s := range []string{string(line) + "\n", string(line) + "x", " " + string(line), string(bytes.ToUpper(line))} {
			if _, err := decodeKeyFile([]byte(s), l); !errors.Is(err, ErrTampered) {
				t.Errorf("%q: got error %v", s, err)
			}
		}
	}
}
