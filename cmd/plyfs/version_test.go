package main

import (
	"encoding/json"
	"runtime"
	"testing"
)

func TestVersion(t *testing.T) {
	r := inProcess(nil, "version")
	wantText(t, "version", r.stdout, "plyfs ", runtime.Version(), "volume format 1\n")
	if flag := inProcess(nil, "--version"); flag != r {
		t.Errorf("plyfs --version says %v, plyfs version %v", flag, r)
	}
	var v versionInfo
	if err := json.Unmarshal([]byte(inProcess(nil, "version", "--json").stdout), &v); err != nil {
		t.Fatal(err)
	}
	if v.Version == "" || v.Go != runtime.Version() || v.Platform != runtime.GOOS+"/"+runtime.GOARCH || v.Format != 1 {
		t.Errorf("got %+v", v)
	}
}
