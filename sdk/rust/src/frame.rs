//! The frames of the handoff protocol, as bytes. `handoff/PROTOCOL.md` is the specification.

use crate::error::Error;

/// The version spoken here.
pub const VERSION: u64 = 1;
/// What a HELLO begins with: `ANTR`.
pub const MAGIC: u64 = u32::from_le_bytes(*b"ANTR") as u64;
/// Bytes of a frame without its payload.
pub const HEADER_SIZE: usize = 32;
/// Bytes of payload a frame may carry.
pub const MAX_PAYLOAD: usize = 8192;

/// A type from here on may not be ignored.
const FIRST_CRITICAL: u8 = 0x80;

/// What a frame means. Below 0x20 hosts speak, from there on the sidecar.
#[allow(missing_docs)] // the specification has a line for each
pub mod kind {
    pub const HELLO: u8 = 0x01;
    pub const PUT: u8 = 0x02;
    pub const CLOSE: u8 = 0x03;
    pub const DETACH: u8 = 0x04;
    pub const NACK: u8 = 0x05;
    pub const FINISH: u8 = 0x09;
    pub const CAPACITY: u8 = 0x0a;
    pub const DROPPED: u8 = 0x0b;
    /// DRAINING, said by the host.
    pub const DRAIN: u8 = 0x0c;
    pub const PONG: u8 = 0x0d;

    pub const WELCOME: u8 = 0x21;
    pub const REFUSE: u8 = 0x22;
    pub const LEASE: u8 = 0x23;
    pub const FORGET: u8 = 0x24;
    /// DRAINING, said by the sidecar.
    pub const DRAINING: u8 = 0x28;
    pub const PING: u8 = 0x29;
    pub const ERROR: u8 = 0x2a;
}

/// The bits of a frame's flags.
#[allow(missing_docs)]
pub mod flag {
    pub const FD: u8 = 0x01;
    pub const FRESH: u8 = 0x02;
    pub const LAST: u8 = 0x04;
    pub const SILENT: u8 = 0x08;
    pub const CLOSE: u8 = 0x20;
}

const CODES: [&str; 18] = [
    "BAD_FRAME",
    "BAD_MAGIC",
    "BAD_VERSION",
    "BAD_PAYLOAD",
    "HELLO_TWICE",
    "HELLO_LATE",
    "TOO_LONG",
    "NO_DESCRIPTOR",
    "STRAY_DESCRIPTOR",
    "BAD_DESCRIPTOR",
    "NOT_YOURS",
    "AT_LIMIT",
    "TOO_SLOW",
    "NOT_ALLOWED",
    "STOPPING",
    "OUT_OF_DESCRIPTORS",
    "NOT_AGREED",
    "NOT_ANSWERING",
];

/// The name of a code of REFUSE or ERROR; also of one that only a later version knows.
pub fn code_name(code: u64) -> String {
    match usize::try_from(code).ok().and_then(|code| CODES.get(code.wrapping_sub(1))) {
        Some(name) => (*name).to_string(),
        None => format!("code {code}"),
    }
}

/// One message, without the descriptor that may come with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// One of [`kind`], or a number that only a later version knows.
    pub kind: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// The number of this lease of the connection.
    pub seq: u32,
    /// The connection's id.
    pub conn: u64,
    /// By type.
    pub a: u64,
    /// By type.
    pub b: u64,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The frame's bytes. Panics if the payload is longer than [`MAX_PAYLOAD`], which is the caller's mistake, never a peer's.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.payload.len() <= MAX_PAYLOAD, "a payload of {} bytes, {MAX_PAYLOAD} are allowed", self.payload.len());
        let mut data = Vec::with_capacity(HEADER_SIZE + self.payload.len());
        data.extend([self.kind, self.flags]);
        data.extend((self.payload.len() as u16).to_le_bytes());
        data.extend(self.seq.to_le_bytes());
        data.extend(self.conn.to_le_bytes());
        data.extend(self.a.to_le_bytes());
        data.extend(self.b.to_le_bytes());
        data.extend(&self.payload);
        data
    }

    /// The first frame of `data` and its length in bytes, or None if it is not all there. Errors as soon as the header shows that the frame
    /// cannot be taken; where the next one begins is then unknown.
    pub fn decode(data: &[u8]) -> Result<Option<(Frame, usize)>, Error> {
        if data.len() < HEADER_SIZE {
            return Ok(None);
        }
        let kind = data[0];
        let length = usize::from(u16::from_le_bytes([data[2], data[3]]));
        if kind >= FIRST_CRITICAL {
            let what = format!("a frame of type 0x{kind:02x}, which is unknown here and may not be ignored");
            return Err(Error::Protocol { code: "BAD_FRAME", what });
        }
        if length > MAX_PAYLOAD {
            let what = format!("a frame with a payload of {length} bytes, {MAX_PAYLOAD} are allowed");
            return Err(Error::Protocol { code: "TOO_LONG", what });
        }
        let end = HEADER_SIZE + length;
        if data.len() < end {
            return Ok(None);
        }
        let long = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().expect("eight bytes"));
        let frame = Frame {
            kind,
            flags: data[1],
            seq: u32::from_le_bytes(data[4..8].try_into().expect("four bytes")),
            conn: long(8),
            a: long(16),
            b: long(24),
            payload: data[HEADER_SIZE..end].to_vec(),
        };
        Ok(Some((frame, end)))
    }
}

#[cfg(test)]
mod tests {
    //! The codec against the vectors that every implementation runs.

    use super::*;
    use crate::json::{parse, Value};
    use std::fs;
    use std::path::Path;

    fn load(name: &str) -> Vec<Value> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../handoff/testdata/vectors").join(name);
        match parse(&fs::read(path).unwrap()) {
            Some(Value::List(vectors)) => vectors,
            _ => panic!("{name} is no list"),
        }
    }

    fn text<'a>(vector: &'a Value, member: &str) -> &'a str {
        vector.get(member).and_then(Value::text).unwrap()
    }

    fn bytes(vector: &Value) -> Vec<u8> {
        let hex = text(vector, "hex");
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn frame(vector: &Value) -> Frame {
        let number = |member| vector.get(member).and_then(Value::number).unwrap();
        Frame {
            kind: number("type") as u8,
            flags: number("flags") as u8,
            seq: number("seq") as u32,
            conn: text(vector, "conn").parse().unwrap(),
            a: text(vector, "a").parse().unwrap(),
            b: text(vector, "b").parse().unwrap(),
            payload: text(vector, "payload").as_bytes().to_vec(),
        }
    }

    #[test]
    fn frames() {
        for vector in load("frames.json") {
            let (wanted, data) = (frame(&vector), bytes(&vector));
            assert_eq!(wanted.encode(), data, "{}", text(&vector, "name"));
            let stream = [&data[..], &data[..]].concat();
            assert_eq!(Frame::decode(&stream).unwrap(), Some((wanted, data.len())), "{}", text(&vector, "name"));
            for length in 0..data.len() {
                assert_eq!(Frame::decode(&data[..length]).unwrap(), None);
            }
        }
    }

    #[test]
    fn incomplete_and_bad() {
        for vector in load("incomplete_and_bad.json") {
            let result = match Frame::decode(&bytes(&vector)) {
                Ok(None) => "more",
                Ok(Some(_)) => "a frame",
                Err(Error::Protocol { code, .. }) => code,
                Err(_) => "another error",
            };
            assert_eq!(result, text(&vector, "want"), "{}", text(&vector, "name"));
        }
    }

    #[test]
    fn codes_have_names() {
        assert_eq!([0, 1, 18, 19].map(code_name), ["code 0", "BAD_FRAME", "NOT_ANSWERING", "code 19"]);
    }

    #[test]
    #[should_panic(expected = "8193 bytes")]
    fn a_payload_that_is_too_long_is_not_sent() {
        Frame { payload: vec![0; MAX_PAYLOAD + 1], ..Frame::default() }.encode();
    }
}
