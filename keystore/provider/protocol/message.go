package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Version is the version of the protocol. A program refuses requests of another one.
const Version = 1

// MaxMessage is the most bytes of a request or an answer, its newline included.
const MaxMessage = 64 << 10

// MaxWrapped is the most bytes that a program may make of a secret.
const MaxWrapped = 4096

// MaxText is the most bytes of a text for people: a name, a key, the message of an error.
const MaxText = 300

// The operations.
const (
	OpDescribe = "describe" // which key is used, without asking for it
	OpWrap     = "wrap"
	OpUnwrap   = "unwrap"
)

// Request is what plyfs asks of a program.
type Request struct {
	Version   int             `json:"plyfs_key"`
	Op        string          `json:"op"`
	ID        string          `json:"id"` // repeated in the answer
	Cluster   string          `json:"cluster"`
	Group     string          `json:"group"`
	TimeoutMS int64           `json:"timeout_ms"` // after so many milliseconds the program is killed
	Settings  json.RawMessage `json:"settings"`   // an object, as the host's configuration has it
	Secret    []byte          `json:"secret,omitempty"`
	Wrapped   []byte          `json:"wrapped,omitempty"`
}

// Names are the cluster and group that the request is for.
func (r *Request) Names() Names { return Names{Cluster: r.Cluster, Group: r.Group} }

// Names say which cluster of machines, and which machine group in it, a key is for.
type Names struct {
	Cluster string
	Group   string
}

// Validate refuses names that are not 1 to 63 characters of a-z, 0-9 and '-', so that they can be put into addresses,
// labels and file names as they are.
func (n Names) Validate() error {
	for _, s := range []string{n.Cluster, n.Group} {
		if len(s) == 0 || len(s) > 63 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return Usage("cluster and group are 1 to 63 characters of a-z, 0-9 and '-' each")
		}
	}
	return nil
}

// Answer is what the program says: the member of the operation, or an error, and nothing else.
type Answer struct {
	Version     int          `json:"plyfs_key"`
	ID          string       `json:"id"`
	Description *Description `json:"description,omitempty"`
	Wrapped     []byte       `json:"wrapped,omitempty"`
	Secret      []byte       `json:"secret,omitempty"`
	Error       *Failure     `json:"error,omitempty"`
}

// Description says to people which program, service and key answer for a cluster and group.
type Description struct {
	Program string `json:"program"` // and its version
	Service string `json:"service"`
	Key     string `json:"key"`
}

// The kinds of failures.
const (
	// KindDenied is a definite no of who has the key: disabled, destroyed or about to be, access denied, wrong PIN.
	// A mounted volume turns inaccessible at once.
	KindDenied = "denied"
	// KindUnavailable is no answer, or one that may be another in a minute: network, overload, a server that starts.
	KindUnavailable = "unavailable"
	// KindInvalid says that the key works and the wrapped bytes are not its own, or were changed.
	KindInvalid = "invalid"
	// KindUsage is a request or settings that no key service was asked about: unknown members, missing ones.
	KindUsage = "usage"
)

// Failure is why an operation has no result.
type Failure struct {
	Kind    string `json:"kind"`
	Message string `json:"message"` // for people, one line, never a secret
}

func (f *Failure) Error() string { return f.Message }

// Denied, Invalid and Usage make a Failure of their kind; any other error of a program is KindUnavailable.
func Denied(format string, args ...any) error  { return failure(KindDenied, format, args) }
func Invalid(format string, args ...any) error { return failure(KindInvalid, format, args) }
func Usage(format string, args ...any) error   { return failure(KindUsage, format, args) }

func failure(kind, format string, args []any) error {
	return &Failure{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// failureOf returns the Failure that err is, or wraps.
func failureOf(err error) *Failure {
	kind := KindUnavailable
	var f *Failure
	if errors.As(err, &f) {
		kind = f.Kind
	}
	return &Failure{Kind: kind, Message: Line(err.Error(), MaxText)}
}

// Line makes one printable line of at most n bytes out of text of somebody else.
func Line(text string, n int) string {
	line := strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0xfffd }), " ")
	if len(line) > n {
		line = strings.ToValidUTF8(line[:n-3], "") + "..."
	}
	return line
}

// Expand puts the cluster and the group into a template: {cluster} and {group}. Another word in braces is an error, so
// that a typing mistake does not name one key for all.
func Expand(template string, n Names) (string, error) {
	s := strings.NewReplacer("{cluster}", n.Cluster, "{group}", n.Group).Replace(template)
	if strings.ContainsAny(s, "{}") {
		return "", Usage("%q: only {cluster} and {group} are replaced", Line(template, MaxText))
	}
	return s, nil
}
