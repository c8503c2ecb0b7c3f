// Package journal is the write-ahead journal of a volume. It is what lets a
// power cut happen at any moment: no sealed block is overwritten in place
// before its new version lies, durable, in the journal.
//
// The package knows records, not files: a [Record] carries sealed bytes, their
// entries and the changes of a file's groups and size, and names its file by
// ID. It never sees a key or a plaintext byte; what it writes of its own is
// authenticated by both layers through an [Authenticator].
//
// The volume's superblock ([Super]) says whether the volume was unmounted
// cleanly and where recovery has to begin. It always lies in the ciphertext
// directory, also when the segments lie elsewhere.
//
// The reasoning, with the assumptions about the disk and the argument for
// each operation, is in fs/DESIGN.md; the bytes are in cipher/FORMAT.md,
// "Journal".
package journal
