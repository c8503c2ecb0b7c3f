package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// console is how a command hears from its caller and answers. Tests give
// their own.
type console struct {
	stdout io.Writer // the answer
	stderr io.Writer // the talk
	getenv func(string) string
	// tty opens the terminal for questions; it fails where there is none.
	tty func() (*os.File, error)
}

func newConsole() *console {
	return &console{
		stdout: os.Stdout,
		stderr: os.Stderr,
		getenv: os.Getenv,
		tty:    func() (*os.File, error) { return os.OpenFile("/dev/tty", os.O_RDWR, 0) },
	}
}

// answerWriter is standard output, and remembers the first error: half an answer
// must not look like one.
type answerWriter struct {
	w   io.Writer
	err error
}

func (a *answerWriter) Write(b []byte) (int, error) {
	n, err := a.w.Write(b)
	if a.err == nil {
		a.err = err
	}
	return n, err
}

// print writes to standard output.
func (c *console) print(format string, args ...any) {
	fmt.Fprintf(c.stdout, format, args...)
}

// note says something that is worth knowing and not wrong.
func (c *console) note(format string, args ...any) { c.say("", format, args...) }

// warn says something that is wrong, but stops nothing.
func (c *console) warn(format string, args ...any) { c.say("warning: ", format, args...) }

func (c *console) say(kind, format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintf(c.stderr, "plyfs: %s%s\n", kind, line)
	}
}

// fail reports an error and what to do about it, and returns its exit code.
func (c *console) fail(err error) exitCode {
	c.say("error: ", "%v", err)
	if h := hintOf(err); h != "" {
		c.say("hint: ", "%s", h)
	}
	return codeOf(err)
}

// json prints v as the command's answer.
func (c *console) json(v any) error {
	e := json.NewEncoder(c.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table prints rows of two columns, the first one padded; a row with an empty
// name continues the one above.
func (c *console) table(indent string, rows [][2]string) {
	width := 0
	for _, r := range rows {
		width = max(width, len(r[0]))
	}
	for _, r := range rows {
		c.print("%s\n", strings.TrimRight(fmt.Sprintf("%s%-*s  %s", indent, width, r[0], r[1]), " "))
	}
}
