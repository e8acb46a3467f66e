//! What a host is told to be.

use crate::error::Error;
use crate::json::quote;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::{env, process};

const DEFAULT_PATH: &str = "/run/anteroom/handoff.sock";
const MAX_CAPACITY: u32 = 4096;
const MAX_NAME: usize = 64;

/// Where the sidecar is, and as what this process attaches.
#[derive(Debug, Clone)]
pub struct Options {
    /// The sidecar's handoff socket; may begin with `unix://`, as in the sidecar's options.
    pub path: PathBuf,
    /// How operators see this host: 1 to 64 of `A-Z a-z 0-9 . _ : -`.
    pub name: String,
    /// The pool to serve; empty: a private one that ends with this host.
    pub pool: String,
    /// How many leases at once, 1 to 4096: as many as there are threads for them.
    pub capacity: u32,
    /// Idle connections of which the descriptor is kept, which saves passing it for each request. 0: none.
    pub cache: usize,
    /// Whether the client's address is wanted where a load balancer has told it ([`Lease::peer`](crate::Lease::peer)).
    pub address: bool,
    /// Whether the sidecar may send the rest of a response ([`Lease::finish`](crate::Lease::finish)).
    pub finish: bool,
}

impl Default for Options {
    /// From the environment: ANTEROOM_HANDOFF (else `/run/anteroom/handoff.sock`), ANTEROOM_POOL (else `default`), ANTEROOM_NAME (else `rust-` and the
    /// process id) and ANTEROOM_CAPACITY (else 16). One that is no number is 0, which [`Host::attach`](crate::Host::attach) refuses.
    fn default() -> Options {
        let given = |variable| env::var(variable).ok().filter(|value| !value.is_empty());
        Options {
            path: given("ANTEROOM_HANDOFF").unwrap_or_else(|| DEFAULT_PATH.to_string()).into(),
            name: given("ANTEROOM_NAME").unwrap_or_else(|| format!("rust-{}", process::id())),
            pool: given("ANTEROOM_POOL").unwrap_or_else(|| "default".to_string()),
            capacity: given("ANTEROOM_CAPACITY").map_or(16, |value| value.parse().unwrap_or(0)),
            cache: 256,
            address: true,
            finish: true,
        }
    }
}

impl Options {
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_name("name", &self.name)?;
        if !self.pool.is_empty() {
            check_name("pool", &self.pool)?;
        }
        check_capacity(self.capacity, 1)
    }

    /// The path without the `unix://` that may stand before an absolute one.
    pub(crate) fn with_plain_path(mut self) -> Options {
        let path = self.path.as_os_str().as_bytes();
        if path.starts_with(b"unix:///") {
            self.path = OsStr::from_bytes(&path["unix://".len()..]).into();
        }
        self
    }

    /// The payload of HELLO.
    pub(crate) fn hello(&self, capacity: u32) -> String {
        let wanted = [("cache", self.cache > 0), ("address", self.address), ("finish", self.finish)];
        let features: Vec<String> = wanted.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| quote(name)).collect();
        format!(
            r#"{{"name":{},"pool":{},"capacity":{capacity},"features":[{}],"agent":{}}}"#,
            quote(&self.name),
            quote(&self.pool),
            features.join(","),
            quote(concat!("anteroom-rust/", env!("CARGO_PKG_VERSION"))),
        )
    }
}

pub(crate) fn check_capacity(capacity: u32, least: u32) -> Result<(), Error> {
    if (least..=MAX_CAPACITY).contains(&capacity) {
        return Ok(());
    }
    Err(Error::Option(format!("The capacity {capacity} must be {least} to {MAX_CAPACITY}")))
}

fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(good) {
        return Ok(());
    }
    Err(Error::Option(format!("The {what} {name:?} must be 1 to {MAX_NAME} of A-Z a-z 0-9 . _ : -")))
}
