package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/cmd/internal/mountopt"
)

// maxPassphrase bounds what is read as a passphrase, in bytes.
const maxPassphrase = 4096

// subject says what a passphrase is for.
type subject struct {
	of   string // "data layer's key store"
	flag string // that names a file with it, WORD-passphrase-file
}

func storeSubject(l cipher.Layer) subject {
	return subject{of: fmt.Sprintf("%s layer's key store", l), flag: fmt.Sprintf("%s-passphrase-file", l)}
}

// word is what a program that prints passphrases is told: data, for example.
func (s subject) word() string { return strings.TrimSuffix(s.flag, "-passphrase-file") }

// credentialsVar names the directory in which systemd lays a service's
// credentials.
const credentialsVar = "CREDENTIALS_DIRECTORY"

// readPassphrase returns the passphrase of a layer's key store, as readSecret.
func (c *console) readPassphrase(layer cipher.Layer, from string, isNew bool) ([]byte, error) {
	return c.readSecret(storeSubject(layer), from, isNew)
}

// readSecret returns a passphrase from where from says: a file, fd:N for an
// open descriptor, program:PATH or credential:NAME. Where from is empty it is
// the credential that is called WORD-passphrase, if there is one, or it is asked
// for at the terminal; twice where it is a new one. One line end is cut off. The
// caller owns the bytes and wipes them.
func (c *console) readSecret(s subject, from string, isNew bool) ([]byte, error) {
	if from == "" && !isNew {
		from = c.defaultCredential(s)
	}
	if from == "" {
		return c.askPassphrase(s, isNew)
	}
	b, err := c.fetchPassphrase(s, from)
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

// defaultCredential is where a service's unit file has put the passphrase, or
// "".
func (c *console) defaultCredential(s subject) string {
	dir, name := c.getenv(credentialsVar), s.word()+"-passphrase"
	if dir == "" {
		return ""
	}
	if there, err := exists(filepath.Join(dir, name)); err != nil || !there {
		return ""
	}
	return mountopt.ByCredential + name
}

// fetchPassphrase returns what is found at from, as it is; on an error, what
// was read so far.
func (c *console) fetchPassphrase(s subject, from string) ([]byte, error) {
	if path, ok := strings.CutPrefix(from, mountopt.ByProgram); ok {
		return c.runProgram(path, s.word())
	}
	f, err := c.openPassphrase(from)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 && !strings.HasPrefix(from, mountopt.ByCredential) {
		c.warn("the passphrase file %s has mode %04o: others can reach it; chmod 0600 %s, and think about who may have read it", from, st.Mode().Perm(), from)
	}
	b, err := readLimited(f)
	if errors.Is(err, unix.EISDIR) {
		err = &problem{err: err, code: exitUsage, hint: "name a file that holds the passphrase and nothing else"}
	}
	return b, err
}

func readLimited(r io.Reader) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, maxPassphrase+2))
}

func (c *console) openPassphrase(from string) (*os.File, error) {
	if number, ok := strings.CutPrefix(from, mountopt.ByDescriptor); ok {
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 {
			return nil, usageError("fd:3, for example", "%q does not name a descriptor", from)
		}
		return os.NewFile(uintptr(n), from), nil
	}
	what, hint := "passphrase file", "name a file that holds the passphrase and nothing else"
	path := from
	if name, ok := strings.CutPrefix(from, mountopt.ByCredential); ok {
		dir := c.getenv(credentialsVar)
		if dir == "" {
			return nil, usageError("systemd hands them to services with LoadCredential=, see systemd.exec(5)",
				"there are no credentials: $%s is not set", credentialsVar)
		}
		if name != filepath.Base(name) || name == ".." || name == "." {
			return nil, usageError("", "%q cannot be the name of a credential", name)
		}
		path, what, hint = filepath.Join(dir, name), "credential", "name one that the unit file loads with LoadCredential="
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, &problem{err: fmt.Errorf("%s: %w", what, err), code: exitUsage, hint: hint}
	}
	return f, nil
}

// runProgram returns the standard output of a program that is run with the
// word as its only argument, no standard input, and this process's
// standard error. No shell reads path.
func (c *console) runProgram(path, word string) ([]byte, error) {
	if err := checkProgram(path); err != nil {
		return nil, err
	}
	// None of what this process was given, such as the other layer's descriptor.
	unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	cmd := exec.Command(path, word)
	cmd.Stderr = c.stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start it by its program: %w", err)
	}
	b, err := readLimited(out)
	out.Close() // one that writes on ends by SIGPIPE
	if e := cmd.Wait(); err == nil && e != nil && len(b) <= maxPassphrase+1 {
		err = e
	}
	if err != nil {
		return b, &problem{err: fmt.Errorf("program %s: %w", path, err), code: exitFailure, hint: "it must print the passphrase and nothing else, and end with 0"}
	}
	return b, nil
}

// checkProgram refuses a program that others than its user could have put
// there.
func checkProgram(path string) error {
	refuse := func(format string, args ...any) error {
		return usageError("give the absolute path of a program of root's, or your own, that nobody else can write to",
			"program %s: "+format, append([]any{path}, args...)...)
	}
	if !filepath.IsAbs(path) {
		return refuse("the path is not absolute")
	}
	var st unix.Stat_t
	switch err := unix.Stat(path, &st); {
	case err != nil:
		return refuse("%w", err)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return refuse("it is not a file")
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return refuse("it belongs to user %d", st.Uid)
	case st.Mode&0o022 != 0:
		return refuse("others can write to it")
	}
	return nil
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
			hint: fmt.Sprintf("give --%s FILE or --%s-passphrase-program PATH; for a mount they are options too", s.flag, s.word()),
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
