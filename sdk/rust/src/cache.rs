//! The idle connections of which this process keeps the descriptor.

use crate::connection::Connection;
use std::collections::{BTreeMap, HashMap};

/// The least that are let go of at once when the process is out of descriptors: each lease that is refused delays a request.
const LEAST_DROPPED: usize = 16;

/// At most `limit` connections by their ids, the ones that were used last.
#[derive(Debug, Default)]
pub struct Cache {
    limit: usize,
    held: HashMap<u64, (u64, Connection)>, // with the time of use, counted
    order: BTreeMap<u64, u64>,             // ids by that time
    clock: u64,
}

impl Cache {
    pub fn new(limit: usize) -> Cache {
        Cache { limit, ..Cache::default() }
    }

    /// Keeps a connection. Returns the one that had to go for it, which may be the same.
    pub fn keep(&mut self, conn: u64, connection: Connection) -> Option<u64> {
        self.take(conn);
        self.clock += 1;
        self.order.insert(self.clock, conn);
        self.held.insert(conn, (self.clock, connection));
        if self.held.len() <= self.limit {
            return None;
        }
        let (_, oldest) = self.order.pop_first()?;
        self.held.remove(&oldest);
        Some(oldest)
    }

    /// Lets go of a quarter of the connections, those that were used longest ago, for the sake of their descriptors. Returns their ids.
    pub fn make_room(&mut self) -> Vec<u64> {
        let some = (self.held.len() / 4).max(LEAST_DROPPED);
        let oldest: Vec<u64> = (0..some).filter_map(|_| self.order.pop_first()).map(|(_, conn)| conn).collect();
        oldest.iter().for_each(|conn| _ = self.held.remove(conn));
        oldest
    }

    pub fn take(&mut self, conn: u64) -> Option<Connection> {
        let (time, connection) = self.held.remove(&conn)?;
        self.order.remove(&time);
        Some(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn connection() -> Connection {
        Connection::new(File::open("/dev/null").unwrap().into())
    }

    #[test]
    fn keeps_those_that_were_used_last() {
        let mut cache = Cache::new(2);
        assert_eq!(cache.keep(1, connection()), None);
        assert_eq!(cache.keep(2, connection()), None);
        assert!(cache.take(1).is_some() && cache.take(1).is_none());
        assert_eq!(cache.keep(1, connection()), None);
        assert_eq!(cache.keep(3, connection()), Some(2));
        assert!(cache.take(2).is_none() && cache.take(1).is_some() && cache.take(3).is_some());
    }

    #[test]
    fn makes_room_by_a_quarter() {
        let mut cache = Cache::new(1000);
        assert!(cache.make_room().is_empty());
        (1..=80).for_each(|conn| _ = cache.keep(conn, connection()));
        assert!(cache.make_room().into_iter().eq(1..=20));
        assert!(cache.take(20).is_none() && cache.take(21).is_some());
        assert_eq!([16, 16, 16, 11, 0].map(|_| cache.make_room().len()), [16, 16, 16, 11, 0]);
    }

    #[test]
    fn may_keep_nothing() {
        assert_eq!(Cache::new(0).keep(1, connection()), Some(1));
    }
}
