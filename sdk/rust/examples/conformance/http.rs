//! HTTP/1 as strictly as a server must read it, over any stream.

use std::io::{self, Read, Write};

const MAX_HEAD: usize = 64 << 10;
const MAX_BODY: usize = 128 << 20;
const MAX_LINE: usize = 8 << 10; // of a chunk's size or a trailer
const TIMEOUT_STATUS: u16 = 408;

/// Why there is no request.
#[derive(Debug)]
pub enum Failure {
    /// The client has ended the connection between two requests.
    End,
    /// The client has gone in the middle of one, or the lease was taken back.
    Gone,
    /// It is to be answered with this status, and then the connection ends.
    Answer(u16),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::TimedOut => Failure::Answer(TIMEOUT_STATUS),
            _ => Failure::Gone,
        }
    }
}

/// A request, its body included.
#[derive(Debug, Default)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub minor: u8, // of HTTP/1.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a field, if there is exactly one of that name.
    pub fn field<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let mut values = self.values(name);
        let first = values.next();
        first.filter(|_| values.next().is_none())
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether a list such as Connection has this word.
    pub fn lists(&self, name: &str, word: &str) -> bool {
        self.values(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
    }

    /// Whether the client wants the connection to go on.
    pub fn keeps_alive(&self) -> bool {
        if self.lists("Connection", "close") {
            return false;
        }
        self.minor > 0 || self.lists("Connection", "keep-alive")
    }
}

/// Reads requests from a stream and remembers what it has read too much.
pub struct Reader {
    buffer: Vec<u8>,
}

/// How a body ends.
enum Length {
    Known(usize),
    Chunked,
}

impl Reader {
    pub fn new() -> Reader {
        Reader { buffer: Vec::new() }
    }

    /// Whether nothing is left of another request. Empty lines before a request mean nothing.
    pub fn is_empty(&mut self) -> bool {
        let blank = self.buffer.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        self.buffer.drain(..blank);
        self.buffer.is_empty()
    }

    /// What has been read beyond the last request, for another protocol.
    pub fn rest(self) -> Vec<u8> {
        self.buffer
    }

    /// Reads the next request. A client that expects 100 Continue gets it.
    pub fn request<S: Read + Write>(&mut self, stream: &mut S) -> Result<Request, Failure> {
        let head = self.head(stream)?;
        let mut request = parse_head(&head).ok_or(Failure::Answer(400))?;
        let length = body_length(&request)?;
        if request.minor > 0 && request.lists("Expect", "100-continue") && !matches!(length, Length::Known(0)) && self.buffer.is_empty() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        request.body = match length {
            Length::Known(length) => self.take(stream, length)?,
            Length::Chunked => self.chunks(stream)?,
        };
        Ok(request)
    }

    fn head(&mut self, stream: &mut impl Read) -> Result<Vec<u8>, Failure> {
        let mut seen = 0;
        loop {
            if self.is_empty() {
                seen = 0;
            }
            if let Some(end) = find(&self.buffer[seen..], b"\r\n\r\n").map(|at| seen + at) {
                let head = self.buffer.drain(..end + 4).collect();
                return Ok(head);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(Failure::Answer(431));
            }
            // What cannot become a head need not be waited for.
            if self.buffer.first().is_some_and(|b| !b.is_ascii_uppercase()) || find(&self.buffer, b"\n\n").is_some() {
                return Err(Failure::Answer(400));
            }
            seen = self.buffer.len().saturating_sub(3);
            let empty = self.buffer.is_empty();
            if self.fill(stream)? == 0 {
                return Err(if empty { Failure::End } else { Failure::Gone });
            }
        }
    }

    fn fill(&mut self, stream: &mut impl Read) -> io::Result<usize> {
        let begin = self.buffer.len();
        self.buffer.resize(begin + (16 << 10), 0);
        let n = stream.read(&mut self.buffer[begin..]);
        self.buffer.truncate(begin + n.as_ref().copied().unwrap_or(0));
        n
    }

    fn take(&mut self, stream: &mut impl Read, length: usize) -> Result<Vec<u8>, Failure> {
        while self.buffer.len() < length {
            if self.fill(stream)? == 0 {
                return Err(Failure::Gone);
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn chunks(&mut self, stream: &mut impl Read) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            let line = self.line(stream)?;
            let digits = line.split(';').next().unwrap_or_default().trim_end();
            let good = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let size = usize::from_str_radix(digits, 16).ok().filter(|_| good).ok_or(Failure::Answer(400))?;
            if body.len() + size > MAX_BODY {
                return Err(Failure::Answer(413));
            }
            if size == 0 {
                while !self.line(stream)?.is_empty() {} // trailers
                return Ok(body);
            }
            body.extend(self.take(stream, size)?);
            if !self.line(stream)?.is_empty() {
                return Err(Failure::Answer(400));
            }
        }
    }

    fn line(&mut self, stream: &mut impl Read) -> Result<String, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = line.strip_suffix(b"\r\n").ok_or(Failure::Answer(400))?;
                return String::from_utf8(line.to_vec()).map_err(|_| Failure::Answer(400));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Failure::Answer(400));
            }
            if self.fill(stream)? == 0 {
                return Err(Failure::Gone);
            }
        }
    }
}

fn find(data: &[u8], what: &[u8]) -> Option<usize> {
    data.windows(what.len()).position(|window| window == what)
}

/// A head with its empty line, or None if it breaks the rules of RFC 9112.
fn parse_head(head: &[u8]) -> Option<Request> {
    let text = std::str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n")?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let minor = match version {
        "HTTP/1.0" => 0,
        "HTTP/1.1" => 1,
        _ => return None,
    };
    let clean = |text: &str| !text.contains(|c: char| c.is_ascii_control() && c != '\t');
    if words.next().is_some() || !is_token(method) || target.is_empty() || !clean(target) || target.contains('\t') {
        return None;
    }
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        (is_token(name) && clean(value)).then(|| (name.to_string(), value.trim().to_string()))
    };
    let fields = lines.map(field).collect::<Option<Vec<_>>>()?;
    Some(Request { method: method.to_string(), target: target.to_string(), minor, fields, body: Vec::new() })
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn body_length(request: &Request) -> Result<Length, Failure> {
    let bad = Failure::Answer(400);
    let lengths: Vec<&str> = request.values("Content-Length").collect();
    let codings: Vec<&str> = request.values("Transfer-Encoding").collect();
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Length::Known(0)),
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") && request.minor > 0 => Ok(Length::Chunked),
        ([length], []) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => match length.parse() {
            Ok(length) if length <= MAX_BODY => Ok(Length::Known(length)),
            _ => Err(Failure::Answer(413)),
        },
        _ => Err(bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that sends what it has piece by piece.
    struct Client {
        pieces: Vec<Vec<u8>>,
        heard: Vec<u8>,
    }

    impl Read for Client {
        fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
            if self.pieces.is_empty() {
                return Ok(0);
            }
            let piece = self.pieces.remove(0);
            data[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    impl Write for Client {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.heard.extend(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn client(text: &str, size: usize) -> Client {
        Client { pieces: text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect(), heard: Vec::new() }
    }

    #[test]
    fn reads_requests_one_by_one_however_they_are_cut() {
        let text = "\r\nPOST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\r\n\
                    PUT /b HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\nGET /c HTTP/1.0\r\n\r\n";
        for size in 1..text.len() {
            let (mut client, mut reader) = (client(text, size), Reader::new());
            let mut next = || reader.request(&mut client).map(|request| (request.target.clone(), request.body));
            assert_eq!(next().unwrap(), ("/a".to_string(), b"hello".to_vec()));
            assert_eq!(next().unwrap(), ("/b".to_string(), b"abcde".to_vec()));
            assert_eq!(next().unwrap(), ("/c".to_string(), Vec::new()));
            assert!(matches!(next(), Err(Failure::End)));
        }
    }

    #[test]
    fn tells_a_client_that_waits_to_go_on() {
        let mut client = client("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", 1000);
        assert!(matches!(Reader::new().request(&mut client), Err(Failure::Gone)));
        assert_eq!(client.heard, b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    #[test]
    fn refuses_what_parsers_see_differently() {
        for (text, status) in [
            ("hello\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("GET / HTTP/2.0\r\n\r\n", 400),
            ("GET  / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1 \r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\nx", 400),
            ("GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\nx", 400),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nab", 400),
            ("GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 413),
        ] {
            let result = Reader::new().request(&mut client(text, 1000));
            assert!(matches!(result, Err(Failure::Answer(answer)) if answer == status), "{text:?}: {result:?}");
        }
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(MAX_HEAD));
        assert!(matches!(Reader::new().request(&mut client(&long, 1000)), Err(Failure::Answer(431))));
    }
}
