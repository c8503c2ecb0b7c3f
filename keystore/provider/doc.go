// Package provider finds the programs that hold a customer's keys and talks to them. A host names its providers in
// files of its own, /etc/plyfs/providers/NAME.json: which program, what it needs to know, which variables of the
// environment it may see. The volume brings a name and nothing else, so that whoever writes the volume's config cannot
// point a host at a key service, an address or a module of his own.
//
// Each call runs the program once, with one JSON request on its standard input and one JSON answer on its standard
// output (package protocol, keystore/PROVIDERS.md). The program runs in a process group of its own and is killed with
// it when its time is up. What goes wrong on the way is keystore.ErrUnavailable; only the program's own word is
// keystore.ErrDenied, which makes a mounted volume inaccessible at once.
package provider
