//! The few calls of the C library that std does not have: descriptors over a socket, poll, and waiting for a signal.
//!
//! All of the crate's unsafe code is here, behind functions that are safe to call. It rests on these facts:
//!
//! * The structures are laid out as the Linux kernel takes them (recvmsg(2), cmsg(3), poll(2)), which glibc and musl pass through: lengths are as wide
//!   as a pointer, and musl's narrower fields stand, with their padding, in the same place and order on little-endian machines.
//! * Every pointer given to a call points to a local or a borrowed slice that outlives the call; the kernel keeps none.
//! * A descriptor that SCM_RIGHTS has delivered is new and nobody else's, so an `OwnedFd` may own it.
#![allow(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_endian = "little")))]
compile_error!("the handoff protocol passes descriptors as Linux does; the structures here are for little-endian machines");

use std::ffi::{c_int, c_short, c_void};
use std::io;
use std::mem::{size_of, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

const SOL_SOCKET: c_int = 1;
const SCM_RIGHTS: c_int = 1;
const MSG_NOSIGNAL: c_int = 0x4000;
const MSG_CMSG_CLOEXEC: c_int = 0x4000_0000;
const POLLIN: c_short = 0x001;
const POLLOUT: c_short = 0x004;
const SIG_BLOCK: c_int = 0;

/// The most descriptors that Linux lets one message carry (SCM_MAX_FD). One is allowed here; surplus ones have to be seen to be closed.
const MAX_RIGHTS: usize = 253;

#[repr(C)]
struct IoVec {
    base: *mut c_void,
    len: usize,
}

#[repr(C)]
struct MsgHdr {
    name: *mut c_void,
    name_len: u32,
    iov: *mut IoVec,
    iov_len: usize,
    control: *mut c_void,
    control_len: usize,
    flags: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CmsgHdr {
    len: usize,
    level: c_int,
    kind: c_int,
}

/// A control buffer: aligned as a cmsghdr, with room for one message of `N` descriptors.
#[repr(C)]
struct Rights<const N: usize> {
    header: CmsgHdr,
    fds: [RawFd; N],
}

#[repr(C)]
struct PollFd {
    fd: RawFd,
    events: c_short,
    revents: c_short,
}

/// sigset_t: 1024 bits in glibc and musl.
#[repr(C)]
struct SigSet([u64; 16]);

extern "C" {
    fn recvmsg(fd: RawFd, message: *mut MsgHdr, flags: c_int) -> isize;
    fn sendmsg(fd: RawFd, message: *const MsgHdr, flags: c_int) -> isize;
    fn poll(fds: *mut PollFd, count: usize, milliseconds: c_int) -> c_int;
    fn sigemptyset(set: *mut SigSet) -> c_int;
    fn sigaddset(set: *mut SigSet, signal: c_int) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const SigSet, old: *mut SigSet) -> c_int;
    fn sigwait(set: *const SigSet, signal: *mut c_int) -> c_int;
}

/// Reads once, waiting as the socket's own timeout says. Returns how many bytes came, 0 at the end, and the descriptors with them.
pub fn receive(socket: BorrowedFd<'_>, data: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Rights { header: CmsgHdr { len: 0, level: 0, kind: 0 }, fds: [-1; MAX_RIGHTS] };
    let mut iov = IoVec { base: data.as_mut_ptr().cast(), len: data.len() };
    let mut message = header_of(&mut iov, (&raw mut control).cast(), size_of::<Rights<MAX_RIGHTS>>());
    // SAFETY: the message points to `iov`, `data` and `control`, with their lengths; all outlive the call.
    let n = retry(|| unsafe { recvmsg(socket.as_raw_fd(), &raw mut message, MSG_CMSG_CLOEXEC) })?;
    if message.control_len < size_of::<CmsgHdr>() || control.header.level != SOL_SOCKET || control.header.kind != SCM_RIGHTS {
        return Ok((n, Vec::new()));
    }
    let count = (control.header.len.saturating_sub(size_of::<CmsgHdr>()) / size_of::<RawFd>()).min(MAX_RIGHTS);
    // SAFETY: the kernel has just put these descriptors into this process, for this call's caller.
    let fds = control.fds[..count].iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
    Ok((n, fds))
}

/// Sends all of `data`, waiting as long as it takes; a descriptor, which stays the caller's, goes with its first byte.
pub fn send(socket: BorrowedFd<'_>, mut data: &[u8], mut fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    while !data.is_empty() {
        let n = send_once(socket, data, fd.take())?;
        data = &data[n..];
    }
    Ok(())
}

fn send_once(socket: BorrowedFd<'_>, data: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let used = size_of::<CmsgHdr>() + size_of::<RawFd>();
    // Two, for the padding behind one (CMSG_SPACE).
    let mut control = Rights { header: CmsgHdr { len: used, level: SOL_SOCKET, kind: SCM_RIGHTS }, fds: [0; 2] };
    let mut iov = IoVec { base: data.as_ptr().cast_mut().cast(), len: data.len() };
    let mut message = header_of(&mut iov, ptr::null_mut(), 0);
    if let Some(fd) = fd {
        control.fds[0] = fd.as_raw_fd();
        message.control = (&raw mut control).cast();
        message.control_len = size_of::<Rights<2>>();
    }
    // SAFETY: as in `receive`; sendmsg does not write to `data`, whose pointer is mutable only because the structure serves both calls.
    retry(|| unsafe { sendmsg(socket.as_raw_fd(), &raw const message, MSG_NOSIGNAL) })
}

fn header_of(iov: &mut IoVec, control: *mut c_void, control_len: usize) -> MsgHdr {
    MsgHdr { name: ptr::null_mut(), name_len: 0, iov, iov_len: 1, control, control_len, flags: 0 }
}

/// What to wait for.
#[derive(Clone, Copy)]
pub enum Ready {
    /// Something to read, or the end.
    Read,
    /// Room to write, or the end.
    Write,
}

/// Waits for at most `timeout`. Returns whether it has come.
pub fn wait(socket: BorrowedFd<'_>, ready: Ready, timeout: Duration) -> io::Result<bool> {
    let events = match ready {
        Ready::Read => POLLIN,
        Ready::Write => POLLOUT,
    };
    let mut entry = PollFd { fd: socket.as_raw_fd(), events, revents: 0 };
    let milliseconds = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX).max(1);
    // SAFETY: one entry, which outlives the call.
    let n = retry(|| unsafe { poll(&raw mut entry, 1, milliseconds) as isize })?;
    Ok(n > 0)
}

/// SIGTERM and SIGINT, kept from ending the process.
pub struct Termination(SigSet);

impl Termination {
    /// Blocks the signals in this thread, and in those that it starts from now on: call this first in `main`.
    pub fn block() -> io::Result<Termination> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set, which the other calls only read or amend; no old mask is asked for.
        unsafe {
            sigemptyset(set.as_mut_ptr());
            for signal in [SIGTERM, SIGINT] {
                sigaddset(set.as_mut_ptr(), signal);
            }
            match pthread_sigmask(SIG_BLOCK, set.as_ptr(), ptr::null_mut()) {
                0 => Ok(Termination(set.assume_init())),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
    }

    /// Waits for one of them.
    pub fn wait(&self) {
        let mut signal = 0;
        // SAFETY: both pointers are to what outlives the call. It fails only for a set that is none.
        while unsafe { sigwait(&raw const self.0, &raw mut signal) } != 0 {}
    }
}

const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(n) => return Ok(n),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
