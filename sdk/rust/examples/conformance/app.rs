//! The app that every SDK serves for the conformance kit.

use crate::http::Request;
use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;
use std::{env, process, thread};

const MAX_NUMBER: u64 = 100_000_000;

/// What the app wants sent.
pub struct Response {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Body,
}

pub enum Body {
    Text(Vec<u8>),
    /// So many letters, whose length the client is told.
    Letters(u64),
    /// The same without telling it.
    Stream(u64),
    /// The same from a file, for the sidecar to send.
    File(File, u64),
    /// Every byte back, in another protocol.
    Upgrade,
}

/// Answers a request of the client at `peer`.
pub fn answer(request: &Request, peer: &str) -> Response {
    let mut response = route(request, peer).unwrap_or_else(|status| text(status, format!("{status}\n")));
    if let Some(echo) = request.field("X-Echo") {
        response.fields.push(("X-Echo".to_string(), echo.to_string()));
    }
    response
}

fn route(request: &Request, peer: &str) -> Result<Response, u16> {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let number = |name| number(query, name).ok_or(400_u16);
    let body = |body| Response { status: 200, fields: Vec::new(), body };
    Ok(match (request.method.as_str(), path) {
        ("POST" | "PUT", "/echo") => body(Body::Text(request.body.clone())),
        (_, "/echo") => return Err(404),
        (_, "/") => text(200, "hello from rust\n".to_string()),
        (_, "/bytes") => body(Body::Letters(number("n")?)),
        (_, "/stream") => body(Body::Stream(number("n")?)),
        (_, "/status") => {
            let status = u16::try_from(number("code")?).ok().filter(|code| (200..=599).contains(code)).ok_or(400_u16)?;
            text(status, format!("{status}\n"))
        }
        (_, "/sleep") => {
            thread::sleep(Duration::from_millis(number("ms")?));
            text(200, "slept\n".to_string())
        }
        (_, "/close") => {
            let mut response = text(200, "bye\n".to_string());
            response.fields.push(("Connection".to_string(), "close".to_string()));
            response
        }
        (_, "/peer") => text(200, format!("{peer}\n")),
        (_, "/pid") => text(200, format!("{}\n", process::id())),
        (_, "/crash") => process::exit(1),
        (_, "/file") => {
            let length = number("n")?;
            body(Body::File(file_of_letters(length).map_err(|_| 500_u16)?, length))
        }
        (_, "/upgrade") if request.lists("Connection", "upgrade") && request.lists("Upgrade", "echo") => {
            let fields = [("Upgrade", "echo"), ("Connection", "Upgrade")].map(|(name, value)| (name.to_string(), value.to_string()));
            Response { status: 101, fields: fields.to_vec(), body: Body::Upgrade }
        }
        _ => return Err(404),
    })
}

fn text(status: u16, body: String) -> Response {
    Response { status, fields: Vec::new(), body: Body::Text(body.into_bytes()) }
}

fn number(query: &str, name: &str) -> Option<u64> {
    let (_, value) = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name)?;
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|&number| digits && number <= MAX_NUMBER)
}

/// Gives `length` letters to `write`, in pieces.
pub fn letters(length: u64, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let piece: Vec<u8> = (b'a'..=b'z').cycle().take(26 << 10).collect();
    let mut left = length;
    while left > 0 {
        let now = left.min(piece.len() as u64); // always begins with an a
        write(&piece[..now as usize])?;
        left -= now;
    }
    Ok(())
}

/// A file without a name, which goes when the last descriptor does.
fn file_of_letters(length: u64) -> io::Result<File> {
    let path = env::temp_dir().join(format!("anteroom-{}-{:?}", process::id(), thread::current().id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    letters(length, |piece| file.write_all(piece))?;
    Ok(file)
}
