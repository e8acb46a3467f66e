package sidecar

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/listener"
)

// Whether those who are let in can get to the socket: connect(2) needs the right to write its file
// and to search each folder above it.

// SharedMode is the mode of a socket's file if others than the sidecar's own user are let in and no
// mode is given. The check of each peer decides who gets further.
const SharedMode = fs.FileMode(0o666)

// socketMode is the mode of a socket's file.
func socketMode(given, standard fs.FileMode, allow Peers) fs.FileMode {
	switch {
	case given != 0:
		return given
	case allow.none():
		return standard
	}
	return SharedMode
}

// Warnings says what of a configuration without mistakes will not do what it seems to. It looks at
// the folders that are there.
func (c *Config) Warnings() []string {
	all := unreachable("handoff", c.handoff(), c.handoffMode(), c.HandoffAllow)
	if !c.ControlOff {
		all = append(all, unreachable("control", c.control(), c.controlMode(), c.ControlAllow)...)
	}
	return all
}

// unreachable says who is let in at a socket and cannot get to it.
func unreachable(key string, a listener.Address, mode fs.FileMode, allow Peers) (all []string) {
	if a.Network != listener.Unix || a.Abstract() {
		return nil
	}
	for _, who := range allow.list() {
		if !who.may(entry{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), mode: mode}, 2) {
			all = append(all, fmt.Sprintf("%s-mode: %s may not write a socket's file of mode %s, which connecting needs; give %s, or leave it out",
				key, who, octal(mode), octal(SharedMode)))
		}
		if folder, at, closed := who.closedFolder(filepath.Dir(a.Path)); closed {
			all = append(all, fmt.Sprintf("%s: %s may not pass through the folder %s of mode %s and user %d; chmod o+x it, or give another path",
				key, who, folder, octal(at.mode), at.uid))
		}
	}
	return all
}

// entry is what decides who may do what with a file.
type entry struct {
	uid, gid uint32
	mode     fs.FileMode
}

// someone is a user with all groups, or a group of which any user may be meant.
type someone struct {
	isUser bool
	uid    uint32
	gids   []uint32
}

func (s someone) String() string {
	if s.isUser {
		return fmt.Sprintf("user %d", s.uid)
	}
	return fmt.Sprintf("group %d", s.gids[0])
}

// list is everyone who is named.
func (p Peers) list() (all []someone) {
	for _, uid := range p.UIDs {
		all = append(all, someone{isUser: true, uid: uid, gids: groupsOf(uid)})
	}
	for _, gid := range p.GIDs {
		all = append(all, someone{gids: []uint32{gid}})
	}
	return all
}

// groupsOf is the groups of a user, as far as they are known here: in a container, whose users others
// know, they may not be.
func groupsOf(uid uint32) (gids []uint32) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return nil
	}
	names, _ := u.GroupIds() // those that cannot be read are not known
	for _, name := range names {
		if gid, err := strconv.ParseUint(name, 10, 32); err == nil {
			gids = append(gids, uint32(gid))
		}
	}
	return gids
}

// may reports whether someone has the right (2: write, 1: search) to e. Of ACLs it knows nothing.
func (s someone) may(e entry, right fs.FileMode) bool {
	switch {
	case s.isUser && s.uid == 0:
		return true
	case s.isUser && s.uid == e.uid:
		return e.mode>>6&right != 0
	case slices.Contains(s.gids, e.gid):
		return e.mode>>3&right != 0
	}
	return e.mode&right != 0
}

// closedFolder finds the folder, of this one and those above it, that someone may not search. One
// that is not there will be made as it has to be.
func (s someone) closedFolder(folder string) (string, entry, bool) {
	for {
		var st unix.Stat_t
		if err := unix.Stat(folder, &st); err == nil && !hasACL(folder) {
			if e := (entry{st.Uid, st.Gid, fs.FileMode(st.Mode) & fs.ModePerm}); !s.may(e, 1) {
				return folder, e, true
			}
		}
		above := filepath.Dir(folder)
		if above == folder {
			return "", entry{}, false
		}
		folder = above
	}
}

// hasACL reports whether a file has an access control list, which may let in others than its mode.
func hasACL(path string) bool {
	n, err := unix.Getxattr(path, "system.posix_acl_access", nil)
	return err == nil && n > 0
}
