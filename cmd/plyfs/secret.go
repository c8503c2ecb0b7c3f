package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/plyfs/plyfs/cipher"
)

// maxPassphrase bounds what is read as a passphrase, in bytes.
const maxPassphrase = 4096

// subject says what a passphrase is for.
type subject struct {
	of   string // "data layer's key store"
	flag string // that names a file with it
}

func storeSubject(l cipher.Layer) subject {
	return subject{of: fmt.Sprintf("%s layer's key store", l), flag: fmt.Sprintf("%s-passphrase-file", l)}
}

// readPassphrase returns the passphrase of a layer's key store, as readSecret.
func (c *console) readPassphrase(layer cipher.Layer, from string, isNew bool) ([]byte, error) {
	return c.readSecret(storeSubject(layer), from, isNew)
}

// readSecret returns a passphrase: from a file, from the open
// descriptor N where from is fd:N, or by asking at the terminal where from is
// empty; twice where it is a new one. One line end is cut off. The caller owns
// the bytes and wipes them.
func (c *console) readSecret(s subject, from string, isNew bool) ([]byte, error) {
	if from == "" {
		return c.askPassphrase(s, isNew)
	}
	f, err := openPassphrase(from)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPassphrase+2))
	if err != nil {
		clear(b)
		return nil, fmt.Errorf("passphrase of the %s: %w", s.of, err)
	}
	p, err := trimPassphrase(b)
	if err != nil {
		clear(b)
		return nil, &problem{err: fmt.Errorf("passphrase of the %s from %s: %w", s.of, from, err), code: exitUsage}
	}
	return p, nil
}

func openPassphrase(from string) (*os.File, error) {
	number, isFD := strings.CutPrefix(from, "fd:")
	if !isFD {
		f, err := os.Open(from)
		if err != nil {
			return nil, &problem{err: fmt.Errorf("passphrase file: %w", err), code: exitUsage, hint: "name a file that holds the passphrase and nothing else"}
		}
		return f, nil
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 {
		return nil, usageError("fd:3, for example", "%q does not name a descriptor", from)
	}
	return os.NewFile(uintptr(n), from), nil
}

// trimPassphrase cuts off one line end and refuses what cannot be meant.
func trimPassphrase(b []byte) ([]byte, error) {
	b = bytes.TrimSuffix(b, []byte("\n"))
	b = bytes.TrimSuffix(b, []byte("\r"))
	switch {
	case len(b) == 0:
		return nil, errors.New("it is empty")
	case len(b) > maxPassphrase:
		return nil, fmt.Errorf("it is longer than %d bytes", maxPassphrase)
	case bytes.ContainsAny(b, "\n\x00"):
		return nil, errors.New("it holds more than one line")
	}
	return b, nil
}

// askPassphrase asks at the terminal, not at standard input.
func (c *console) askPassphrase(s subject, isNew bool) ([]byte, error) {
	tty, err := c.tty()
	if err != nil {
		return nil, &problem{
			err:  fmt.Errorf("the %s needs a passphrase, and there is no terminal to ask at", s.of),
			code: exitUsage,
			hint: fmt.Sprintf("give --%s FILE, or for a mount the option %s=FILE", s.flag, s.flag),
		}
	}
	defer tty.Close()
	what := fmt.Sprintf("Passphrase of the %s: ", s.of)
	if isNew {
		what = fmt.Sprintf("New passphrase for the %s: ", s.of)
	}
	p, err := ask(tty, what)
	if err != nil {
		return nil, fmt.Errorf("passphrase of the %s: %w", s.of, err)
	}
	if !isNew {
		return p, nil
	}
	again, err := ask(tty, "The same once more: ")
	defer clear(again)
	if err != nil {
		return nil, fmt.Errorf("passphrase of the %s: %w", s.of, err)
	}
	if !bytes.Equal(p, again) {
		clear(p)
		return nil, usageError("", "the two passphrases differ")
	}
	return p, nil
}

// ask asks one question with the echo off before it shows, so that nothing
// typed early is seen, and on again whatever happens.
func ask(tty *os.File, prompt string) ([]byte, error) {
	restore, err := echoOff(int(tty.Fd()))
	if err != nil {
		return nil, err
	}
	defer restore()
	fmt.Fprint(tty, prompt)
	b, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	if err != nil {
		return nil, err
	}
	p, err := trimPassphrase(b)
	if err != nil {
		clear(b)
		return nil, &problem{err: err, code: exitUsage}
	}
	return p, nil
}

// echoOff turns a terminal's echo off until restore is called, or a signal
// ends the process.
func echoOff(fd int) (restore func(), err error) {
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	quiet := *before
	quiet.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &quiet); err != nil {
		return nil, err
	}
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		select {
		case s := <-signals:
			unix.IoctlSetTermios(fd, unix.TCSETS, before)
			signal.Reset(s)
			unix.Kill(os.Getpid(), s.(syscall.Signal))
		case <-done:
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
		unix.IoctlSetTermios(fd, unix.TCSETS, before)
	}, nil
}
