//! What a host says and does, against a sidecar that does as told.

use crate::frame::{flag, kind, Frame, MAGIC};
use crate::inbox::{Inbox, Received};
use crate::json::{parse, Value};
use crate::sys;
use crate::{CloseReason, Connection, Error, Host, Lease, NackReason, News, Options};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::thread;
use std::time::Duration;

/// Nothing here takes as long as this.
const PATIENCE: Duration = Duration::from_secs(20);

struct Sidecar {
    folder: PathBuf,
    listener: UnixListener,
}

impl Sidecar {
    fn start() -> Sidecar {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let folder = std::env::temp_dir().join(format!("anteroom-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&folder).unwrap();
        let listener = UnixListener::bind(folder.join("handoff.sock")).unwrap();
        Sidecar { folder, listener }
    }

    fn options(&self) -> Options {
        let path = self.folder.join("handoff.sock");
        Options { path, name: "web:1".to_string(), pool: "default".to_string(), capacity: 4, ..Options::default() }
    }

    fn link(&self) -> Link {
        let (socket, _) = self.listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Link { socket, inbox: Inbox::default(), received: VecDeque::new() }
    }

    /// Waits for a host and welcomes it with these features.
    fn welcome(&self, features: &str) -> (Link, Value) {
        let mut link = self.link();
        let (hello, _) = link.next(kind::HELLO);
        assert_eq!(hello.a, MAGIC | 1 << 32);
        let payload = format!(
            r#"{{"host":3,"pool":"default","capacity":4,"features":[{features}],"keep_alive_timeout_ms":74000,"epoch":"e","new":{{}}}}"#
        );
        link.say(Frame { kind: kind::WELCOME, a: 1, payload: payload.into_bytes(), ..Frame::default() });
        link.say(Frame { kind: kind::PING, ..Frame::default() });
        link.next(kind::PONG); // so it has read the WELCOME
        (link, parse(&hello.payload).unwrap())
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

struct Link {
    socket: UnixStream,
    inbox: Inbox,
    received: VecDeque<Received>,
}

impl Link {
    fn next(&mut self, wanted: u8) -> Received {
        let received = self.read().expect("the host has hung up");
        assert_eq!(received.0.kind, wanted, "{:?}", received.0);
        received
    }

    /// Waits for the host to hang up without another word.
    fn end(&mut self) {
        assert!(self.read().is_none());
    }

    fn read(&mut self) -> Option<Received> {
        let mut data = [0; 4096];
        while self.received.is_empty() {
            match sys::receive(self.socket.as_fd(), &mut data).unwrap() {
                (0, _) => return None,
                (n, fds) => self.received.extend(self.inbox.feed(&data[..n], fds).unwrap()),
            }
        }
        self.received.pop_front()
    }

    fn say(&self, frame: Frame) {
        sys::send(self.socket.as_fd(), &frame.encode(), None).unwrap();
    }

    fn lend(&self, conn: u64, seq: u32, fd: Option<BorrowedFd<'_>>) {
        let flags = if fd.is_some() { flag::FD } else { 0 };
        sys::send(self.socket.as_fd(), &Frame { kind: kind::LEASE, flags, conn, seq, ..Frame::default() }.encode(), fd).unwrap();
    }
}

/// A client, and the sidecar's end of its connection.
fn client() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (client, ours)
}

/// A host, and what it reports of its troubles.
fn attach(options: Options) -> (Host, Receiver<String>) {
    let (told, news) = channel();
    let report = move |each: News<'_>| match each {
        News::Detached { error, .. } => _ = told.send(error.to_string()),
        News::OutOfDescriptors { dropped } => _ = told.send(format!("out of descriptors, {dropped} dropped")),
        News::Attached(_) => {}
    };
    (Host::attach(options, report).unwrap(), news)
}

fn read(connection: &mut Connection) -> String {
    let mut data = [0; 100];
    let n = connection.read(&mut data).unwrap();
    String::from_utf8_lossy(&data[..n]).into_owned()
}

#[test]
fn says_who_it_is_and_answers_pings() {
    let sidecar = Sidecar::start();
    let (host, _) = attach(sidecar.options());
    let (mut link, hello) = sidecar.welcome("");
    assert_eq!(hello.get("name").unwrap().text(), Some("web:1"));
    assert_eq!(hello.get("capacity").unwrap().number(), Some(4));
    assert_eq!(hello.get("features").unwrap().texts().unwrap(), ["cache", "address", "finish"]);
    link.say(Frame { kind: kind::PING, a: u64::MAX, ..Frame::default() });
    assert_eq!(link.next(kind::PONG).0.a, u64::MAX);
    let welcome = host.welcome().unwrap();
    assert_eq!((welcome.host, welcome.keep_alive_timeout), (3, Duration::from_secs(74)));
    host.set_capacity(0).unwrap();
    assert_eq!(link.next(kind::CAPACITY).0.a, 0);
    assert!(matches!(host.set_capacity(4097), Err(Error::Option(_))));
    host.drain();
    link.next(kind::DRAIN);
}

#[test]
fn a_connection_comes_back_by_its_id() {
    let sidecar = Sidecar::start();
    let (host, _) = attach(sidecar.options());
    let (mut link, _) = sidecar.welcome(r#""cache""#);
    let (mut client, ours) = client();
    for seq in 1..4 {
        client.write_all(b"hello").unwrap();
        link.lend(7, seq, (seq == 1).then_some(ours.as_fd()));
        let mut lease = host.next().unwrap();
        assert_eq!(read(lease.connection()), "hello");
        assert_eq!(lease.connection().peer(), client.local_addr().ok());
        assert!(lease.put(Duration::from_secs(10), 3));
        let (put, _) = link.next(kind::PUT);
        assert_eq!((put.conn, put.seq, put.a, put.b), (7, seq, 10_000, 3));
    }
    link.say(Frame { kind: kind::FORGET, conn: 7, a: 2, ..Frame::default() });
    link.lend(7, 4, None);
    let (nack, _) = link.next(kind::NACK);
    assert_eq!((nack.conn, nack.seq, nack.a), (7, 4, NackReason::Unknown as u64));
}

#[test]
fn what_is_too_much_to_keep_is_dropped() {
    let sidecar = Sidecar::start();
    let (host, _) = attach(Options { cache: 1, ..sidecar.options() });
    let (mut link, _) = sidecar.welcome(r#""cache""#);
    let connections = [client(), client()];
    for (conn, (_, ours)) in (1..).zip(&connections) {
        link.lend(conn, 1, Some(ours.as_fd()));
        assert!(host.next().unwrap().put(Duration::ZERO, 1));
        link.next(kind::PUT);
    }
    assert_eq!(link.next(kind::DROPPED).0.conn, 1);
}

#[test]
fn a_lease_that_was_taken_back_is_over() {
    let sidecar = Sidecar::start();
    let (host, _) = attach(sidecar.options());
    let (mut link, _) = sidecar.welcome(r#""cache""#);
    let (_client, ours) = client();
    link.lend(7, 1, Some(ours.as_fd()));
    let mut lease = host.next().unwrap();
    link.say(Frame { kind: kind::FORGET, conn: 7, a: 5, ..Frame::default() });
    let error = lease.connection().read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    assert!(lease.over() && !lease.put(Duration::ZERO, 1));
    // Neither is it kept for later.
    link.lend(7, 2, None);
    assert_eq!(link.next(kind::NACK).0.seq, 2);
}

#[test]
fn each_answer_is_a_frame() {
    let sidecar = Sidecar::start();
    let (host, _) = attach(sidecar.options());
    let (mut link, _) = sidecar.welcome(r#""finish""#);
    let (mut client, ours) = client();
    let lend = |seq| -> Lease {
        link.lend(9, seq, Some(ours.as_fd()));
        host.next().unwrap()
    };
    let leases: Vec<Lease> = vec![lend(1)];
    drop(leases); // without an answer
    assert!(lend(2).close(CloseReason::TooSlow, 5));
    assert!(lend(3).nack(NackReason::Overload));
    let mut file = File::options().read(true).write(true).create_new(true).open(sidecar.folder.join("rest")).unwrap();
    file.write_all(b"the rest").unwrap();
    assert!(lend(4).finish(&file, 4, 4, None));
    assert!(lend(5).finish(&file, 0, 8, Some(Duration::from_millis(250))));
    assert!(lend(6).finish(&file, 0, 8, Some(Duration::ZERO)));
    let mut detached = lend(7).detach().unwrap();
    let answers: Vec<Received> =
        [kind::CLOSE, kind::CLOSE, kind::NACK, kind::FINISH, kind::FINISH, kind::FINISH, kind::DETACH].map(|kind| link.next(kind)).into();
    let said: Vec<(u32, u64, u64)> = answers.iter().map(|(frame, _)| (frame.seq, frame.a, frame.b)).collect();
    assert_eq!(said, [(1, 3, 0), (2, 2, 5), (3, 3, 0), (4, 4, 4), (5, 0, 8), (6, 0, 8), (7, 0, 0)]);
    let finishes: Vec<(u8, &[u8], bool)> =
        answers[3..6].iter().map(|(frame, fd)| (frame.flags, &frame.payload[..], fd.is_some())).collect();
    let kept = &br#"{"keep_alive_timeout_ms":250}"#[..];
    assert_eq!(finishes, [(flag::FD | flag::CLOSE, &b""[..], true), (flag::FD, kept, true), (flag::FD, &b""[..], true)]);
    detached.write_all(b"mine").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
}

/// As after MSG_CTRUNC: the frame says FD, and none came.
#[test]
fn out_of_descriptors_it_lets_go_of_what_it_keeps_and_says_so_once() {
    let sidecar = Sidecar::start();
    let (host, told) = attach(sidecar.options());
    let (mut link, _) = sidecar.welcome(r#""cache""#);
    let (_client, ours) = client();
    for conn in 1..=76 {
        link.lend(conn, 1, Some(ours.as_fd()));
        assert!(host.next().unwrap().put(Duration::ZERO, 1));
        link.next(kind::PUT);
    }
    for (seq, dropped) in [(1, 1..=19), (2, 20..=35)] {
        link.say(Frame { kind: kind::LEASE, flags: flag::FD, conn: 77, seq, ..Frame::default() });
        dropped.for_each(|conn| assert_eq!(link.next(kind::DROPPED).0.conn, conn)); // a quarter, 16 at least
        let (nack, _) = link.next(kind::NACK);
        assert_eq!((nack.conn, nack.seq, nack.a), (77, seq, NackReason::NoDescriptor as u64));
    }
    link.lend(35, 2, None);
    assert_eq!(link.next(kind::NACK).0.a, NackReason::Unknown as u64);
    link.lend(36, 2, None);
    assert!(host.next().unwrap().put(Duration::ZERO, 1));
    link.next(kind::PUT);
    drop((host, link));
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "out of descriptors, 19 dropped");
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "The sidecar hung up.");
}

#[test]
fn out_of_descriptors_with_nothing_to_let_go_of() {
    let sidecar = Sidecar::start();
    let (_host, told) = attach(sidecar.options());
    let (mut link, _) = sidecar.welcome("");
    link.say(Frame { kind: kind::LEASE, flags: flag::FD, conn: 7, seq: 9, ..Frame::default() });
    let (nack, _) = link.next(kind::NACK);
    assert_eq!((nack.conn, nack.seq, nack.a), (7, 9, NackReason::NoDescriptor as u64));
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "out of descriptors, 0 dropped");
}

#[test]
fn a_client_that_says_nothing_is_waited_for_so_long() {
    let (_client, ours) = client();
    let mut connection = Connection::new(ours.into());
    connection.set_timeout(Duration::from_millis(20));
    assert_eq!(connection.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn says_what_is_wrong_and_comes_back() {
    let sidecar = Sidecar::start();
    let missing = sidecar.folder.join("none.sock");
    let (lost, news) = attach(Options { path: missing.clone(), ..sidecar.options() });
    let told = news.recv_timeout(PATIENCE).unwrap();
    assert!(told.contains("no handoff socket") && told.contains("anteroom serve --handoff"), "{told}");
    lost.drain();
    lost.wait(PATIENCE);

    let (host, news) = attach(sidecar.options());
    sidecar.link().say(Frame { kind: kind::REFUSE, a: 14, payload: b"you are not root".to_vec(), ..Frame::default() });
    let told = news.recv_timeout(PATIENCE).unwrap();
    assert!(told.ends_with("NOT_ALLOWED: you are not root."), "{told}");
    let (link, _) = sidecar.welcome("");
    link.say(Frame { kind: 0x80, ..Frame::default() });
    let told = news.recv_timeout(PATIENCE).unwrap();
    assert!(told.contains("type 0x80"), "{told}");
    drop(sidecar.welcome(""));
    assert_eq!(news.recv_timeout(PATIENCE).unwrap(), "The sidecar hung up.");
    let (mut link, _) = sidecar.welcome("");
    link.say(Frame { kind: kind::DRAINING, ..Frame::default() });
    link.next(kind::DRAIN);
    drop(link);
    let (mut link, _) = sidecar.welcome("");
    host.drain();
    link.next(kind::DRAIN);
    link.say(Frame { kind: kind::DRAINING, ..Frame::default() });
    assert!(host.next().is_none());
    drop(link);
    host.wait(PATIENCE);
}

#[test]
fn leaves_when_its_leases_are_answered() {
    let sidecar = Sidecar::start();
    let (host, _) = attach(sidecar.options());
    let (mut link, _) = sidecar.welcome("");
    let (_client, ours) = client();
    link.lend(1, 1, Some(ours.as_fd()));
    let lease = host.next().unwrap();
    link.lend(2, 1, Some(ours.as_fd()));
    host.drain();
    link.next(kind::DRAIN);
    link.say(Frame { kind: kind::DRAINING, a: 2, ..Frame::default() });
    let waiting = thread::spawn({
        let host = host.clone();
        move || host.wait(PATIENCE)
    });
    assert!(lease.put(Duration::ZERO, 1));
    link.next(kind::PUT);
    assert_eq!(host.next().unwrap().conn(), 2, "what was lent before is served");
    link.next(kind::CLOSE); // it was dropped
    assert!(host.next().is_none());
    drop(link);
    waiting.join().unwrap();
}

#[test]
fn leaves_without_its_leases_after_a_while() {
    let sidecar = Sidecar::start();
    let (host, _) = attach(sidecar.options());
    let (mut link, _) = sidecar.welcome("");
    let (_client, ours) = client();
    link.lend(1, 1, Some(ours.as_fd()));
    let mut lease = host.next().unwrap();
    host.drain();
    host.wait(Duration::from_millis(20));
    link.next(kind::DRAIN);
    link.end();
    // The sidecar gives the request to another host: this one must not answer it, too.
    assert_eq!(lease.connection().write(b"x").unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
}

#[test]
fn finishes_what_a_sidecar_that_has_gone_had_lent() {
    let sidecar = Sidecar::start();
    let (host, _) = attach(sidecar.options());
    let (link, _) = sidecar.welcome("");
    let (mut client, ours) = client();
    link.lend(1, 1, Some(ours.as_fd()));
    let mut lease = host.next().unwrap();
    drop((link, ours));
    let (mut link, _) = sidecar.welcome("");
    lease.connection().write_all(b"done").unwrap();
    assert!(!lease.put(Duration::ZERO, 1));
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "done");
    host.drain();
    link.next(kind::DRAIN); // and no PUT
}

#[test]
fn an_address_as_the_sidecar_writes_it() {
    let sidecar = Sidecar::start();
    let path = format!("unix://{}", sidecar.folder.join("handoff.sock").display()).into();
    let (host, _) = attach(Options { path, ..sidecar.options() });
    sidecar.welcome("");
    host.drain();
    for path in ["relative.sock", "unix://relative.sock", "/unix:///a.sock"] {
        let options = Options { path: path.into(), ..sidecar.options() };
        assert_eq!(options.with_plain_path().path.to_str(), Some(path));
    }
}

#[test]
fn no_permission() {
    let cause = io::ErrorKind::PermissionDenied.into();
    let told = Error::Unreachable { path: "/h".into(), cause }.to_string();
    assert!(told.contains("socket /h.") && told.contains("handoff-allow-uid") && told.contains("handoff-allow-gid"), "{told}");
}

#[test]
fn bad_options_are_refused_at_once() {
    let good = Sidecar::start().options();
    for bad in [
        Options { name: "a b".to_string(), ..good.clone() },
        Options { name: String::new(), ..good.clone() },
        Options { pool: "x".repeat(65), ..good.clone() },
        Options { capacity: 0, ..good.clone() },
        Options { capacity: 4097, ..good.clone() },
    ] {
        assert!(matches!(Host::attach(bad, |_| {}), Err(Error::Option(_))));
    }
}
