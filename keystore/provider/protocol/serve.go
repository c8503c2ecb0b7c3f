package protocol

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Service is one program's key, opened for a cluster and group.
type Service interface {
	// Describe says which key it is. It asks nobody.
	Describe() Description
	// Wrap returns at most MaxWrapped bytes. It keeps no reference to secret.
	Wrap(ctx context.Context, secret []byte) (wrapped []byte, err error)
	// Unwrap returns what Wrap was given. Serve wipes it.
	Unwrap(ctx context.Context, wrapped []byte) (secret []byte, err error)
	// Close ends what Open began. The answer was given; nobody is told of an error.
	Close()
}

// Open opens a service as the host's settings say. It asks no key service yet.
type Open func(ctx context.Context, settings json.RawMessage, n Names) (Service, error)

// Serve answers the one request that in holds. An error says that there was no request to answer, or that the answer
// could not be written: the program then says so on its standard error and exits with another code than 0.
func Serve(ctx context.Context, in io.Reader, out io.Writer, open Open) error {
	raw, err := io.ReadAll(io.LimitReader(in, MaxMessage+1))
	defer func() { clear(raw) }()
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if len(raw) > MaxMessage {
		return fmt.Errorf("request of more than %d bytes", MaxMessage)
	}
	req, err := DecodeRequest(raw)
	if err != nil {
		return fmt.Errorf("request is not one of this protocol: %w", err)
	}
	defer clear(req.Secret)

	a := answer(ctx, req, open)
	defer clear(a.Secret)
	line, err := a.Encode()
	defer clear(line)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if _, err := out.Write(line); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// answer does what the request asks for.
func answer(ctx context.Context, req *Request, open Open) (a *Answer) {
	a = &Answer{Version: Version, ID: req.ID}
	// A library that was given nonsense by its server may panic; what the panic says may hold anything.
	defer func() {
		if recover() != nil {
			*a = Answer{Version: Version, ID: req.ID, Error: &Failure{Kind: KindUnavailable, Message: "internal error: the key service's answer made no sense"}}
		}
	}()
	if err := req.check(); err != nil {
		a.Error = failureOf(err)
		return a
	}
	if req.TimeoutMS > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, ownTime(time.Duration(req.TimeoutMS)*time.Millisecond))
		defer cancel()
	}
	s, err := open(ctx, req.Settings, req.Names())
	if err != nil {
		a.Error = failureOf(err)
		return a
	}
	defer s.Close()
	switch req.Op {
	case OpDescribe:
		d := s.Describe()
		a.Description = &d
	case OpWrap:
		a.Wrapped, err = s.Wrap(ctx, req.Secret)
		if err == nil && (len(a.Wrapped) == 0 || len(a.Wrapped) > MaxWrapped) {
			err = fmt.Errorf("the key service made %d bytes of the secret", len(a.Wrapped))
		}
	case OpUnwrap:
		a.Secret, err = s.Unwrap(ctx, req.Wrapped)
		if err == nil && len(a.Secret) == 0 {
			err = Invalid("the key service gave an empty secret back")
		}
	}
	if err != nil {
		a.Wrapped, a.Secret = nil, nil
		a.Error = failureOf(err)
	}
	return a
}

// ownTime leaves a tenth of the time for saying that there was none.
func ownTime(d time.Duration) time.Duration { return d - d/10 }

// check refuses what Serve does not know, before any service is opened.
func (r *Request) check() error {
	if r.Version != Version {
		return Usage("protocol version %d asked for, this program speaks %d", r.Version, Version)
	}
	if err := r.Names().Validate(); err != nil {
		return err
	}
	switch r.Op {
	case OpDescribe:
		if r.Secret != nil || r.Wrapped != nil {
			return Usage("describe takes neither a secret nor a wrapped one")
		}
	case OpWrap:
		if len(r.Secret) == 0 || r.Wrapped != nil {
			return Usage("wrap takes a secret alone")
		}
	case OpUnwrap:
		if len(r.Wrapped) == 0 || len(r.Wrapped) > MaxWrapped || r.Secret != nil {
			return Usage("unwrap takes a wrapped secret alone, of at most %d bytes", MaxWrapped)
		}
	default:
		return Usage("unknown operation %q", Line(r.Op, 32))
	}
	return nil
}
