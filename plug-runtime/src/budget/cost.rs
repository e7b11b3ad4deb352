//! What strings, vectors and maps take on the heap.

/// At most what an allocator adds to a block: its header, and what it rounds up by.
pub(super) const OVERHEAD: usize = 24;

/// What the block of a string or of bytes takes.
pub(super) fn block(len: usize) -> usize {
    // The least that a vector of bytes asks for is 8.
    if len == 0 { 0 } else { len.max(8).saturating_add(OVERHEAD) }
}

/// How a vector or a map grows by what is put into it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    /// What room for one element takes.
    room: usize,
    /// How many elements the first block has room for. A power of two.
    least: usize,
    is_map: bool,
}

impl Growth {
    /// A `Vec`: it has room for a power of two, which is doubled when it is full.
    pub(super) fn of_vec(element: usize) -> Growth {
        let least = match element {
            0 | 1 => 8,
            2..=1024 => 4,
            _ => 1,
        };
        Growth { room: element, least, is_map: false }
    }

    /// A `HashMap`, which is doubled when it is full to seven eighths; or a `BTreeMap`, of which half may be empty. For
    /// either to take no more, room for an entry is counted twice: that also pays for the old half of a hash map while it
    /// is doubled.
    pub(super) fn of_map(entry: usize) -> Growth {
        Growth { room: entry.saturating_add(8).saturating_mul(2), least: 8, is_map: true }
    }

    /// What is added when it grows from so many elements to so many more.
    pub(super) fn add(&self, count: usize, more: usize) -> usize {
        let (before, after) = (self.rooms(count), self.rooms(count.saturating_add(more)));
        let block = if before == 0 && after != 0 && self.room != 0 { OVERHEAD } else { 0 };
        (after - before).saturating_mul(self.room).saturating_add(block)
    }

    fn rooms(&self, count: usize) -> usize {
        let count = if self.is_map { count.saturating_add(count.div_ceil(7)) } else { count };
        match count {
            0 => 0,
            count => self.least.max(count.checked_next_power_of_two().unwrap_or(usize::MAX)),
        }
    }

    /// The most that one element takes, if not those before have paid for it already.
    pub(super) fn worst(&self) -> usize {
        match self.room {
            0 => 0,
            room => room.saturating_mul(self.least.max(2)).saturating_add(OVERHEAD),
        }
    }

    /// What one of very many takes at most.
    pub(super) fn many(&self) -> usize {
        self.room.saturating_mul(2)
    }
}
