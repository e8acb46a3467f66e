//! What can go wrong between a host and its sidecar. Each message says what to do about it.

use std::{fmt, io, path::PathBuf};

/// Why there is no link to the sidecar.
#[derive(Debug)]
pub enum Error {
    /// An option that the protocol does not allow.
    Option(String),
    /// There is no way to the sidecar just now.
    Unreachable {
        /// The handoff socket.
        path: PathBuf,
        /// What connect(2) said.
        cause: io::Error,
    },
    /// The sidecar did not accept this host.
    Refused {
        /// The protocol's name for it.
        code: String,
        /// The sidecar's words.
        reason: String,
    },
    /// The sidecar has ended the link because of what this host did.
    Ended {
        /// The protocol's name for it.
        code: String,
        /// The sidecar's words.
        reason: String,
    },
    /// The link has ended; it is made anew.
    LinkLost(String),
    /// The sidecar said what the protocol does not allow.
    Protocol {
        /// The protocol's name for it.
        code: &'static str,
        /// What it said.
        what: String,
    },
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Unreachable { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Option(what) => f.write_str(what),
            Error::Unreachable { path, cause } => unreachable(f, &path.display(), cause),
            Error::Refused { code, reason } => {
                write!(f, "The sidecar refuses this host: {code}: {}{}.", without_stop(reason), hint(code))
            }
            Error::Ended { code, reason } => {
                write!(f, "The sidecar has ended the link: {code}: {}.", without_stop(reason))
            }
            Error::LinkLost(what) => f.write_str(what),
            Error::Protocol { what, .. } => write!(f, "The sidecar sent {what}."),
        }
    }
}

fn unreachable(f: &mut fmt::Formatter<'_>, path: &dyn fmt::Display, cause: &io::Error) -> fmt::Result {
    match cause.kind() {
        io::ErrorKind::NotFound => write!(
            f,
            "There is no handoff socket at {path}. Start the sidecar (anteroom serve --handoff {path}), or name the right path in ANTEROOM_HANDOFF."
        ),
        io::ErrorKind::PermissionDenied => write!(
            f,
            "This process may not open the handoff socket {path}. Name its user in the sidecar's option handoff-allow-uid, or its group in \
             handoff-allow-gid. If it is named there, the mode of the socket or of a folder above it is in the way."
        ),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock => {
            write!(f, "Nobody answers at the handoff socket {path}. Is the sidecar running?")
        }
        _ => write!(f, "Cannot connect to the handoff socket {path}: {cause}."),
    }
}

fn without_stop(sentence: &str) -> &str {
    sentence.strip_suffix('.').unwrap_or(sentence)
}

fn hint(code: &str) -> &'static str {
    match code {
        "BAD_VERSION" => " (use the same release of the sidecar and of this crate)",
        "AT_LIMIT" => " (the sidecar has as many hosts or pools as it may; stop one, or raise its limit)",
        "STOPPING" => " (the sidecar is stopping; its successor will answer)",
        _ => "",
    }
}
