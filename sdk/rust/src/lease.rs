//! A lease: one client's connection, lent to this host for one request.

use crate::connection::Connection;
use crate::frame::{flag, kind, Frame};
use crate::session::Session;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Why a host ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The response ended it.
    Done = 0,
    /// The client went, or sent nonsense.
    Client = 1,
    /// The client was too slow.
    TooSlow = 2,
    /// The app failed.
    App = 3,
    /// There is too much to do.
    Overload = 4,
}

/// Why a host cannot take a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NackReason {
    /// No descriptor arrived.
    NoDescriptor = 1,
    /// It is of a connection that is not held here.
    Unknown = 2,
    /// There is too much to do.
    Overload = 3,
}

/// The longest keep-alive time the protocol takes: a week.
const MAX_KEEP_ALIVE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A connection with a request on it.
///
/// Answer it by [`put`](Lease::put), [`close`](Lease::close), [`detach`](Lease::detach), [`nack`](Lease::nack) or [`finish`](Lease::finish). The answers never
/// fail; they return whether the sidecar still waited for one: not if it has taken the lease back, or its link is gone. A lease that is dropped
/// without an answer is closed, as by a thread that panics.
#[derive(Debug)]
pub struct Lease {
    session: Arc<Session>,
    connection: Option<Connection>, // None once answered
    conn: u64,
    seq: u32,
    flags: u8,
    lengths: u64,
    waited: Duration,
    peer: Option<String>,
}

impl Lease {
    pub(crate) fn new(session: Arc<Session>, frame: &Frame, connection: Connection, peer: Option<String>) -> Lease {
        let Frame { conn, seq, flags, a: lengths, b: waited, .. } = *frame;
        Lease { session, connection: Some(connection), conn, seq, flags, lengths, waited: Duration::from_micros(waited), peer }
    }

    /// The client's socket, to read the request and write the response.
    pub fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("answering takes the lease")
    }

    /// Whether the sidecar has taken this lease back, or its link is gone.
    pub fn over(&self) -> bool {
        !self.session.expects(self.conn, self.seq)
    }

    /// The connection's id, the same for all of its leases.
    pub fn conn(&self) -> u64 {
        self.conn
    }

    /// Whether this is the connection's first request.
    pub fn fresh(&self) -> bool {
        self.flags & flag::FRESH != 0
    }

    /// Whether the answer must say `Connection: close`, and CLOSE.
    pub fn last(&self) -> bool {
        self.flags & flag::LAST != 0
    }

    /// Whether the client has sent nothing within its time: answer 408 and close.
    pub fn silent(&self) -> bool {
        self.flags & flag::SILENT != 0
    }

    /// Bytes of the request's head, if known.
    pub fn head_length(&self) -> Option<usize> {
        usize::try_from(self.lengths & 0xffff_ffff).ok().filter(|&n| n > 0)
    }

    /// Bytes of the whole request, if all of it has arrived.
    pub fn request_length(&self) -> Option<usize> {
        usize::try_from(self.lengths >> 32).ok().filter(|&n| n > 0)
    }

    /// How long the request waited for this host.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The client's address as `host:port`, where it is not the socket's: a load balancer has told it.
    pub fn peer(&self) -> Option<&str> {
        self.peer.as_deref()
    }

    /// The response is sent and nothing is left unread: the connection is idle, for up to `keep_alive` (zero: the pool's time). `requests` were served.
    pub fn put(mut self, keep_alive: Duration, requests: u64) -> bool {
        let frame = Frame { kind: kind::PUT, a: milliseconds(keep_alive), b: requests, ..Frame::default() };
        self.give_back(frame, None)
    }

    /// End the connection; the sidecar sees to it that the client gets all that was sent.
    pub fn close(mut self, reason: CloseReason, requests: u64) -> bool {
        self.answer(Frame { kind: kind::CLOSE, a: reason as u64, b: requests, ..Frame::default() })
    }

    /// Keep the connection for good, as for a WebSocket: the sidecar lets go of it. None if it was taken back before.
    pub fn detach(mut self) -> Option<Connection> {
        let connection = self.connection.take()?;
        self.end(Frame { kind: kind::DETACH, ..Frame::default() }, None).then_some(connection)
    }

    /// Not now, or not here: the sidecar leases the connection again, to another host where there is one.
    pub fn nack(mut self, reason: NackReason) -> bool {
        self.answer(Frame { kind: kind::NACK, a: reason as u64, ..Frame::default() })
    }

    /// Whether [`finish`](Lease::finish) may be called: the sidecar has agreed to it.
    pub fn can_finish(&self) -> bool {
        self.session.has("finish")
    }

    /// The rest of the response is `length` bytes (at least 1) of `file` from `offset`: the sidecar sends them as the client takes them, and then puts the
    /// connection for up to that `keep_alive` (zero: the pool's time), or closes it if there is none. `file` is a regular file or memfd that has those
    /// bytes, and is not to be changed. Panics unless [`can_finish`](Lease::can_finish), or if `length` is 0.
    pub fn finish(mut self, file: impl AsFd, offset: u64, length: u64, keep_alive: Option<Duration>) -> bool {
        assert!(self.can_finish() && length > 0, "FINISH needs to be agreed, and at least one byte");
        let frame = Frame { kind: kind::FINISH, flags: flag::FD, a: offset, b: length, ..Frame::default() };
        match keep_alive.map(milliseconds) {
            None => {
                self.connection = None;
                self.end(Frame { flags: flag::FD | flag::CLOSE, ..frame }, Some(file.as_fd()))
            }
            Some(0) => self.give_back(frame, Some(file.as_fd())),
            Some(ms) => {
                let payload = format!(r#"{{"keep_alive_timeout_ms":{ms}}}"#).into_bytes();
                self.give_back(Frame { payload, ..frame }, Some(file.as_fd()))
            }
        }
    }

    fn answer(&mut self, frame: Frame) -> bool {
        self.connection = None; // closed before the sidecar may lend it elsewhere
        self.end(frame, None)
    }

    /// An answer after which the descriptor may be kept for the next lease.
    fn give_back(&mut self, frame: Frame, fd: Option<BorrowedFd<'_>>) -> bool {
        let connection = self.connection.take().expect("answering takes the lease");
        self.session.give_back(Frame { conn: self.conn, seq: self.seq, ..frame }, fd, connection)
    }

    fn end(&mut self, frame: Frame, fd: Option<BorrowedFd<'_>>) -> bool {
        self.session.answer(Frame { conn: self.conn, seq: self.seq, ..frame }, fd)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.connection.is_some() {
            self.answer(Frame { kind: kind::CLOSE, a: CloseReason::App as u64, ..Frame::default() });
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.min(MAX_KEEP_ALIVE).as_millis()).expect("a week fits")
}
