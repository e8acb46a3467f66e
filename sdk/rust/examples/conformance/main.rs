//! An HTTP server behind the sidecar: a thread for each lease, requests read strictly, SIGTERM obeyed.

mod app;
mod http;

use anteroom::{CloseReason, Connection, Error, Host, Lease, News, Options, Termination};
use app::{Body, Response};
use http::{Failure, Reader, Request};
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// What is still being served so long after SIGTERM is given up.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let termination = Termination::block()?;
    let options = Options::default();
    let threads = options.capacity;
    let host = Host::attach(options, report())?;
    let leaver = host.clone();
    thread::spawn(move || {
        termination.wait();
        leaver.drain();
    });
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            thread::spawn({
                let host = host.clone();
                move || work(&host)
            })
        })
        .collect();
    for worker in workers {
        let _ = worker.join(); // one that has panicked has said so, and its lease was closed
    }
    host.wait(DRAIN_TIMEOUT);
    Ok(())
}

/// Says each trouble once, not at every attempt.
fn report() -> impl FnMut(News<'_>) {
    let mut said = String::new();
    move |news| match news {
        News::Detached { error: error @ (Error::Unreachable { .. } | Error::Refused { .. }), retry_in: Some(_) }
            if error.to_string() != said =>
        {
            said = error.to_string();
            eprintln!("{said} Trying again.");
        }
        News::OutOfDescriptors { dropped } => {
            eprintln!("No descriptor is left (ulimit -n): {dropped} idle connections were let go of.")
        }
        _ => {}
    }
}

fn work(host: &Host) {
    while let Some(lease) = host.next() {
        serve_lease(lease);
    }
}

/// What follows a response.
enum After {
    /// The next request.
    Stay,
    /// The end of the connection.
    End,
    /// The body, which the sidecar sends; then the end, or the next request.
    File { file: File, length: u64, end: bool },
    /// Another protocol.
    Upgrade,
}

/// Serves the request that has arrived, and those that were read with it.
fn serve_lease(mut lease: Lease) {
    if lease.silent() {
        return fail(lease, Failure::Answer(408), 0);
    }
    let peer = peer_of(&mut lease);
    let mut reader = Reader::new();
    for served in 1.. {
        let request = match reader.request(lease.connection()) {
            Ok(request) => request,
            Err(failure) => return fail(lease, failure, served - 1),
        };
        let alone = reader.is_empty();
        match respond(&mut lease, &request, &peer, alone) {
            Ok(After::Stay) if !alone => continue,
            Ok(After::Stay) => lease.put(Duration::ZERO, served),
            Ok(After::End) => lease.close(CloseReason::Done, served),
            Ok(After::File { file, length, end }) => lease.finish(file, 0, length, (!end).then_some(Duration::ZERO)),
            Ok(After::Upgrade) => upgrade(lease, reader.rest()),
            Err(_) => lease.close(CloseReason::Client, served),
        };
        return;
    }
}

fn peer_of(lease: &mut Lease) -> String {
    match lease.peer() {
        Some(told) => told.rsplit_once(':').map_or(told, |(address, _)| address).trim_matches(['[', ']']).to_string(),
        None => lease.connection().peer().map(|address| address.ip().to_string()).unwrap_or_default(),
    }
}

/// Ends the connection because of what has come instead of a request.
fn fail(mut lease: Lease, failure: Failure, served: u64) {
    if let Failure::Answer(status) = failure {
        let text = format!("HTTP/1.1 {status} {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", phrase(status));
        let _ = lease.connection().write_all(text.as_bytes()); // a client that has gone does not matter
    }
    lease.close(if matches!(failure, Failure::Answer(408)) { CloseReason::TooSlow } else { CloseReason::Client }, served);
}

/// Writes a response; `alone` is whether no other request waits behind this one.
fn respond(lease: &mut Lease, request: &Request, peer: &str, alone: bool) -> io::Result<After> {
    let response = app::answer(request, peer);
    let told = response.fields.iter().any(|(name, value)| name == "Connection" && value == "close");
    let endless = matches!(response.body, Body::Stream(_)) && request.minor == 0;
    let end = told || endless || lease.last() || !request.keeps_alive();
    let finishes = alone && lease.can_finish();
    let connection = lease.connection();
    connection.write_all(head(&response, request, end).as_bytes())?;
    match response.body {
        Body::Upgrade => return Ok(After::Upgrade),
        _ if request.method == "HEAD" || bodiless(response.status) => {}
        Body::Text(text) => connection.write_all(&text)?,
        Body::File(file, length) if finishes && length > 0 => return Ok(After::File { file, length, end }),
        Body::Letters(length) | Body::File(_, length) => app::letters(length, |piece| connection.write_all(piece))?,
        Body::Stream(length) if endless => app::letters(length, |piece| connection.write_all(piece))?,
        Body::Stream(length) => {
            app::letters(length, |piece| connection.write_all(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()))?;
            connection.write_all(b"0\r\n\r\n")?;
        }
    }
    Ok(if end { After::End } else { After::Stay })
}

fn head(response: &Response, request: &Request, end: bool) -> String {
    let status = response.status;
    let mut head = format!("HTTP/1.1 {status} {}\r\n", phrase(status));
    let mut add = |name: &str, value: &str| head += &format!("{name}: {value}\r\n");
    for (name, value) in &response.fields {
        add(name, value);
    }
    match &response.body {
        Body::Upgrade => {}
        _ if bodiless(status) => {}
        Body::Text(text) => add("Content-Length", &text.len().to_string()),
        Body::Letters(length) | Body::File(_, length) => add("Content-Length", &length.to_string()),
        Body::Stream(_) if request.minor > 0 => add("Transfer-Encoding", "chunked"),
        Body::Stream(_) => {}
    }
    if !matches!(response.body, Body::Upgrade) {
        add("Content-Type", "text/plain");
        let said = response.fields.iter().any(|(name, _)| name == "Connection");
        match (end, request.minor) {
            _ if said => {}
            (true, _) => add("Connection", "close"),
            (false, 0) => add("Connection", "keep-alive"),
            (false, _) => {}
        }
    }
    head + "\r\n"
}

fn bodiless(status: u16) -> bool {
    status < 200 || status == 204 || status == 304
}

fn phrase(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        _ => "-",
    }
}

/// Takes the connection over, and gives every byte back until the client ends it.
fn upgrade(lease: Lease, early: Vec<u8>) -> bool {
    let Some(connection) = lease.detach() else { return false };
    thread::spawn(move || echo(connection, &early));
    true
}

fn echo(mut connection: Connection, early: &[u8]) -> io::Result<()> {
    connection.write_all(early)?;
    let mut data = [0; 16 << 10];
    loop {
        match connection.read(&mut data)? {
            0 => return Ok(()),
            n => connection.write_all(&data[..n])?,
        }
    }
}
