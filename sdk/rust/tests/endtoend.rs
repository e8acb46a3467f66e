//! What clients notice when processes die, leave and come: nothing. With the real sidecar and the conformance app.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

const REQUESTS: usize = 1000;
const CONNECTIONS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(20);

struct Sidecar {
    folder: PathBuf,
    child: Child,
    port: u16,
}

/// The built anteroom program.
fn program() -> PathBuf {
    let path = env::var_os("ANTEROOM_TEST_BINARY")
        .expect("Set ANTEROOM_TEST_BINARY to the path of a built anteroom (make build makes bin/anteroom).");
    path.into()
}

/// The conformance app, as cargo build --examples leaves it.
fn app() -> PathBuf {
    let path = env::current_exe().unwrap().with_file_name("../examples/conformance");
    assert!(path.exists(), "{} is not there: run cargo build --examples", path.display());
    path
}

impl Sidecar {
    fn start() -> Sidecar {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let folder = env::temp_dir().join(format!("anteroom-e2e-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&folder).unwrap();
        let mut command = Command::new(program());
        command.args(["serve", "--listen", "tcp://127.0.0.1:0", "--log-level", "error"]);
        command.arg("--handoff").arg(folder.join("handoff.sock")).arg("--control").arg(format!("unix://{}/control.sock", folder.display()));
        let mut sidecar = Sidecar { child: command.spawn().unwrap(), folder, port: 0 };
        assert!(sidecar.ask(&["healthcheck", "--live", "--wait", "10s"]).status.success());
        let status = String::from_utf8(sidecar.ask(&["status"]).stdout).unwrap();
        let address =
            status.split_whitespace().find_map(|word| word.strip_prefix("tcp://127.0.0.1:")?.parse().ok().filter(|&port: &u16| port > 0));
        sidecar.port = address.expect("status tells the port");
        sidecar
    }

    fn ask(&self, words: &[&str]) -> Output {
        let control = format!("unix://{}/control.sock", self.folder.display());
        Command::new(program()).args(words).args(["--control", &control]).stderr(Stdio::null()).output().unwrap()
    }

    /// Waits until this text is among the hosts, or is not.
    fn await_host(&self, name: &str, there: bool) {
        let deadline = Instant::now() + PATIENCE;
        while String::from_utf8(self.ask(&["hosts"]).stdout).unwrap().contains(name) != there {
            assert!(Instant::now() < deadline, "{name}: {there} was awaited");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A process with a host in it, attached.
    fn app(&self, name: &str) -> App {
        let mut command = Command::new(app());
        command.env("ANTEROOM_HANDOFF", self.folder.join("handoff.sock")).env("ANTEROOM_NAME", name).env_remove("ANTEROOM_POOL");
        let app = App(command.spawn().unwrap());
        self.await_host(name, true);
        app
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

struct App(Child);

impl App {
    /// Ends it by SIGTERM, and says whether it ended with code 0.
    fn leaves(mut self) -> bool {
        assert!(Command::new("kill").arg(self.0.id().to_string()).status().unwrap().success());
        self.0.wait().unwrap().success()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client with one connection, which it makes anew when it has ended.
struct Client {
    port: u16,
    connection: Option<BufReader<TcpStream>>,
    made: usize,
}

impl Client {
    /// Asks for the process's number. Returns the status; a request without an answer is 0.
    fn ask(&mut self) -> u16 {
        let status = self.try_ask();
        if !matches!(status, Ok(200)) {
            self.connection = None;
        }
        status.unwrap_or(0)
    }

    fn try_ask(&mut self) -> io::Result<u16> {
        if self.connection.is_none() {
            let socket = TcpStream::connect(("127.0.0.1", self.port))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            self.connection = Some(BufReader::new(socket));
            self.made += 1;
        }
        let connection = self.connection.as_mut().expect("it was just made");
        connection.get_mut().write_all(b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let (mut status, mut length) = (0, 0);
        for line in connection.by_ref().lines() {
            let line = line?;
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().unwrap_or(0);
            } else if let Some(rest) = line.strip_prefix("Content-Length: ") {
                length = rest.parse().unwrap_or(0);
            } else if line.is_empty() {
                break;
            }
        }
        connection.read_exact(&mut vec![0; length])?;
        Ok(status)
    }
}

/// Asks at least REQUESTS times over CONNECTIONS connections, beginning before `event` and ending after it. A request that fails is tried a second time, as
/// clients do with GET. Returns how often each status came, and how many connections it took.
fn load(port: u16, event: impl FnOnce() + Send) -> (BTreeMap<u16, usize>, usize) {
    let counts = Mutex::new(BTreeMap::new());
    let (asked, made, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let client = || {
        let mut client = Client { port, connection: None, made: 0 };
        while asked.fetch_add(1, Ordering::Relaxed) < REQUESTS || !over.load(Ordering::Relaxed) {
            for _ in 0..2 {
                let status = client.ask();
                *counts.lock().unwrap().entry(status).or_default() += 1;
                if status == 200 {
                    break;
                }
            }
        }
        made.fetch_add(client.made, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(client);
        }
        while asked.load(Ordering::Relaxed) < REQUESTS / 4 {
            thread::sleep(Duration::from_millis(1));
        }
        // Also if it panics: the clients are waited for.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(event));
        over.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    (counts.into_inner().unwrap(), made.into_inner())
}

#[test]
fn a_rolling_restart_loses_no_request_and_closes_no_connection() {
    let sidecar = Sidecar::start();
    let first = sidecar.app("first");
    let mut last = None;
    let (counts, made) = load(sidecar.port, || {
        let second = sidecar.app("second");
        assert!(first.leaves());
        last = Some(sidecar.app("third"));
        assert!(second.leaves());
    });
    assert_eq!(counts.keys().collect::<Vec<_>>(), [&200]);
    assert_eq!(made, CONNECTIONS);
    assert!(last.unwrap().leaves());
}

#[test]
fn kill_9_loses_at_most_what_was_being_worked_on() {
    let sidecar = Sidecar::start();
    let (victim, heir) = (sidecar.app("victim"), sidecar.app("heir"));
    let (mut counts, _) = load(sidecar.port, || drop(victim));
    assert!(counts.remove(&200) >= Some(REQUESTS));
    // 502: the request was read, nothing was sent. None: the response may have begun.
    let failed = counts.remove(&502).unwrap_or(0) + counts.remove(&0).unwrap_or(0);
    assert!(failed <= CONNECTIONS && counts.is_empty(), "{failed}, {counts:?}");
    assert!(heir.leaves());
}

#[test]
fn the_sidecar_dies_and_another_is_found() {
    let mut sidecar = Sidecar::start();
    let app = sidecar.app("app");
    sidecar.child.kill().unwrap();
    sidecar.child.wait().unwrap();
    let successor = Sidecar::start();
    fs::rename(successor.folder.join("handoff.sock"), sidecar.folder.join("handoff.sock")).unwrap();
    successor.await_host("app", true);
    let (counts, _) = load(successor.port, || {});
    assert_eq!(counts.keys().collect::<Vec<_>>(), [&200]);
    assert!(app.leaves());
}
