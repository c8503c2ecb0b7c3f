// Package keys puts customer-managed keys on volumes and takes them away, through the commands and on real mounts: keys
// of AWS KMS, played by moto's server, and keys of an HSM, played by SoftHSM 2. It needs root, the programs that make
// builds, and the tree of integration/sid.sh; make providers runs it.
package keys
