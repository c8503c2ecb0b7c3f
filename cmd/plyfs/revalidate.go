package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

func revalidateCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "revalidate",
		Usage:     "validate the keys of a mounted volume now",
		UsageText: "plyfs revalidate [--json] MOUNTPOINT",
		Description: "The keys are opened again as at the mount. If they are refused the volume turns\n" +
			"inaccessible; if it was, and they are valid again, it goes on. The exit code is\n" +
			"17 if the volume is inaccessible in the end.",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			p, err := places(c, "MOUNTPOINT")
			if err != nil {
				return err
			}
			return revalidate(con, p[0], c.Bool("json"))
		},
	}
}

// revalidate has the daemon of a mount validate its keys, and shows what they
// are then.
func revalidate(con *console, target string, asJSON bool) error {
	m, err := mountedVolume(target)
	if err != nil {
		return err
	}
	resolved := m.Target
	var s keyState
	err = askDaemon(stateDir(con), resolved, "revalidate", nil, &s, 3*validateTime)
	if errors.Is(err, errNoDaemon) {
		return &problem{err: fmt.Errorf("%s: %w", resolved, err), code: exitFailure, hint: "see 'plyfs status'; only who mounted it can ask"}
	}
	if err != nil {
		return err
	}
	if asJSON {
		err = con.json(s)
	} else {
		con.print("%s\n", s.text())
	}
	if err != nil {
		return err
	}
	return s.problem(resolved)
}

// problem is the error that an inaccessible volume is.
func (s *keyState) problem(target string) error {
	if s.State != keysInaccessible {
		return nil
	}
	hint := s.Hint
	if hint == "" {
		hint = "once the key is there again: plyfs revalidate " + target
	}
	return &problem{err: fmt.Errorf("%s is inaccessible: %s", target, s.Reason), code: exitInaccessible, hint: hint}
}

// text is the state in a sentence.
func (s *keyState) text() string {
	var b strings.Builder
	if s.State == keysInaccessible {
		fmt.Fprintf(&b, "Inaccessible since %s: %s", s.Since.Local().Format(time.DateTime), s.Reason)
		return b.String()
	}
	b.WriteString("Available")
	for i, l := range s.Layers {
		sep := ", "
		if i == 0 {
			sep = "; "
		}
		fmt.Fprintf(&b, "%s%s key validated %s", sep, l.Layer, l.Validated.Local().Format(time.DateTime))
	}
	switch {
	case s.Deadline != nil:
		fmt.Fprintf(&b, "; now it cannot be: %s; Inaccessible from %s on if that lasts", s.Reason, s.Deadline.Local().Format(time.DateTime))
	case s.Revalidate == "0s":
		b.WriteString("; not validated again (revalidate=0)")
	default:
		b.WriteString("; again every " + s.Revalidate)
	}
	return b.String()
}
