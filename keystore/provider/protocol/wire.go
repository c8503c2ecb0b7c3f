package protocol

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Encode returns the request as one line. The caller wipes it: of the secret there is no other copy.
func (r *Request) Encode() ([]byte, error) {
	open := *r
	open.Secret = nil
	return encode(&open, r.Secret)
}

// Encode returns the answer as one line. The caller wipes it: of the secret there is no other copy.
func (a *Answer) Encode() ([]byte, error) {
	open := *a
	open.Secret = nil
	return encode(&open, a.Secret)
}

// encode appends the secret to what package json made of the rest, since that package keeps its buffers.
func encode(open any, secret []byte) ([]byte, error) {
	rest, err := json.Marshal(open)
	if err != nil {
		return nil, err
	}
	line := make([]byte, 0, len(rest)+base64.StdEncoding.EncodedLen(len(secret))+16)
	line = append(line, bytes.TrimSuffix(rest, []byte("}"))...)
	if len(secret) > 0 {
		line = append(line, `,"secret":"`...)
		line = base64.StdEncoding.AppendEncode(line, secret)
		line = append(line, '"')
	}
	line = append(line, "}\n"...)
	if len(line) > MaxMessage {
		clear(line)
		return nil, fmt.Errorf("message of more than %d bytes", MaxMessage)
	}
	return line, nil
}

// DecodeRequest decodes a request strictly. The caller wipes its secret and raw.
func DecodeRequest(raw []byte) (*Request, error) {
	var r Request
	if err := decode(raw, &r, "plyfs_key", "op", "id", "cluster", "group", "timeout_ms", "settings", "secret", "wrapped"); err != nil {
		clear(r.Secret)
		return nil, err
	}
	return &r, nil
}

// DecodeAnswer decodes an answer strictly. The caller wipes its secret and raw.
func DecodeAnswer(raw []byte) (*Answer, error) {
	var a Answer
	if err := decode(raw, &a, "plyfs_key", "id", "description", "wrapped", "secret", "error"); err != nil {
		clear(a.Secret)
		return nil, err
	}
	return &a, nil
}

// decode decodes one object that has no members but those. It copies no secret but into the struct.
func decode(raw []byte, into any, members ...string) error {
	var found map[string]json.RawMessage
	err := json.Unmarshal(raw, &found)
	defer func() {
		for _, value := range found {
			clear(value)
		}
	}()
	if err != nil || found == nil {
		return errors.New("not one JSON object")
	}
	for name := range found {
		if !slices.Contains(members, name) {
			return fmt.Errorf("unknown member %q", Line(name, 40))
		}
	}
	if err := json.Unmarshal(raw, into); err != nil {
		// What json says may quote the value.
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return fmt.Errorf("member %s is of the wrong type", wrong.Field)
		}
		return errors.New("a member has no valid value")
	}
	return nil
}

// Settings decodes the settings of a program, and refuses members that it does not have.
func Settings(raw json.RawMessage, into any) error {
	if len(raw) == 0 {
		raw = json.RawMessage("{}")
	}
	if err := DecodeStrict(raw, into); err != nil {
		return Usage("settings: %v", err)
	}
	return nil
}

// DecodeStrict decodes one JSON value without secrets into a struct, with no unknown members and nothing behind it.
func DecodeStrict(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}
