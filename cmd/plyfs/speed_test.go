package main

import (
	"encoding/json"
	"testing"
)

func TestSpeed(t *testing.T) {
	r := inProcess(nil, "speed", "--time", "1ms", "--block-size", "4096", "--json")
	var rows []speedRow
	if err := json.Unmarshal([]byte(r.stdout), &rows); err != nil {
		t.Fatalf("%v\n%v", err, r)
	}
	seen := map[string]bool{}
	for _, row := range rows {
		if row.Seal <= 0 || row.Open <= 0 || row.BlockSize != 4096 || row.Threads < 1 {
			t.Errorf("%+v", row)
		}
		seen[row.What] = true
	}
	for _, what := range []string{"layer1", "layer2", "suite0", "suite1"} {
		if !seen[what] {
			t.Errorf("%s was not measured", what)
		}
	}
	wantText(t, "speed", inProcess(nil, "speed", "--time", "1ms").stdout, "blocks of 65536 bytes, one thread", "layer 2, XChaCha20-Poly1305", "GB/s")
}
