//! Frames from a stream of bytes, each paired with the descriptor that came with it.

use crate::error::Error;
use crate::frame::{flag, Frame};
use std::os::fd::OwnedFd;

/// A frame and its descriptor. None, where the FD flag is set: it was lost.
pub type Received = (Frame, Option<OwnedFd>);

/// One read of the socket brings at most one descriptor, because recvmsg(2) stops at the end of the message that carries one; and such a message is a
/// single frame. So a descriptor belongs to the last frame that *begins* in the bytes it came with, however reads cut frames and even if the
/// descriptor of an earlier frame was lost.
#[derive(Default)]
pub struct Inbox {
    rest: Vec<u8>,
    rest_fd: Option<OwnedFd>, // of the frame that has begun in `rest`
}

impl Inbox {
    /// Takes what one read has brought, and returns the frames that are complete.
    pub fn feed(&mut self, chunk: &[u8], fds: Vec<OwnedFd>) -> Result<Vec<Received>, Error> {
        if fds.len() > 1 {
            return Err(stray(format!("{} descriptors in one message", fds.len())));
        }
        let before = self.rest.len();
        self.rest.extend_from_slice(chunk);
        let mut received: Vec<Received> = Vec::new();
        let (mut at, mut last) = (0, 0);
        while let Some((frame, length)) = Frame::decode(&self.rest[at..])? {
            received.push((frame, self.rest_fd.take()));
            (last, at) = (at, at + length);
        }
        if let Some(fd) = fds.into_iter().next() {
            match received.last_mut() {
                _ if at < self.rest.len() && at >= before => self.rest_fd = Some(fd),
                Some(owner) if last >= before => owner.1 = Some(fd),
                _ => return Err(stray("a descriptor without a frame".to_string())),
            }
        }
        self.rest.drain(..at);
        match received.iter().find(|(frame, fd)| fd.is_some() && frame.flags & flag::FD == 0) {
            Some(_) => Err(stray("a descriptor with a frame that has none".to_string())),
            None => Ok(received),
        }
    }
}

fn stray(what: String) -> Error {
    Error::Protocol { code: "STRAY_DESCRIPTOR", what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::kind;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    fn with_fd(conn: u64) -> Vec<u8> {
        Frame { kind: kind::LEASE, flags: flag::FD, conn, ..Frame::default() }.encode()
    }

    fn plain(conn: u64) -> Vec<u8> {
        Frame { kind: kind::FORGET, conn, ..Frame::default() }.encode()
    }

    /// A descriptor, and its number to know it by.
    fn descriptor() -> (Vec<OwnedFd>, i32) {
        let fd = OwnedFd::from(File::open("/dev/null").unwrap());
        let number = fd.as_raw_fd();
        (vec![fd], number)
    }

    fn pairs(received: &[Received]) -> Vec<(u64, Option<i32>)> {
        received.iter().map(|(frame, fd)| (frame.conn, fd.as_ref().map(AsRawFd::as_raw_fd))).collect()
    }

    #[test]
    fn a_descriptor_belongs_to_the_frame_behind_the_plain_ones() {
        let (fds, number) = descriptor();
        let received = Inbox::default().feed(&[plain(1), plain(2), with_fd(3)].concat(), fds).unwrap();
        assert_eq!(pairs(&received), [(1, None), (2, None), (3, Some(number))]);
    }

    #[test]
    fn a_frame_cut_at_any_byte_has_the_descriptor_of_its_first_part() {
        let data = [plain(1), with_fd(2)].concat();
        for cut in 33..data.len() {
            let mut inbox = Inbox::default();
            let ((first, one), (second, two)) = (descriptor(), descriptor());
            assert_eq!(pairs(&inbox.feed(&data[..cut], first).unwrap()), [(1, None)]);
            let received = inbox.feed(&[&data[cut..], &with_fd(3)].concat(), second).unwrap();
            assert_eq!(pairs(&received), [(2, Some(one)), (3, Some(two))]);
        }
    }

    #[test]
    fn a_lost_descriptor_is_not_replaced_by_the_next_one() {
        let mut inbox = Inbox::default();
        let (fds, number) = descriptor();
        assert!(inbox.feed(&with_fd(1)[..20], Vec::new()).unwrap().is_empty());
        let received = inbox.feed(&[&with_fd(1)[20..], &with_fd(2)].concat(), fds).unwrap();
        assert_eq!(pairs(&received), [(1, None), (2, Some(number))]);
    }

    #[test]
    fn what_no_frame_announces_is_an_error() {
        assert!(Inbox::default().feed(&plain(1), descriptor().0).is_err());
        let mut inbox = Inbox::default();
        inbox.feed(&plain(1)[..20], Vec::new()).unwrap();
        assert!(inbox.feed(&plain(1)[20..25], descriptor().0).is_err());
        let two = [descriptor().0, descriptor().0].into_iter().flatten().collect();
        assert!(Inbox::default().feed(&with_fd(1), two).is_err());
    }
}
