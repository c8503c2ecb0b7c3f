package main

import (
	"fmt"
	"strings"

	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/keystore"
)

func assertionError(hint, format string, args ...any) error {
	return &problem{err: fmt.Errorf(format, args...), code: exitAssertion, hint: hint}
}

// checkLayers compares how many layers the caller says that the volume has with
// what its config says. That is authenticated later, by Unlock; a lie is found
// then.
func checkLayers(config *keystore.Config, want int) error {
	switch have := len(config.Layers()); {
	case have == want:
		return nil
	case have == 1:
		return assertionError("mount it with -o layers=1 if that is what you made; if not, plyfs.json was changed",
			"the volume has one layer of encryption, and two are expected")
	default:
		return assertionError("mount it without layers=1", "the volume has %d layers of encryption, and %d is expected", have, want)
	}
}

// checkGroup compares the cluster and group that the caller says with those of
// a config that was unlocked: each layer that is not opened by recovery slots
// alone has a slot of theirs.
func checkGroup(config *keystore.Config, o *mountopt.Options) error {
	for _, layer := range config.Layers() {
		var have []string
		found := false
		for _, slot := range config.Slots(layer) {
			if slot.Kind == keystore.KindRecovery {
				continue // of no group
			}
			have = append(have, slot.Names.String())
			found = found || (o.Cluster == "" || o.Cluster == slot.Names.Cluster) && (o.Group == "" || o.Group == slot.Names.Group)
		}
		if !found && len(have) > 0 {
			want := strings.Trim(o.Cluster+"/"+o.Group, "/")
			return assertionError("see 'plyfs info'", "the volume is of %s, not %q", strings.Join(have, " and "), want)
		}
	}
	return nil
}
