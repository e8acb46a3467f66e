//! One attachment to a sidecar, from HELLO to the end of its link.

use crate::cache::Cache;
use crate::connection::Connection;
use crate::error::Error;
use crate::frame::{code_name, flag, kind, Frame, MAGIC, VERSION};
use crate::inbox::{Inbox, Received};
use crate::json::{self, Value};
use crate::lease::{Lease, NackReason};
use crate::options::Options;
use crate::sys;
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Within which the sidecar must answer HELLO; then the link is given up.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);

/// What the sidecar grants a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Welcome {
    /// This host's number.
    pub host: u64,
    /// The pool it serves.
    pub pool: String,
    /// How many leases at once.
    pub capacity: u64,
    /// The features that were agreed.
    pub features: Vec<String>,
    /// The addresses whose connections the pool gets.
    pub listeners: Vec<String>,
    /// How long an idle connection is kept, which clients may be told.
    pub keep_alive_timeout: Duration,
    /// Different for each life of the sidecar.
    pub epoch: String,
}

impl Welcome {
    fn of(value: &Value) -> Welcome {
        let text = |name| value.get(name).and_then(Value::text).unwrap_or_default().to_string();
        let number = |name| value.get(name).and_then(Value::number).unwrap_or_default();
        let texts = |name| value.get(name).and_then(Value::texts).unwrap_or_default();
        Welcome {
            host: number("host"),
            pool: text("pool"),
            capacity: number("capacity"),
            features: texts("features"),
            listeners: texts("listeners"),
            keep_alive_timeout: Duration::from_millis(number("keep_alive_timeout_ms")),
            epoch: text("epoch"),
        }
    }
}

/// What a session tells the host that runs it.
pub enum Event {
    Attached(Welcome),
    Leased(Lease),
    /// There was no descriptor left for a lease; so many idle connections were let go of.
    OutOfDescriptors(usize),
    /// The sidecar asks this host to leave, or confirms that it does: no lease comes any more.
    Draining,
}

/// A link, what is leased over it, and what is kept of it.
#[derive(Debug)]
pub struct Session {
    socket: UnixStream,
    sending: Mutex<()>, // held while a frame is sent, so that frames stay whole
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    welcome: Option<Welcome>,
    leases: HashMap<u64, Out>,
    idle: Cache,
    draining: bool, // this host has said so
    drained: bool,  // the sidecar has confirmed it
    over: bool,
}

/// A lease that is out.
#[derive(Debug)]
struct Out {
    seq: u32,
    revoked: Arc<AtomicBool>,
}

impl Session {
    /// Connects and says HELLO.
    pub fn open(options: &Options, capacity: u32) -> Result<Arc<Session>, Error> {
        let unreachable = |cause| Error::Unreachable { path: options.path.clone(), cause };
        let socket = UnixStream::connect(&options.path).map_err(unreachable)?;
        socket.set_read_timeout(Some(WELCOME_TIMEOUT)).map_err(unreachable)?;
        let idle = Cache::new(options.cache);
        let state = State { welcome: None, leases: HashMap::new(), idle, draining: false, drained: false, over: false };
        let session = Arc::new(Session { socket, sending: Mutex::default(), state: Mutex::new(state) });
        let payload = options.hello(capacity.max(1)).into_bytes();
        session.send(&Frame { kind: kind::HELLO, a: MAGIC | VERSION << 32, payload, ..Frame::default() }, None);
        Ok(session)
    }

    /// Reads until the link ends, and says why it did. What is out may be finished then, unless it was this host that hung up: the sidecar has taken
    /// that back.
    pub fn run(self: &Arc<Self>, mut tell: impl FnMut(Event)) -> Error {
        let mut inbox = Inbox::default();
        let mut data = vec![0; 64 << 10];
        let why = loop {
            match self.turn(&mut inbox, &mut data, &mut tell) {
                Ok(()) => {}
                Err(why) => break why,
            }
        };
        let gone = matches!(why, Error::LinkLost(_));
        self.end(!gone);
        why
    }

    fn turn(self: &Arc<Self>, inbox: &mut Inbox, data: &mut [u8], tell: &mut impl FnMut(Event)) -> Result<(), Error> {
        let (n, fds) = match sys::receive(self.socket.as_fd(), data) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Error::LinkLost(no_welcome())),
            Err(error) => return Err(Error::LinkLost(format!("The link to the sidecar broke: {error}."))),
        };
        if n == 0 {
            return Err(Error::LinkLost("The sidecar hung up.".to_string()));
        }
        inbox.feed(&data[..n], fds)?.into_iter().try_for_each(|received| self.take(received, tell))
    }

    fn take(self: &Arc<Self>, (frame, fd): Received, tell: &mut impl FnMut(Event)) -> Result<(), Error> {
        match frame.kind {
            kind::LEASE if frame.flags & flag::FD != 0 && fd.is_none() => tell(Event::OutOfDescriptors(self.on_lost_descriptor(&frame))),
            kind::LEASE => self.on_lease(&frame, fd)?.into_iter().for_each(|lease| tell(Event::Leased(lease))),
            kind::FORGET => self.forget(frame.conn),
            kind::PING => _ = self.send(&Frame { kind: kind::PONG, a: frame.a, ..Frame::default() }, None),
            kind::WELCOME => tell(Event::Attached(self.on_welcome(&frame)?)),
            kind::DRAINING => {
                self.drain();
                self.state().drained = true;
                tell(Event::Draining);
            }
            kind::REFUSE => return Err(Error::Refused { code: code_name(frame.a), reason: sentence(&frame) }),
            kind::ERROR => return Err(Error::Ended { code: code_name(frame.a), reason: sentence(&frame) }),
            _ => {} // a word of a later version, which may be ignored
        }
        Ok(())
    }

    fn on_welcome(&self, frame: &Frame) -> Result<Welcome, Error> {
        let welcome = Welcome::of(&object(frame)?);
        self.socket.set_read_timeout(None).map_err(|error| Error::LinkLost(error.to_string()))?;
        self.state().welcome = Some(welcome.clone());
        Ok(welcome)
    }

    fn on_lease(self: &Arc<Self>, frame: &Frame, fd: Option<OwnedFd>) -> Result<Option<Lease>, Error> {
        let peer = if frame.payload.is_empty() { None } else { object(frame)?.get("peer").and_then(Value::text).map(str::to_string) };
        let mut state = self.state();
        let held = state.idle.take(frame.conn);
        let Some(mut connection) = fd.map(Connection::new).or(held) else {
            drop(state);
            self.refuse(frame, NackReason::Unknown);
            return Ok(None);
        };
        state.leases.insert(frame.conn, Out { seq: frame.seq, revoked: connection.lend() });
        Ok(Some(Lease::new(self.clone(), frame, connection, peer)))
    }

    /// The process is out of descriptors: makes room, so that the lease can come again, and refuses it for now. Returns how many idle connections
    /// were let go of.
    fn on_lost_descriptor(&self, frame: &Frame) -> usize {
        let dropped = self.state().idle.make_room();
        for &conn in &dropped {
            self.send(&Frame { kind: kind::DROPPED, conn, ..Frame::default() }, None);
        }
        self.refuse(frame, NackReason::NoDescriptor);
        dropped.len()
    }

    fn refuse(&self, frame: &Frame, why: NackReason) {
        self.send(&Frame { kind: kind::NACK, seq: frame.seq, conn: frame.conn, a: why as u64, ..Frame::default() }, None);
    }

    fn forget(&self, conn: u64) {
        let mut state = self.state();
        state.idle.take(conn);
        if let Some(out) = state.leases.remove(&conn) {
            out.revoked.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the sidecar has agreed to a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.state().welcome.as_ref().is_some_and(|welcome| welcome.features.iter().any(|agreed| agreed == feature))
    }

    pub fn welcome(&self) -> Option<Welcome> {
        self.state().welcome.clone()
    }

    /// Whether no lease comes any more.
    pub fn drained(&self) -> bool {
        let state = self.state();
        state.drained || state.over
    }

    /// Whether the sidecar still waits for this lease's answer.
    pub fn expects(&self, conn: u64, seq: u32) -> bool {
        self.state().expects(conn, seq)
    }

    /// Answers a lease, if it is still out.
    pub fn answer(&self, frame: Frame, fd: Option<BorrowedFd<'_>>) -> bool {
        {
            let mut state = self.state();
            if !state.expects(frame.conn, frame.seq) {
                return false;
            }
            state.leases.remove(&frame.conn);
        }
        self.send(&frame, fd)
    }

    /// Answers a lease by PUT or FINISH, and keeps its connection where that was agreed.
    pub fn give_back(&self, frame: Frame, fd: Option<BorrowedFd<'_>>, connection: Connection) -> bool {
        let conn = frame.conn;
        let dropped = {
            let mut state = self.state();
            if !state.expects(conn, frame.seq) {
                return false;
            }
            // Before the answer: the next lease may come right after it.
            let cache = state.welcome.as_ref().is_some_and(|welcome| welcome.features.iter().any(|agreed| agreed == "cache"));
            if cache {
                state.idle.keep(conn, connection)
            } else {
                drop(connection);
                None
            }
        };
        let sent = self.answer(frame, fd);
        if let Some(conn) = dropped {
            self.send(&Frame { kind: kind::DROPPED, conn, ..Frame::default() }, None);
        }
        sent
    }

    pub fn set_capacity(&self, capacity: u32) {
        self.send(&Frame { kind: kind::CAPACITY, a: capacity.into(), ..Frame::default() }, None);
    }

    /// Says that this host leaves. The sidecar hangs up when the last lease is answered.
    pub fn drain(&self) {
        let mut state = self.state();
        if std::mem::replace(&mut state.draining, true) {
            return;
        }
        let welcome = state.welcome.is_some();
        drop(state);
        if welcome {
            self.send(&Frame { kind: kind::DRAIN, ..Frame::default() }, None);
        } else {
            self.hang_up(); // nothing is held, and who knows when the sidecar reads
        }
    }

    /// Ends the link. The sidecar takes back what is out.
    pub fn hang_up(&self) {
        self.end(true);
        let _ = self.socket.shutdown(Shutdown::Both); // which the thread in `run` notices; it fails if the other side was first
    }

    fn end(&self, revoke: bool) {
        let mut state = self.state();
        state.over = true;
        state.idle = Cache::default();
        for (_, out) in state.leases.drain() {
            out.revoked.store(revoke, Ordering::Relaxed);
        }
    }

    /// Returns whether it was sent. If not, the thread in `run` learns why.
    fn send(&self, frame: &Frame, fd: Option<BorrowedFd<'_>>) -> bool {
        let _whole = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        sys::send(self.socket.as_fd(), &frame.encode(), fd).is_ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn expects(&self, conn: u64, seq: u32) -> bool {
        !self.over && self.leases.get(&conn).is_some_and(|out| out.seq == seq)
    }
}

fn no_welcome() -> String {
    format!("The sidecar did not answer HELLO within {} s.", WELCOME_TIMEOUT.as_secs())
}

fn object(frame: &Frame) -> Result<Value, Error> {
    match json::parse(&frame.payload) {
        Some(value @ Value::Object(_)) => Ok(value),
        _ => Err(Error::Protocol { code: "BAD_PAYLOAD", what: "what is no JSON object".to_string() }),
    }
}

fn sentence(frame: &Frame) -> String {
    String::from_utf8_lossy(&frame.payload).into_owned()
}
