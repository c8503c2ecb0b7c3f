package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/fs"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/journal"
	"github.com/plyfs/plyfs/fs/volume"
	"github.com/plyfs/plyfs/keystore"
)

// host is what a daemon needs of its surroundings.
type host struct {
	note     func(string) // something to tell whoever waits for the mount
	ready    func()       // the mount serves
	stopping func()       // it has ended, and the volume is being closed
}

const (
	// lockWait is how long a mount waits for one that is ending.
	lockWait = 60 * time.Second
	// lockStep is how often it looks whether it is still wanted.
	lockStep = 250 * time.Millisecond
)

// serve mounts what r asks for, tells h when it serves, and returns when it
// has ended and the volume is closed. ctx ends it before it serves.
func serve(ctx context.Context, r *request, h host) (err error) {
	unix.Umask(0)
	var guard hygiene
	guard.NoDump = guard.miss("core dumps are not off", harden())
	guard.Locked = guard.miss("keys may get to swap", lockMemory())
	raiseLimits()
	limitMemory()
	signal.Ignore(unix.SIGPIPE) // a log reader that goes away must not end the mount

	log, err := openLog(r.Log)
	if err != nil {
		return err
	}
	defer log.close()
	defer func() {
		if err != nil {
			log.Error("mount ended", "source", r.Source, "target", r.Target, "error", err)
		}
	}()
	audit, err := openAudit(r, log)
	if err != nil {
		return err
	}
	defer audit.close()
	helper, err := startKeyHelper()
	if err != nil {
		return err
	}
	defer helper.close()
	u, err := helper.open(ctx, r, audit)
	if err != nil {
		return err
	}
	defer u.cipher.Wipe()
	for _, w := range u.warnings {
		log.Warn(w, "source", r.Source)
		h.note("warning: " + w)
	}
	m, err := openVolume(ctx, r, u, audit.auditing(log.Logger), h, helper)
	if err != nil {
		audit.failure("the volume does not open", err)
		return err
	}
	defer m.close()
	m.audit = audit
	helper.raisePins(keystore.Pin{Journal: m.volume.Position()}, m.warn)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(signals)
	if err := m.appear(ctx, log); err != nil {
		return err
	}
	m.keys = newKeyWatch(m, time.Now())
	watching, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	go m.keys.run(watching)
	go m.keys.watchHelper(watching)
	m.own = openOwn()
	guard.Confined = guard.miss("the daemon is not confined to its directories", confine(m.workplaces(log), m.readable()))
	if guard.Note != "" {
		log.Warn("not all that protects keys could be had", "source", r.Source, "missing", guard.Note)
	}
	m.hygiene = &guard
	stopAnswering := m.answer()
	defer stopAnswering()
	log.Info("mounted", "source", r.Source, "target", r.Target, "layers", u.params.Layers,
		"block_size", u.params.BlockSize, "read_only", r.Mount.Options.ReadOnly)
	h.ready()
	err = m.wait(signals, log, h)
	m.endRunFile(err)
	if err != nil {
		return fmt.Errorf("close the volume: %w", err)
	}
	helper.raisePins(keystore.Pin{Journal: m.volume.Position()}, func(text string) { log.Warn(text, "source", r.Source) })
	log.Info("unmounted, volume closed", "source", r.Source, "target", r.Target)
	return nil
}

// unlocked is a volume whose keys are at hand.
type unlocked struct {
	params   cipher.Params
	epoch    uint32
	keys     cipher.Keys    // in the helper
	cipher   *cipher.Volume // in the daemon
	notes    []storeNote
	warnings []string // about the config

	generations keystore.Pin // of the config
	repair      []byte       // the config, where its second copy is not equal; else nil
}

// unlock reads the volume's config, checks what the caller asserts of it, and
// unwraps its keys, which the caller wipes. It runs in the helper.
func unlock(ctx context.Context, r *request) (*unlocked, error) {
	config, err := readConfig(r.Keys.Config)
	if err != nil {
		return nil, err
	}
	if err := checkLayers(config, r.Mount.Layers); err != nil {
		return nil, err
	}
	con := &console{
		tty:    func() (*os.File, error) { return nil, errors.New("no terminal") },
		getenv: os.Getenv, stderr: os.Stderr,
	}
	keys := r.withPassphrases()
	a, err := keys.access(con, config, r.Mount.Layers)
	if err != nil {
		return nil, err
	}
	defer wipeStores(a.Data, a.Infra)
	o, err := config.Unlock(ctx, a)
	if err != nil {
		return nil, err
	}
	defer clearKeys(&o.Keys)
	if err := checkGroup(config, &r.Mount.Options); err != nil {
		return nil, err
	}
	u := &unlocked{params: o.Params, epoch: o.Epoch, keys: o.Keys, generations: config.Generations(), repair: config.Repair(), warnings: config.Warnings()}
	for i, s := range []*keystore.Store{a.Data, a.Infra}[:o.Params.Layers] {
		if o.Opened[i].Kind == keystore.KindRecovery {
			u.notes = append(u.notes, storeNote{Layer: cipher.Layer(i + 1).String(), Protection: "recovery slot " + o.Opened[i].Name})
			continue
		}
		n := noteOf(s, r.Keys.Stores)
		n.Provider = o.Opened[i].Provider
		u.notes = append(u.notes, n)
	}
	return u, nil
}

func noteOf(s *keystore.Store, refs storeRefs) storeNote {
	n := storeNote{Layer: s.Layer().String(), Path: s.Path(), Protection: s.Info().Protection.String()}
	if s.Info().Protection == keystore.ByKeyFile {
		ref := refs.Data
		if s.Layer() == cipher.LayerInfra {
			ref = refs.Infra
		}
		n.KeyFile = ref.keyFile()
	}
	return n
}

// readConfig reads a volume's config.
func readConfig(path string) (*keystore.Config, error) {
	config, err := keystore.ReadConfig(path)
	if errors.Is(err, keystore.ErrMissing) {
		return nil, &problem{err: fmt.Errorf("%s is not a plyfs volume: %w", filepath.Dir(path), err), code: exitNotVolume,
			hint: "name the ciphertext directory that 'plyfs init' made; if its config is kept elsewhere, name that: config=FILE"}
	}
	return config, err
}

// mounting is a mount on its way, and then live.
type mounting struct {
	r        *request
	u        *unlocked
	log      *slog.Logger
	lock     *volume.DirLock
	volume   *volume.Volume
	server   *fs.Server
	helper   *keyClient
	warn     func(string) // tells of what is no error, until it serves
	keys     *keyWatch    // once it serves
	hygiene  *hygiene
	own      *ownFiles
	start    string // of this process, as startOf tells
	audit    *audit
	device   string // of the mount, as deviceAt tells; its own as long as it lives
	detached bool   // while files are open

	journal backing.Dir // nil if it is in the ciphertext directory
}

// openVolume takes the volume's lock and opens it.
func openVolume(ctx context.Context, r *request, u *unlocked, log *slog.Logger, h host, helper *keyClient) (*mounting, error) {
	root, err := backing.OpenDir(r.Source)
	if err != nil {
		return nil, fmt.Errorf("ciphertext directory: %w", err)
	}
	lock, err := takeLock(ctx, root, r.Source, lockWait, h.note)
	if err != nil {
		root.Close()
		return nil, err
	}
	m := &mounting{r: r, u: u, log: log, lock: lock, helper: helper}
	m.warn = func(text string) {
		log.Warn(text, "source", r.Source)
		h.note("warning: " + text)
	}
	if m.volume, err = m.open(root); err != nil {
		m.close()
		root.Close()
		return nil, volumeError(err)
	}
	return m, nil
}

// open opens the volume with its journal.
func (m *mounting) open(root backing.Dir) (*volume.Volume, error) {
	o := &m.r.Mount.Options
	c := volume.Config{
		Root: root, Cipher: m.u.cipher, ReadOnly: o.ReadOnly, NoAtime: o.NoAtime, Log: m.log,
		JournalSize: o.JournalSize, AcceptRollback: o.AcceptLostJournal,
		Admit: func(position uint64) error {
			return m.helper.checkPins(keystore.Pin{Journal: position}, o.AcceptLostJournal, m.warn)
		},
	}
	if o.Journal != "" {
		dir, err := backing.OpenDir(o.Journal)
		if err != nil {
			return nil, &problem{err: fmt.Errorf("journal directory %s: %w", o.Journal, err), code: exitIO,
				hint: "mount the disk that it lies on, or make the directory if the journal is to be new there"}
		}
		m.journal, c.JournalDir = dir, dir
	}
	v, err := volume.Open(c)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &problem{err: err, code: exitBusy, hint: "a copy of this volume is mounted with the same journal directory"}
	}
	return v, err
}

// close gives up what a mount holds beside the volume.
func (m *mounting) close() {
	if m.journal != nil {
		m.journal.Close()
	}
	m.lock.Close()
}

// takeLock takes the lock on a volume and waits for a mount that is ending.
func takeLock(ctx context.Context, root backing.Dir, source string, wait time.Duration, note func(string)) (*volume.DirLock, error) {
	for start, told := time.Now(), false; ; {
		lock, err := volume.Lock(root, lockStep)
		switch {
		case err == nil:
			return lock, nil
		case !errors.Is(err, volume.ErrBusy):
			return nil, volumeError(err)
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case time.Since(start) >= wait:
			return nil, &problem{err: fmt.Errorf("%s: %w", source, err), code: exitBusy,
				hint: "it is mounted, perhaps in another mount namespace or container, or on another host; a volume is mounted once"}
		case !told:
			told = true
			note(fmt.Sprintf("%s is still in use by a mount that is ending; waiting up to %d s", source, int(wait.Seconds())))
		}
	}
}

// volumeError gives errors of the engine their exit codes; a problem has its own.
func volumeError(err error) error {
	var p *problem
	switch {
	case errors.As(err, &p):
		return err
	case errors.Is(err, volume.ErrNotVolume):
		return &problem{err: err, code: exitNotVolume, hint: "name the ciphertext directory that 'plyfs init' made"}
	case errors.Is(err, volume.ErrBusy):
		return &problem{err: err, code: exitBusy}
	case errors.Is(err, volume.ErrExists):
		return &problem{err: err, code: exitExists}
	case errors.Is(err, journal.ErrSuper) && (errors.Is(err, journal.ErrMissing) || errors.Is(err, journal.ErrTampered)):
		return &problem{err: err, code: exitTampered,
			hint: "nothing opens the volume without .plyfs/journal/super, nor its files beside an older one: restore the ciphertext directory whole, from one backup"}
	case errors.Is(err, journal.ErrMissing):
		return &problem{err: err, code: exitTampered,
			hint: "after a crash a volume needs the journal it had: if it was mounted with -o journal=DIR, give that again; " +
				"if it is gone, -o accept-rollback=journal goes on without what it held"}
	case errors.Is(err, journal.ErrForeign):
		return &problem{err: err, code: exitTampered, hint: "the segments beside the superblock are those of another volume: put back the right ones"}
	case errors.Is(err, journal.ErrTampered):
		return &problem{err: err, code: exitTampered,
			hint: "mount it with -o ro to save what is there; -o accept-rollback=journal goes on without what is lost"}
	case errors.Is(err, journal.ErrVersion), errors.Is(err, cipher.ErrVersion), errors.Is(err, cipher.ErrSuite):
		return &problem{err: err, code: exitVersion, hint: "use a newer plyfs"}
	case isUnauthentic(err), errors.Is(err, unix.ENOENT):
		return &problem{err: err, code: exitTampered, hint: "restore the ciphertext directory whole, from one backup; do not trust what wrote to it"}
	}
	return err
}

// appear mounts the volume, unless one was mounted there meanwhile, and leaves
// its run file.
func (m *mounting) appear(ctx context.Context, log *daemonLog) error {
	unlock, err := lockState(m.r.StateDir)
	defer unlock()
	if err != nil {
		log.Warn("another mount at this mountpoint would not be noticed", "error", err)
	}
	if err := m.mount(ctx); err != nil {
		return err
	}
	if err := writeRunFile(m.r.StateDir, m.runFile(log.Place)); err != nil {
		log.Warn("status will not know this mount's process", "error", err)
	}
	return nil
}

// mount hands the volume to the kernel.
func (m *mounting) mount(ctx context.Context) error {
	mounts, err := readMounts()
	if err == nil {
		err = checkFree(mounts, m.r.Target)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		m.volume.Close()
		return err
	}
	o := &m.r.Mount.Options
	server, err := fs.Mount(m.r.Target, m.volume, fs.Options{
		Source:      m.r.Source,
		AllowOther:  o.AllowOther.Or(os.Geteuid() == 0),
		ReadOnly:    o.ReadOnly,
		Suid:        o.Suid,
		Dev:         o.Dev,
		NoExec:      o.NoExec,
		Sync:        o.Sync,
		DirSync:     o.DirSync,
		NoAtime:     o.NoAtime,
		StrictAtime: o.StrictAtime,
		NoDirAtime:  o.NoDirAtime,
		LazyTime:    o.LazyTime,
		Debug:       o.Debug,
		Log:         m.log,
	})
	if err != nil {
		return &problem{err: errors.Join(fmt.Errorf("mount at %s: %w", m.r.Target, err), m.volume.Close()), code: exitMount, hint: mountHint(err, o.AllowOther == mountopt.On)}
	}
	m.server, m.device = server, deviceAt(m.r.Target)
	return nil
}

func mountHint(err error, allowOther bool) string {
	switch {
	case os.Geteuid() != 0 && allowOther:
		return "allow_other of a user needs the line user_allow_other in /etc/fuse.conf"
	case os.Geteuid() != 0:
		return "users mount through fusermount3: is it installed, and may this user open /dev/fuse?"
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return "is the kernel's fuse module there? try: modprobe fuse; a container needs the device /dev/fuse"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "mount as root; in a container, with CAP_SYS_ADMIN"
	}
	return ""
}

func (m *mounting) runFile(place string) *runFile {
	if m.start == "" { // once it is confined, it cannot be asked for
		m.start, _ = startOf(os.Getpid())
	}
	return &runFile{
		PID: os.Getpid(), Start: m.start, Source: m.r.Source, Config: m.r.Keys.Config, Target: m.r.Target, Since: time.Now().UTC().Truncate(time.Second),
		ReadOnly: m.r.Mount.Options.ReadOnly, Layers: int(m.u.params.Layers), Log: place, Audit: m.audit.Place, Stores: m.u.notes,
	}
}

// endRunFile takes the run file away, or, where the volume could not be
// closed, leaves in it why. It is called with the volume's lock held, so that
// whoever finds that free finds the run file final. The run file of a mount that
// was made at the same place since stays.
func (m *mounting) endRunFile(closing error) {
	if m.r.StateDir == "" {
		return
	}
	f := m.runFile("")
	if closing == nil {
		takeRunFile(m.r.StateDir, f)
		return
	}
	unlock, _ := lockState(m.r.StateDir)
	defer unlock()
	if there := readRunFile(m.r.StateDir, m.r.Target); there == nil || there.sameProcess(f) {
		f.CloseError = closing.Error()
		writeRunFile(m.r.StateDir, f)
	}
}

// withPassphrases returns the keyring with its passphrases at hand: they are
// read already, and none is asked for here. A descriptor that one was read from
// is something else in this process.
func (r *request) withPassphrases() keyring {
	k := r.Keys
	k.Stores.Data.secret, k.Stores.Infra.secret = r.Data, r.Infra
	for _, s := range []*storeRef{&k.Stores.Data, &k.Stores.Infra} {
		if strings.HasPrefix(s.PassphraseFile, mountopt.ByDescriptor) {
			s.PassphraseFile = ""
		}
	}
	return k
}
