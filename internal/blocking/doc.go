// Package blocking makes system calls that may block, so that its caller does not wait for them.
//
// Some system calls cannot be told not to block: accept4(2) and sendfile(2) obey O_NONBLOCK, which
// everyone who shares the socket can clear between a check and the call; close(2) of a TCP socket
// waits as SO_LINGER says; close(2), fstat(2) and reads of a file wait for its file system, which
// may be a process (FUSE) or another machine (NFS) that does not answer.
//
// A Pool has such calls made by helpers. A helper is a process, not a thread: a thread in
// uninterruptible sleep keeps its process from ending, and with it kill -9, an upgrade and a stop.
// Helpers are made by clone(2) with CLONE_FILES, so that descriptors mean the same to them, and
// without execve(2). They find jobs and leave results in shared memory. The kernel kills them when
// the process dies (PR_SET_PDEATHSIG). One that sleeps uninterruptibly even then stays until it is
// woken; it is counted, and its memory is not used again before that.
package blocking
