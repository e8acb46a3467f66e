//! A host: a process that borrows connections from a sidecar.

use crate::error::Error;
use crate::lease::Lease;
use crate::options::{check_capacity, Options};
use crate::session::{Event, Session, Welcome};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The first delay before another attempt, and the longest.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// How long a link must have lasted for the next attempt, after its loss, to come without much delay.
const STABLE: Duration = Duration::from_secs(5);

/// What a host learns about its link.
#[derive(Debug)]
pub enum News<'a> {
    /// The sidecar has welcomed this host.
    Attached(&'a Welcome),
    /// This process had no descriptor left for a connection: raise its limit of open files (`ulimit -n`), or lower
    /// [`Options::cache`](crate::Options::cache). Said once, though it goes on.
    OutOfDescriptors {
        /// How many idle connections were let go of for it.
        dropped: usize,
    },
    /// The link has ended or could not be made.
    Detached {
        /// Why.
        error: &'a Error,
        /// When the next attempt comes; None: never.
        retry_in: Option<Duration>,
    },
}

/// Attaches to a sidecar and stays attached: a lost link is made again, with growing delays, until [`drain`](Host::drain). Clones are the same host.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    session: Option<Arc<Session>>,
    ready: VecDeque<Lease>, // and not yet taken by a thread; never more than the capacity
    capacity: u32,
    leaving: bool,
    ended: bool, // the thread of the link has
    told_of_shortage: bool,
}

impl Host {
    /// Begins to attach, in a thread of its own. `report` is called there with what becomes of it. Errors: [`Error::Option`].
    pub fn attach(options: Options, report: impl FnMut(News<'_>) + Send + 'static) -> Result<Host, Error> {
        options.check()?;
        let options = options.with_plain_path();
        let state = State {
            session: None,
            ready: VecDeque::new(),
            capacity: options.capacity,
            leaving: false,
            ended: false,
            told_of_shortage: false,
        };
        let shared = Arc::new(Shared { options, state: Mutex::new(state), changed: Condvar::new() });
        let host = Host { shared: shared.clone() };
        thread::spawn(move || shared.stay_attached(report));
        Ok(host)
    }

    /// Waits for a lease. None: this host has left, and no more will come. For any number of threads.
    pub fn next(&self) -> Option<Lease> {
        let mut state = self.shared.state();
        loop {
            match state.ready.pop_front() {
                Some(lease) if lease.over() => drop(lease), // taken back meanwhile
                Some(lease) => return Some(lease),
                None if state.leaving && state.session.as_ref().is_none_or(|session| session.drained()) => return None,
                None => state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// What the sidecar has granted, None while not attached.
    pub fn welcome(&self) -> Option<Welcome> {
        self.shared.session()?.welcome()
    }

    /// Take up to `capacity` leases at once from now on, 0 to 4096; 0 pauses this host. Errors: [`Error::Option`].
    pub fn set_capacity(&self, capacity: u32) -> Result<(), Error> {
        check_capacity(capacity, 0)?;
        self.shared.state().capacity = capacity;
        if let Some(session) = self.shared.session().filter(|session| session.welcome().is_some()) {
            session.set_capacity(capacity);
        }
        Ok(())
    }

    /// Leave: no new leases come, and when all are answered the link ends. Does not wait for it.
    pub fn drain(&self) {
        self.shared.state().leaving = true;
        self.shared.changed.notify_all();
        if let Some(session) = self.shared.session() {
            session.drain();
        }
    }

    /// Waits, after [`drain`](Host::drain), until the sidecar has all answers. After `timeout` it hangs up; what is still out is the sidecar's then.
    pub fn wait(&self, timeout: Duration) {
        if self.shared.wait_until(timeout, |state| state.ended) {
            return;
        }
        if let Some(session) = self.shared.session() {
            session.hang_up();
        }
        self.shared.wait_until(Duration::MAX, |state| state.ended);
    }
}

impl Shared {
    fn stay_attached(&self, mut report: impl FnMut(News<'_>)) {
        let mut delay = FIRST_DELAY;
        loop {
            let began = Instant::now();
            let error = self.attach_once(&mut report);
            if began.elapsed() > STABLE {
                delay = FIRST_DELAY;
            }
            let retry_in = (!self.state().leaving).then(|| jittered(delay));
            report(News::Detached { error: &error, retry_in });
            delay = LONGEST_DELAY.min(2 * delay);
            let Some(retry_in) = retry_in else { break };
            if self.wait_until(retry_in, |state| state.leaving) {
                break;
            }
        }
        self.state().ended = true;
        self.changed.notify_all();
    }

    fn attach_once(&self, report: &mut impl FnMut(News<'_>)) -> Error {
        let session = match Session::open(&self.options, self.state().capacity) {
            Ok(session) => session,
            Err(error) => return error,
        };
        let leaving = {
            let mut state = self.state();
            state.session = Some(session.clone());
            state.leaving
        };
        if leaving {
            session.drain();
        }
        let error = session.run(|event| {
            match event {
                Event::Attached(welcome) => {
                    if self.state().capacity == 0 {
                        session.set_capacity(0); // a HELLO cannot say that
                    }
                    report(News::Attached(&welcome));
                }
                Event::Leased(lease) => self.state().ready.push_back(lease),
                Event::OutOfDescriptors(dropped) => {
                    if !std::mem::replace(&mut self.state().told_of_shortage, true) {
                        report(News::OutOfDescriptors { dropped });
                    }
                }
                Event::Draining => {}
            }
            self.changed.notify_all();
        });
        self.state().session = None;
        self.changed.notify_all();
        error
    }

    /// Waits for at most `timeout`. Returns whether it has come to be.
    fn wait_until(&self, timeout: Duration, mut wanted: impl FnMut(&State) -> bool) -> bool {
        let state = self.state();
        let waited = self.changed.wait_timeout_while(state, timeout, |state| !wanted(state));
        let (_state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        !result.timed_out()
    }

    fn session(&self) -> Option<Arc<Session>> {
        self.state().session.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shortened by up to a half, at random, so that hosts which lost their sidecar together do not come back together.
fn jittered(delay: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) as u32;
    delay.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}
