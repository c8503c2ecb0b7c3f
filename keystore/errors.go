package keystore

import (
	"errors"
	"io/fs"
)

// The sentinels every error of this package that is not a plain I/O error wraps. Callers test them with errors.Is
// and ask Hint what to do.
var (
	// ErrWrongKey reports that a key file, passphrase, key store or group key is not the one that was used.
	ErrWrongKey = errors.New("wrong key")
	// ErrWrongGroup reports a cluster or group that a key store does not hold.
	ErrWrongGroup = errors.New("unknown cluster or group")
	// ErrWrongLayers reports a volume whose layers are not those that the given key stores ask for.
	ErrWrongLayers = errors.New("wrong number of layers")
	// ErrTampered reports bytes that were damaged or changed.
	ErrTampered = errors.New("damaged or tampered with")
	// ErrTruncated reports a file that is shorter than it says.
	ErrTruncated = errors.New("truncated")
	// ErrMissing reports a key store, key file or volume config that is not there.
	ErrMissing = errors.New("missing")
	// ErrVersion reports a format, suite or slot kind that this version of plyfs does not know.
	ErrVersion = errors.New("unsupported version")
	// ErrExists reports a file, cluster or group that is there already; nothing is ever overwritten.
	ErrExists = errors.New("already exists")
	// ErrPermissions reports a key file that somebody else can read or owns.
	ErrPermissions = errors.New("unsafe permissions")
	// ErrBusy reports that another process holds the lock on a file for too long.
	ErrBusy = errors.New("locked by another process")
	// ErrStale reports a volume config that is older than, or differs at the same generation from, the one in place.
	ErrStale = errors.New("not newer than the one in place")
	// ErrName reports a cluster or group name that is not 1 to 63 characters of a-z, 0-9 and '-'.
	ErrName = errors.New("invalid name")
	// ErrDenied reports that a provider said definitely no: its key is disabled or destroyed, or access is denied.
	ErrDenied = errors.New("denied by the key provider")
	// ErrUnavailable reports that a provider could not be asked or did not answer.
	ErrUnavailable = errors.New("key provider unavailable")
	// ErrRetired reports a root, cluster or group, or an epoch of one, that was retired or destroyed: it is refused
	// from then on, to wrap and to unwrap.
	ErrRetired = errors.New("retired")
	// ErrRolledBack reports a volume whose state is older than this host has seen.
	ErrRolledBack = errors.New("older than this host has seen")
	// ErrUsage reports a call that asks for nothing that can be done, such as an empty passphrase.
	ErrUsage = errors.New("invalid request")
)

// fault is an error of this package: what happened to which file, the sentinel, and what to do about it.
type fault struct {
	what  string // file and layer, never a secret
	kind  error  // the sentinel
	cause error  // nil or an underlying error
	hint  string // empty: the sentinel's own hint
}

func (f *fault) Error() string {
	s := f.what + ": " + f.kind.Error()
	if f.cause != nil {
		s += ": " + f.cause.Error()
	}
	return s
}

func (f *fault) Unwrap() []error {
	if f.cause == nil {
		return []error{f.kind}
	}
	return []error{f.kind, f.cause}
}

// hints are the sentences for errors that bring none of their own.
var hints = []struct {
	err  error
	hint string
}{
	{ErrWrongKey, "Give the key file or passphrase and the key stores this was made with (--keystore, --data-keystore, --infra-keystore)."},
	{ErrWrongGroup, "Name a cluster and group that the key store holds, or use the key stores of the group this volume belongs to."},
	{ErrWrongLayers, "Check how many layers the volume was made with (plyfs info); mount a single-layer volume with -o layers=1."},
	{ErrTampered, "Restore the file from a backup; do not trust what wrote to it."},
	{ErrTruncated, "Restore the file from a backup; it lost its end."},
	{ErrMissing, "Check the path, or restore the file from a backup."},
	{ErrVersion, "Use a newer plyfs: this was written by one, or is damaged."},
	{ErrExists, "plyfs never overwrites keys: choose another place, or remove the old file when nothing needs it any more."},
	{ErrPermissions, "Run: chmod 0600 FILE && chown root: FILE (root, or the user who runs plyfs, must own it alone)."},
	{ErrBusy, "Wait for the other plyfs command to end, then try again."},
	{ErrStale, "Somebody changed the volume's keys meanwhile: read the config again and repeat the change."},
	{ErrName, "Names are 1 to 63 characters of a-z, 0-9 and '-'."},
	{ErrDenied, "Ask whoever manages the key: enable or restore it, or give this host access to it."},
	{ErrUnavailable, "Check the network, the provider's configuration and its program, then try again."},
	{ErrRetired, "Use a key that is in force: rotate what was retired, and re-wrap volumes with plyfs key rotate before the old key is retired."},
	{ErrRolledBack, "Restore the newest copy. If an older one was restored on purpose: mount it with -o accept-rollback=all."},
	{ErrUsage, "Check what the command was given (plyfs help)."},
	{fs.ErrPermission, "Run plyfs as root or as the owner of the file."},
}

// Hint returns a sentence that says what to do about err, or "" when there is nothing to say. Of an error about both
// layers it is that of the data layer: LayerErrors tells them apart.
func Hint(err error) string {
	var f *fault
	if errors.As(err, &f) && f.hint != "" {
		return f.hint
	}
	for _, h := range hints {
		if errors.Is(err, h.err) {
			return h.hint
		}
	}
	return ""
}
