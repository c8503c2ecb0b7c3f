package keys

import (
	"testing"
)

// The key is put on a volume that is in use, and taken off again.
func TestKeyIsPutOnAndTakenOffALiveVolume(t *testing.T) {
	for _, test := range []struct {
		name  string
		owner func(*testing.T) owner
	}{
		{"AWS KMS", newKMS},
		{"HSM", newHSM},
	} {
		t.Run(test.name, func(t *testing.T) {
			o, h := test.owner(t), newHost(t)
			h.provider(t, o.provider())
			h.run(t, exitOK, "init", "--keystore", h.keystore, "--cluster", "east", "--group", "db", h.volume)
			h.mount(t, exitOK)
			h.write(t)
			key := func(code int, args ...string) string {
				t.Helper()
				return h.run(t, code, append([]string{"key", args[0], "--keystore", h.keystore, "--providers", h.providers}, args[1:]...)...)
			}

			key(exitOK, "add", "--layer", "data", "--provider", "cmk", h.mnt)
			h.noTrace(t, o.traces()...)
			key(exitOK, "test", h.mnt)
			h.reads(t)
			o.disable(t)
			h.run(t, exitInaccessible, "revalidate", h.mnt)
			o.enable(t)
			h.run(t, exitOK, "revalidate", h.mnt)
			h.reads(t)
			h.umount(t)
			o.disable(t)
			h.mount(t, exitDenied)
			key(exitDenied, "test", h.volume)
			o.enable(t)
			h.mount(t, exitOK)

			key(exitOK, "add", "--layer", "data", "--group", "db", h.mnt)
			o.disable(t)
			h.run(t, exitOK, "revalidate", h.mnt)
			h.reads(t)
			h.umount(t)
			h.mount(t, exitOK)
			h.reads(t)
			h.umount(t)
		})
	}
}
