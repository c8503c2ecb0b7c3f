// Command plyfs makes, mounts and examines double-encrypted volumes.
//
// A command parses its arguments, calls a library and prints; each has a file
// and a test of its own. Standard output carries the answer and nothing else,
// so that --json can be piped; everything said to a person goes to standard
// error: "plyfs: error: ..." and, where there is something to do about it,
// "plyfs: hint: ...". What went wrong is also the exit code (exitcode.go).
//
// mount is three processes in a row. The caller's plyfs reads arguments and
// passphrases and starts itself once more in a session of its own, with one
// pipe to send it the request and one to hear from it (daemon.go). That child
// unlocks, mounts and serves (serve.go). The parent leaves with 0 when the
// child says that the mount serves, and with the child's error otherwise.
// Nothing secret is in an argument or in the environment of either. The child
// has a helper of its own, which reads key stores, runs key providers and
// unmounts (keyhelper.go), so that it can give up all of that (confine.go).
//
// The same program is mount(8)'s helper when it is called mount.plyfs
// (helper.go).
package main
