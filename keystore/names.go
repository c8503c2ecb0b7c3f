package keystore

import (
	"fmt"
	"strings"
)

// MaxNameLen is the longest cluster or group name, in bytes.
const MaxNameLen = 63

// Names says which cluster of machines, and which machine group in it, a key belongs to.
type Names struct {
	Cluster string
	Group   string
}

// String returns "cluster/group".
func (n Names) String() string { return n.Cluster + "/" + n.Group }

// CheckProviderName returns ErrName for what can be no name of a provider.
func CheckProviderName(name string) error { return validateName("provider", name) }

// Validate returns ErrName unless both names are 1 to 63 characters of a-z, 0-9 and '-' (FORMAT.md §2).
func (n Names) Validate() error {
	if err := validateName("cluster", n.Cluster); err != nil {
		return err
	}
	return validateName("group", n.Group)
}

func validateName(what, name string) error {
	if name == "" {
		return &fault{what: what + " name is empty", kind: ErrName}
	}
	if len(name) > MaxNameLen {
		return &fault{what: fmt.Sprintf("%s name of %d characters", what, len(name)), kind: ErrName}
	}
	if i := strings.IndexFunc(name, badNameRune); i >= 0 {
		return &fault{what: fmt.Sprintf("%s name %q", what, name), kind: ErrName}
	}
	return nil
}

func badNameRune(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
}

// Epochs are the generations of the three keys above a group key. They are independent: each counts from 1.
type Epochs struct {
	Root    uint32
	Cluster uint32
	Group   uint32
}
