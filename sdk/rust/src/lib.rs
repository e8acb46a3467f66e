//! Anteroom for Rust: serve requests on connections that a sidecar keeps.
//!
//! [`Host::attach`] finds the sidecar and stays attached; threads take [`Lease`]s from [`Host::next`], read the request and write the response on the
//! client's socket, and give the connection back. Only std is needed.
//!
//! ```no_run
//! use anteroom::{Host, Options};
//! use std::io::{Read, Write};
//! use std::time::Duration;
//!
//! let host = Host::attach(Options::default(), |news| eprintln!("{news:?}"))?;
//! while let Some(mut lease) = host.next() {
//!     lease.connection().read(&mut [0; 65536])?; // a server would parse this
//!     lease.connection().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")?;
//!     lease.put(Duration::ZERO, 1);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod connection;
mod error;
pub mod frame;
mod host;
mod inbox;
mod json;
mod lease;
mod options;
mod session;
mod sys;

pub use connection::Connection;
pub use error::Error;
pub use host::{Host, News};
pub use lease::{CloseReason, Lease, NackReason};
pub use options::Options;
pub use session::Welcome;
pub use sys::Termination;

#[cfg(test)]
mod tests;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
