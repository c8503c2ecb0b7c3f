package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseMounts(t *testing.T) {
	text := `23 28 0:21 / /proc rw,nosuid shared:12 - proc proc rw
88 28 0:50 / /var/lib/my\040sql rw,nosuid,nodev,relatime shared:30 master:1 - fuse.plyfs /srv/a\134b rw,user_id=0
89 88 0:51 / /mnt rw - tmpfs tmpfs rw
90 89 0:50 / /mnt ro,nosuid - fuse.plyfs /srv/x rw
not a line
91 28 0:52 / /odd rw -
`
	got := parseMounts(text)
	if len(got) != 4 {
		t.Fatalf("%d mounts, want 4: %+v", len(got), got)
	}
	want := mountEntry{Device: "0:50", Target: "/var/lib/my sql", Options: "rw,nosuid,nodev,relatime,user_id=0", Type: "fuse.plyfs", Source: `/srv/a\b`}
	if got[1] != want {
		t.Errorf("got  %+v\nwant %+v", got[1], want)
	}
	if m, ok := mountedAt(got, "/mnt"); !ok || m.Type != "fuse.plyfs" {
		t.Errorf("at /mnt is %+v, want the mount on top", m)
	}
	if _, ok := mountedAt(got, "/nowhere"); ok {
		t.Error("something is mounted nowhere")
	}
	if v := volumeMounts(got); !reflect.DeepEqual(v, []mountEntry{got[1], got[3]}) {
		t.Errorf("volumes: %+v", v)
	}
	if _, err := readMounts(); err != nil {
		t.Error(err)
	}
}

// FuzzParseMounts: what the kernel would write of a mountpoint is read back.
func FuzzParseMounts(f *testing.F) {
	f.Add("/a b", "/s", "88 28 0:50 / /m rw - fuse.plyfs /s rw\n")
	f.Add("/a\\040\t", `/\`, " - \\")
	f.Fuzz(func(t *testing.T, target, source, other string) {
		target = "/" + target // as every mountpoint
		escape := strings.NewReplacer("\\", `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`, "#", `\043`)
		line := "88 28 0:50 / " + escape.Replace(target) + " rw - fuse.plyfs " + escape.Replace(source) + " rw\n"
		got := parseMounts(strings.ReplaceAll(other, "\n", "") + "\n" + line)
		if m := got[len(got)-1]; m.Target != target || m.Source != source {
			t.Fatalf("read %+v of %q", m, line)
		}
	})
}
