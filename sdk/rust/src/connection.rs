//! A client's connection, as the sidecar lends it.

use crate::sys::{self, Ready};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often one who waits looks whether the lease was taken back. No event tells: the descriptor is shared, and nothing happens to it.
const GLANCE: Duration = Duration::from_millis(200);

/// A client's socket. Reading and writing wait, each for at most [`set_timeout`](Connection::set_timeout); the socket itself never blocks, for that flag is
/// shared with the sidecar. Dropping a connection closes this process's descriptor, which ends nothing; there is no shutdown, which would end it for
/// everybody. Errors: `TimedOut`, `ConnectionAborted` once the lease was taken back, else the system call's.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream, // or a Unix socket: only calls that suit both are made
    timeout: Duration,
    revoked: Arc<AtomicBool>,
}

impl Connection {
    pub(crate) fn new(fd: OwnedFd) -> Connection {
        Connection { socket: TcpStream::from(fd), timeout: Duration::from_secs(60), revoked: Arc::default() }
    }

    /// A new mark for a new lease; whoever sets it takes the lease back.
    pub(crate) fn lend(&mut self) -> Arc<AtomicBool> {
        self.revoked = Arc::default();
        self.revoked.clone()
    }

    /// How long a read or write waits for the client. The default is 60 s.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// The address of the other end; a load balancer's, if there is one. None for a Unix socket, or if the client has gone.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()
    }

    /// The descriptor, for one who has detached the connection.
    pub fn into_fd(self) -> OwnedFd {
        self.socket.into()
    }

    /// Repeats a call that does not block until it has done something.
    fn patiently<T>(&self, ready: Ready, mut call: impl FnMut(&TcpStream) -> io::Result<T>) -> io::Result<T> {
        let mut deadline = None; // asking for the time only if there is a wait
        loop {
            if self.revoked.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the lease was taken back"));
            }
            match call(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                done => return done,
            }
            let left = deadline.get_or_insert_with(|| Instant::now() + self.timeout).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            sys::wait(self.socket.as_fd(), ready, left.min(GLANCE))?;
        }
    }
}

impl Read for Connection {
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        self.patiently(Ready::Read, |mut socket| socket.read(data))
    }
}

impl Write for Connection {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.patiently(Ready::Write, |mut socket| socket.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
