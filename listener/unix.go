package listener

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// socketFile is the file of a Unix socket that we created, known by its inode.
//
// Creating. The path is tested for life before anything is removed: somebody accepts (or has a full queue), the path is in use; nobody does
// and it is a socket, it is left over from a process that died and is removed; it is no socket, it is never removed. Between test and
// removal another process could do the same and bind, and would then lose its live socket to us. So all of it, up to listen(2) because a
// socket that does not listen yet looks dead, is done under an flock(2) on the directory, which leaves no file behind.
//
// Mode. The kernel creates the file with the mode of the socket's own inode, cut by the umask. That is set before bind(2), so the file
// is at no moment open to more users than asked for; what the umask took away is given back afterwards.
//
// Removing. The file is removed while the socket still listens: others find it alive or not at all, so that nobody replaces it
// between our look at the inode and the removal. A successor's file, which has another inode, is left alone.
type socketFile struct {
	path     string
	dev, ino uint64
}

// lockWait bounds the wait for another process that is opening a socket in the same directory.
const lockWait = 2 * time.Second

func openUnix(a Address, o Options) (*Listener, error) {
	if err := checkPath(a.Path); err != nil {
		return nil, err
	}
	fd, err := streamSocket(unix.AF_UNIX)
	if err != nil {
		return nil, err
	}
	l, err := bindUnix(fd, a, o)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return l, nil
}

func bindUnix(fd int, a Address, o Options) (*Listener, error) {
	if a.Abstract() {
		return bindAbstract(fd, a, o)
	}
	if err := checkOwner(filepath.Dir(a.Path), os.Geteuid()); err != nil {
		return nil, err
	}
	unlock, err := lockDirectory(filepath.Dir(a.Path), lockWait)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(a.Path); err != nil {
		return nil, err
	}
	file, err := createFile(fd, a.Path, o.Mode)
	if err != nil {
		return nil, err
	}
	l, err := listenUnix(fd, o)
	if err != nil {
		return nil, errors.Join(err, file.remove())
	}
	l.file = file
	return l, nil
}

// bindAbstract needs no care: an abstract name lives exactly as long as its socket, and has no mode.
func bindAbstract(fd int, a Address, o Options) (*Listener, error) {
	err := unix.Bind(fd, &unix.SockaddrUnix{Name: a.Path})
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("%w: stop the process that listens there (ss -xlp src %s shows it) or choose another name: bind: %w", ErrInUse, a.Path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	return listenUnix(fd, o)
}

func listenUnix(fd int, o Options) (*Listener, error) {
	if err := listen(fd, o.Backlog); err != nil {
		return nil, err
	}
	return listenerOn(fd, unix.AF_UNIX)
}

// checkOwner returns an error if a directory belongs to another user than root and the given one: its
// owner could put another socket in its place, and be taken for the sidecar.
func checkOwner(dir string, user int) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return explainDirectory(dir, err)
	}
	if st.Uid != 0 && int(st.Uid) != user {
		return fmt.Errorf("the directory %s belongs to user %d, who could replace the socket: use one that belongs to user %d or to root", dir, st.Uid, user)
	}
	return nil
}

// lockDirectory takes the lock that orders everybody who opens a socket in dir with this package. It
// waits no longer than wait: each user who may read the directory may hold its lock, and must not
// keep the sidecar from starting. Then only the order is lost, which matters if two processes open
// the same stale path at that moment.
func lockDirectory(dir string, wait time.Duration) (unlock func(), err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explainDirectory(dir, err)
	}
	if err := lock(fd, wait); err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("lock the directory %s: flock: %w", dir, err)
	}
	return func() { _ = unix.Close(fd) }, nil
}

func explainDirectory(dir string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("the directory %s does not exist: create it first, owned by the user that runs this: open: %w", dir, err)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s is not a directory: open: %w", dir, err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("the directory %s must be readable and writable for user %d: open: %w", dir, os.Geteuid(), err)
	}
	return fmt.Errorf("open %s: %w", dir, err)
}

func lock(fd int, wait time.Duration) error {
	for deadline := time.Now().Add(wait); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if again := errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR); !again || time.Now().After(deadline) {
			return err
		}
	}
}

// removeStale makes way at path, if nobody listens there. The directory is locked.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket (%v): it is never removed here; remove it yourself or choose another path", path, info.Mode())
	}
	if err := probe(path); !errors.Is(err, unix.ECONNREFUSED) {
		return inUse(path, err)
	}
	if err := unix.Unlink(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s, which a process that has died left behind: unlink: %w", path, err)
	}
	return nil
}

// probe connects to path. ECONNREFUSED: nobody listens. Nil or EAGAIN (its queue is full): somebody does. Anything else leaves it open.
func probe(path string) error {
	fd, err := streamSocket(unix.AF_UNIX)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

func inUse(path string, err error) error {
	const advice = "stop the process that holds it (ss -xlp src %s shows it) or choose another path"
	if err == nil || errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("%w: another process listens there: "+advice, ErrInUse, path)
	}
	return fmt.Errorf("%w, as far as can be told: "+advice+": connect: %w", ErrInUse, path, err)
}

// createFile binds fd to path, which makes its file.
func createFile(fd int, path string, mode fs.FileMode) (socketFile, error) {
	if mode == 0 {
		mode = DefaultMode
	}
	if err := unix.Fchmod(fd, uint32(mode.Perm())); err != nil {
		return socketFile{}, fmt.Errorf("fchmod: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return socketFile{}, explainBind(path, err)
	}
	file, err := identify(path)
	if err != nil {
		return socketFile{}, err
	}
	if err := file.widen(mode.Perm()); err != nil {
		return socketFile{}, errors.Join(err, file.remove())
	}
	return file, nil
}

func explainBind(path string, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE): // made by somebody who does not lock, since we looked
		return fmt.Errorf("%w: %s has just been created by another process: bind: %w", ErrInUse, path, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EROFS):
		return fmt.Errorf("user %d may not create files in %s: bind: %w", os.Geteuid(), filepath.Dir(path), err)
	}
	return fmt.Errorf("bind: %w", err)
}

func identify(path string) (socketFile, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return socketFile{}, fmt.Errorf("lstat %s: %w", path, err)
	}
	return socketFile{path: path, dev: st.Dev, ino: st.Ino}, nil
}

// widen gives back what the umask took away.
func (f socketFile) widen(mode fs.FileMode) error {
	info, err := os.Lstat(f.path)
	if err != nil || info.Mode().Perm() == mode {
		return err
	}
	return os.Chmod(f.path, mode)
}

// remove removes the file if it is still the one that was created, and does nothing for the zero socketFile.
func (f socketFile) remove() error {
	if f.path == "" {
		return nil
	}
	now, err := identify(f.path)
	if errors.Is(err, unix.ENOENT) || err == nil && now != f {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unix.Unlink(f.path); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unlink %s: %w", f.path, err)
	}
	return nil
}
