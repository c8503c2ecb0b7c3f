package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/keystore"
)

// mountStatus is what is known of one mount.
type mountStatus struct {
	MountPoint string      `json:"mountpoint"`
	CipherDir  string      `json:"cipherdir"`
	State      mountState  `json:"state"`             // serving, dead (its daemon is gone, the volume unclean), or unknown
	PID        int         `json:"pid,omitempty"`     // of the daemon, where known
	Since      *time.Time  `json:"since,omitempty"`   // where known
	Options    string      `json:"options"`           // as in /proc/mounts
	ReadOnly   bool        `json:"read_only"`         //
	Layers     int         `json:"layers,omitempty"`  // as plyfs.json says
	Cluster    string      `json:"cluster,omitempty"` // of the data layer's first slot
	Group      string      `json:"group,omitempty"`
	Stores     []storeNote `json:"key_stores,omitempty"`
	Log        string      `json:"log,omitempty"`
	Audit      string      `json:"audit,omitempty"` // a file, syslog, or log
	// Journal is what the journal holds, as the daemon tells whoever may read
	// its socket.
	Journal *journalStatus `json:"journal,omitempty"`
	// Keys is whether the keys are valid, told like it.
	Keys *keyState `json:"keys,omitempty"`
	// Process is what the daemon takes, by the same way.
	Process *processStatus `json:"process,omitempty"`
	// Hygiene is what protects the keys in the daemon's memory, told like it.
	Hygiene *hygiene `json:"hygiene,omitempty"`
	Notes   []string `json:"notes"`
}

func statusCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:        "status",
		Usage:       "show what is mounted, and how its keys are protected",
		UsageText:   "plyfs status [--json] [MOUNTPOINT]",
		Description: "Without a mountpoint it shows all volumes that are mounted here.",
		Flags:       []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			p, err := places(c, "[MOUNTPOINT]")
			if err != nil {
				return err
			}
			return status(con, p[0], c.Bool("json"))
		},
	}
}

// status prints one mount or all. With a mountpoint the JSON answer is an
// object, else a list. A dead or inaccessible mount that was asked for by name is
// an error.
func status(con *console, target string, asJSON bool) error {
	if target == "" {
		mounts, err := readMounts()
		if err != nil {
			return err
		}
		all := []*mountStatus{}
		for _, m := range volumeMounts(mounts) {
			all = append(all, statusOf(con, m))
		}
		if asJSON {
			return con.json(all)
		}
		for i, s := range all {
			if i > 0 {
				con.print("\n")
			}
			s.print(con)
		}
		if len(all) == 0 {
			con.note("no volume is mounted")
		}
		return nil
	}
	m, err := mountedVolume(target)
	if err != nil {
		return err
	}
	resolved := m.Target
	s := statusOf(con, m)
	if asJSON {
		err = con.json(s)
	} else {
		s.print(con)
	}
	if err == nil && s.State == stateDead {
		return &problem{err: fmt.Errorf("%s has lost its daemon", resolved), code: exitFailure,
			hint: "mount it again with 'plyfs mount', which takes the dead mount away"}
	}
	if err == nil && s.Keys != nil {
		err = s.Keys.problem(resolved)
	}
	return err
}

func statusOf(con *console, m mountEntry) *mountStatus {
	s := &mountStatus{MountPoint: m.Target, CipherDir: m.Source, State: stateOf(m), Options: m.Options, Notes: []string{}}
	switch s.State {
	case stateDead:
		s.Notes = append(s.Notes, "the daemon is gone, and the volume was not closed cleanly")
	case stateUnknown:
		s.Notes = append(s.Notes, "the ciphertext directory cannot be seen from here")
	}
	for o := range strings.SplitSeq(m.Options, ",") {
		s.ReadOnly = s.ReadOnly || o == "ro"
	}
	config := filepath.Join(m.Source, keystore.ConfigName)
	if r := runFileOf(stateDir(con), m); r != nil {
		s.Stores, s.Log, s.Audit = r.Stores, r.Log, r.Audit
		if r.Config != "" {
			config = r.Config
		}
		if r.alive() {
			s.PID, s.Since = r.PID, &r.Since
			s.ask(stateDir(con))
		}
	}
	if c, err := keystore.ReadConfig(config); err == nil {
		s.Layers = len(c.Layers())
		s.ofSlots(c)
	}
	if s.Journal != nil && s.Journal.Error != "" {
		s.Notes = append(s.Notes, "the journal failed, the volume is read-only: "+s.Journal.Error)
	}
	if s.Journal != nil && s.Journal.Frozen != nil {
		s.Notes = append(s.Notes, "the volume is frozen since "+s.Journal.Frozen.Local().Format(time.DateTime)+": who writes waits for 'plyfs thaw'")
	}
	if s.Hygiene != nil && s.Hygiene.Note != "" {
		s.Notes = append(s.Notes, s.Hygiene.Note)
	}
	if s.Keys != nil && s.Keys.Lost != "" {
		s.Notes = append(s.Notes, s.Keys.Lost+"; unmount the volume with 'plyfs umount', and mount it again")
	}
	if s.Layers == 1 {
		s.Notes = append(s.Notes, "the volume has one layer of encryption")
	}
	if note := sharedProtection(s.Stores); note != "" {
		s.Notes = append(s.Notes, note)
	}
	return s
}

// ask has the mount's daemon tell of itself. One that does not answer once is not
// waited for again.
func (s *mountStatus) ask(dir string) {
	for _, q := range []struct {
		op   string
		into any
	}{{"journal", &s.Journal}, {"keys", &s.Keys}, {"process", &s.Process}, {"hygiene", &s.Hygiene}} {
		if err := askDaemon(dir, s.MountPoint, q.op, nil, q.into, statusTime); errors.Is(err, errNoDaemon) {
			s.Notes = append(s.Notes, err.Error())
			return
		}
	}
}

// ofSlots notes the group of the data layer, and who could open a layer by a
// passphrase alone.
func (s *mountStatus) ofSlots(c *keystore.Config) {
	for _, l := range c.Layers() {
		for _, slot := range c.Slots(l) {
			switch {
			case slot.Kind == keystore.KindRecovery:
				s.Notes = append(s.Notes, fmt.Sprintf("recovery slot %s opens the %s layer by its passphrase, where it is named", slot.Name, l))
			case l == c.Layers()[0] && s.Group == "":
				s.Cluster, s.Group = slot.Names.Cluster, slot.Names.Group
			}
		}
	}
}

// sharedProtection says so when whoever gets at one layer's key gets at the
// other's in the same place.
func sharedProtection(stores []storeNote) string {
	if len(stores) < 2 {
		return ""
	}
	a, b := stores[0], stores[1]
	if a.Provider != "" || b.Provider != "" {
		return "" // a key service guards one of them
	}
	if a.Protection != keystore.ByKeyFile.String() || b.Protection != a.Protection {
		return ""
	}
	if dir := filepath.Dir(a.KeyFile); dir == filepath.Dir(b.KeyFile) && filepath.Dir(a.Path) == filepath.Dir(b.Path) && dir == filepath.Dir(a.Path) {
		return "both key stores and their key files lie in " + dir + ": whoever reads that directory has both layers"
	}
	return "both key stores are opened by key files on this host: whoever is root here has both layers"
}

func (s *mountStatus) print(con *console) {
	state := string(s.State)
	if s.PID != 0 {
		state += fmt.Sprintf(", process %d, since %s", s.PID, s.Since.Local().Format(time.DateTime))
	}
	rows := [][2]string{{"ciphertext", s.CipherDir}, {"state", state}, {"options", s.Options}}
	if s.Layers != 0 {
		rows = append(rows, [2]string{"layers", layersText(s.Layers)},
			[2]string{"keys of", fmt.Sprintf("cluster %s, group %s", s.Cluster, s.Group)})
	}
	for _, k := range s.Stores {
		guard := k.Protection
		if k.KeyFile != "" {
			guard += " " + k.KeyFile
		}
		if k.Path != "" {
			guard = k.Path + ", opened by " + guard
		}
		if k.Provider != "" {
			guard += "; and customer-managed key of provider " + k.Provider
		}
		rows = append(rows, [2]string{k.Layer + " key", guard})
	}
	if s.Keys != nil {
		rows = append(rows, [2]string{"keys", s.Keys.text()})
	}
	if s.Hygiene != nil {
		rows = append(rows, [2]string{"daemon", s.Hygiene.text()})
	}
	if j := s.Journal; j != nil {
		rows = append(rows, [2]string{"journal", j.String()})
	}
	if p := s.Process; p != nil {
		rows = append(rows, [2]string{"process", p.String()})
	}
	if s.Log != "" {
		rows = append(rows, [2]string{"log", s.Log})
	}
	if s.Audit != "" && s.Audit != auditLog {
		rows = append(rows, [2]string{"audit log", s.Audit})
	}
	for _, n := range s.Notes {
		rows = append(rows, [2]string{"note", n})
	}
	con.print("%s\n", s.MountPoint)
	con.table("   ", rows)
}
