package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A message between the processes of a mount is a line of JSON and two secrets,
// one for each layer, each with its length in 4 bytes before it. No secret passes
// through a buffer that is not cleared, as an encoder's is.

// maxMessage bounds a line and each secret, in bytes.
const maxMessage = 1 << 20

// writeMessage writes v and the secrets, which stay the caller's, at once.
func writeMessage(w io.Writer, v any, secrets [2][]byte) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b := make([]byte, 0, len(line)+1+2*4+len(secrets[0])+len(secrets[1]))
	defer func() { clear(b) }()
	b = append(append(b, line...), '\n')
	for _, s := range secrets {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	_, err = w.Write(b)
	return err
}

// messageReader reads messages, or lines, and keeps nothing of what it has handed out.
type messageReader struct {
	from       io.Reader
	buf        []byte
	start, end int
}

func newMessageReader(from io.Reader) *messageReader {
	return &messageReader{from: from, buf: make([]byte, 4096)}
}

// read reads a message into v. The secrets are the caller's, to wipe; one
// without bytes is nil. With an error there are none.
func (r *messageReader) read(v any) (secrets [2][]byte, err error) {
	line, err := r.line()
	if err != nil {
		return secrets, err
	}
	defer func() {
		if err != nil {
			clear(secrets[0])
			clear(secrets[1])
			secrets = [2][]byte{}
		}
	}()
	for i := range secrets {
		var n [4]byte
		if err := r.full(n[:]); err != nil {
			return secrets, err
		}
		size := binary.BigEndian.Uint32(n[:])
		if size > maxMessage {
			return secrets, errors.New("secret too long")
		}
		if size > 0 {
			secrets[i] = make([]byte, size)
			if err := r.full(secrets[i]); err != nil {
				return secrets, err
			}
		}
	}
	if err := json.Unmarshal(line, v); err != nil {
		return secrets, fmt.Errorf("read a message: %w", err)
	}
	return secrets, nil
}

// line reads a line of at most maxMessage bytes, without its end.
func (r *messageReader) line() (line []byte, err error) {
	for {
		part, err := r.some()
		if err != nil {
			return nil, err
		}
		n, last := len(part), false
		if i := bytes.IndexByte(part, '\n'); i >= 0 {
			n, last = i, true
		}
		if line = append(line, part[:n]...); len(line) > maxMessage {
			return nil, errors.New("line too long")
		}
		if last {
			r.drop(n + 1)
			return line, nil
		}
		r.drop(n)
	}
}

// full fills p.
func (r *messageReader) full(p []byte) error {
	for len(p) > 0 {
		part, err := r.some()
		if err != nil {
			return err
		}
		n := copy(p, part)
		r.drop(n)
		p = p[n:]
	}
	return nil
}

// some returns what is there, at least a byte.
func (r *messageReader) some() ([]byte, error) {
	for r.start == r.end {
		n, err := r.from.Read(r.buf)
		if n == 0 && err != nil {
			return nil, err
		}
		r.start, r.end = 0, n
	}
	return r.buf[r.start:r.end], nil
}

func (r *messageReader) drop(n int) {
	clear(r.buf[r.start : r.start+n])
	r.start += n
}
