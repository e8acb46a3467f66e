// Package keeper lets a process's descriptors outlive it: a small process shares its descriptor table and, if it dies, becomes its successor.
//
// Descriptors need not be copied for this. The keeper is made by clone(2) with CLONE_FILES, so that both have the very same table: what one accepts
// the other has at that instant, what one closes is closed for both, and the kernel drops the table when the last of them is gone. When the
// process dies, by whatever means, the keeper execs the program again, which then finds every descriptor under its old number.
package keeper
