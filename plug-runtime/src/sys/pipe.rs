//! Pipes: reading, writing and asking what is in them.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::seam::{self, Call};

/// A new pipe: its reading and its writing end, which no child inherits.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    seam::step(Call::Pipe)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let (reader, writer) = rustix::pipe::pipe()?;
        for end in [&reader, &writer] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        Ok((reader, writer))
    }
}

/// Reads what is there, waiting for the first byte. 0 is the end of the stream.
pub(crate) fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let result = rustix::io::retry_on_intr(|| {
        let len = seam::step_up_to(Call::Read, buffer.len())?;
        rustix::io::read(&fd, &mut buffer[..len])
    });
    match result {
        // Sockets in place of pipes report that the other side went away with unread input.
        Err(Errno::CONNRESET) => Ok(0),
        result => Ok(result?),
    }
}

/// Reads what is there already. `None` if there is nothing, or the system cannot read without waiting, as Linux cannot
/// before 6.4.
///
/// Where both sides share a core, the reply has mostly come by the time that the write of the request returns (in four of
/// five calls of the benchmark). Who waits with a deadline saves 0.3 µs then: it need not ask first whether it has.
#[cfg(all(target_os = "linux", not(plug_portable)))]
pub(crate) fn read_at_once(fd: impl AsFd, buffer: &mut [u8]) -> Option<usize> {
    use rustix::io::{IoSliceMut, ReadWriteFlags, preadv2};
    let result = rustix::io::retry_on_intr(|| {
        let len = seam::step_up_to(Call::Read, buffer.len())?;
        preadv2(&fd, &mut [IoSliceMut::new(&mut buffer[..len])], u64::MAX, ReadWriteFlags::NOWAIT)
    });
    // Whatever else may be wrong, who waits learns.
    result.ok()
}

#[cfg(not(all(target_os = "linux", not(plug_portable))))]
pub(crate) fn read_at_once(_: impl AsFd, _: &mut [u8]) -> Option<usize> {
    None
}

/// Whether this system can do that with a pipe that has nothing in it. Tests say so where it cannot.
#[cfg(all(test, target_os = "linux", not(plug_portable)))]
pub(crate) fn can_read_at_once(empty: &OwnedFd) -> bool {
    use rustix::io::{IoSliceMut, ReadWriteFlags, preadv2};
    let mut byte = [0];
    let slices = &mut [IoSliceMut::new(&mut byte)];
    let read = preadv2(empty, slices, u64::MAX, ReadWriteFlags::NOWAIT);
    if read == Err(Errno::OPNOTSUPP) {
        println!("this Linux cannot read from a pipe without waiting");
        return false;
    }
    assert_eq!(read, Err(Errno::AGAIN));
    true
}

/// What [`read`] does, behind what is in a vector, within its capacity, and `most` bytes at most.
#[allow(unsafe_code)]
pub(crate) fn read_behind(fd: impl AsFd, memory: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    let room = memory.spare_capacity_mut();
    let most = most.min(room.len());
    let result = rustix::io::retry_on_intr(|| {
        let len = seam::step_up_to(Call::Read, most)?;
        let (read, _) = rustix::io::read(&fd, &mut room[..len])?;
        Ok(read.len())
    });
    let len = match result {
        Err(Errno::CONNRESET) => 0,
        result => result?,
    };
    // SAFETY: so many bytes behind the last have just been initialised, and they lie within the capacity.
    unsafe { memory.set_len(memory.len() + len) };
    Ok(len)
}

/// What a write to a non-blocking pipe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The pipe took this many bytes.
    Bytes(usize),
    /// It took this many, which are not all but much, and is full.
    Part(usize),
    /// The pipe is full.
    Full,
    /// Nobody will ever read.
    Broken,
}

/// Writes what fits into a non-blocking pipe.
pub(crate) fn write(fd: impl AsFd, bytes: &[u8]) -> Written {
    let result = rustix::io::retry_on_intr(|| {
        let len = seam::step_up_to(Call::Write, bytes.len())?;
        rustix::io::write(&fd, &bytes[..len])
    });
    written(result, bytes.len())
}

/// The same of bytes that are in several places, and at most `most` of them.
pub(crate) fn write_parts<'a>(
    fd: impl AsFd,
    parts: impl Iterator<Item = &'a [u8]> + Clone,
    most: usize,
) -> Written {
    let all = parts.clone().take(PARTS).map(<[u8]>::len).sum::<usize>().min(most);
    let result = rustix::io::retry_on_intr(|| {
        let mut left = seam::step_up_to(Call::Write, all)?;
        let mut slices = [IoSlice::new(&[]); PARTS];
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(parts.clone()) {
            let len = part.len().min(left);
            *slice = IoSlice::new(&part[..len]);
            left -= len;
            count += 1;
        }
        rustix::io::writev(&fd, &slices[..count])
    });
    written(result, all)
}

fn written(result: Result<usize, Errno>, all: usize) -> Written {
    match result {
        // Of less than a page it may be that something came in between.
        Ok(written) if written < all && written >= PAGE => Written::Part(written),
        Ok(written) => Written::Bytes(written),
        Err(Errno::AGAIN) => Written::Full,
        // Whatever else is wrong with the pipe, nothing more gets through it.
        Err(_) => Written::Broken,
    }
}

/// Makes a non-blocking pipe readable, which it is as well if it is full. The byte is 0, in case it is read as a frame: as
/// one that has nothing in it.
pub(crate) fn ring(fd: impl AsFd) -> Written {
    let rung = rustix::io::retry_on_intr(|| {
        seam::step(Call::Ring)?;
        rustix::io::write(&fd, &[0])
    });
    match rung {
        Ok(bytes) => Written::Bytes(bytes),
        Err(Errno::AGAIN) => Written::Full,
        Err(_) => Written::Broken,
    }
}

/// Makes reads or writes of this end return at once. Shared with whoever inherited the same end, so only for ends that
/// nobody else has.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    seam::step(Call::SetFlags)?;
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

/// A pipe that was made to hold more. There are few of them at a time.
#[derive(Debug)]
pub(crate) struct Grown {
    /// Where they are counted.
    among: &'static AtomicUsize,
}

impl Drop for Grown {
    fn drop(&mut self) {
        self.among.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes a pipe, by either end, hold more, if the system lets it: for who moves much. `None` if that is not to be had. What
/// all pipes of a user may hold is bounded (64 MiB, as a rule), and new ones hold next to nothing once it is used up.
pub(crate) fn grow(fd: &OwnedFd) -> Option<Grown> {
    static GROWN: AtomicUsize = AtomicUsize::new(0);
    grow_among(fd, &GROWN)
}

fn grow_among(fd: &OwnedFd, among: &'static AtomicUsize) -> Option<Grown> {
    let before = among.fetch_add(1, Ordering::Relaxed);
    let grown = Grown { among };
    (before < GROWN_AT_MOST && set_capacity(fd, GROWN_TO)).then_some(grown)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_capacity(fd: &OwnedFd, bytes: usize) -> bool {
    // Who has given it to this process may have made it larger than that.
    let holds = seam::step(Call::Resize).and_then(|()| rustix::pipe::fcntl_getpipe_size(fd));
    let is_smaller = holds.is_ok_and(|holds| holds < bytes);
    let resize = || rustix::pipe::fcntl_setpipe_size(fd, bytes);
    is_smaller && seam::step(Call::Resize).and_then(|()| resize()).is_ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set_capacity(_: &OwnedFd, _: usize) -> bool {
    false
}

/// Whether nobody can read any more what is written here.
pub(crate) fn is_broken(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::OUT)];
    let polled = poll(&mut fds, Some(Instant::now()));
    polled.is_ok() && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// How many bytes can be read without waiting.
pub(crate) fn readable_bytes(fd: impl AsFd) -> usize {
    let readable = seam::step(Call::Readable).and_then(|()| rustix::io::ioctl_fionread(fd));
    readable.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Whether this is a pipe or a socket, as a host gives to its plugins, rather than a terminal or a file.
pub(crate) fn is_pipe(fd: impl AsFd) -> bool {
    use rustix::fs::FileType;
    rustix::fs::fstat(fd).is_ok_and(|stat| {
        let file_type = FileType::from_raw_mode(stat.st_mode);
        matches!(file_type, FileType::Fifo | FileType::Socket)
    })
}

/// What to wait for.
#[derive(Clone, Copy)]
pub(crate) struct Wait<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) for_writing: bool,
}

impl<'a> Wait<'a> {
    pub(crate) fn readable(fd: &'a impl AsFd) -> Wait<'a> {
        Wait { fd: fd.as_fd(), for_writing: false }
    }

    pub(crate) fn writable(fd: &'a OwnedFd) -> Wait<'a> {
        Wait { fd: fd.as_fd(), for_writing: true }
    }
}

/// One more descriptor for what is open here, which no child inherits.
#[cfg(not(all(target_os = "linux", not(plug_portable))))]
pub(crate) fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    seam::step(Call::Duplicate)?;
    fd.as_fd().try_clone_to_owned()
}

/// Waits until one of the descriptors is ready (or has ended, or is broken) or the time has come, and says
/// which are ready. Where the system cannot wait at the moment, it returns after a short pause, and so may say that none
/// is.
pub(crate) fn wait(waits: &[Wait<'_>], until: Option<Instant>) -> Vec<bool> {
    let mut fds: Vec<_> = waits
        .iter()
        .map(|wait| {
            let flags = if wait.for_writing { PollFlags::OUT } else { PollFlags::IN };
            PollFd::from_borrowed_fd(wait.fd, flags)
        })
        .collect();
    loop {
        match poll(&mut fds, until) {
            Ok(_) => return fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
            Err(Errno::INTR) => {}
            Err(_) => {
                pause(until);
                let look = |wait: &Wait<'_>| wait.for_writing || readable_bytes(wait.fd) > 0;
                return waits.iter().map(look).collect();
            }
        }
    }
}

/// Waits until a descriptor can be read from, or has ended, or the time has come. Says whether it is one of the first
/// two. What [`wait`] does, without taking memory for it: a call with a deadline pays for this.
pub(crate) fn wait_readable(fd: &OwnedFd, until: Option<Instant>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    loop {
        match poll(&mut fds, until) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(_) => {
                pause(until);
                return readable_bytes(fd) > 0;
            }
        }
    }
}

fn poll(fds: &mut [PollFd<'_>], until: Option<Instant>) -> Result<usize, Errno> {
    seam::step(Call::Poll)?;
    let timeout = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
    rustix::event::poll(fds, timeout.as_ref())
}

/// What is left where the system cannot wait: it has no memory for that at the moment, or this process may have fewer
/// descriptors by now (`RLIMIT_NOFILE`) than it waits for.
fn pause(until: Option<Instant>) {
    let left = until.map_or(PAUSE, |until| until.saturating_duration_since(Instant::now()));
    std::thread::sleep(left.min(PAUSE));
}

/// The least that a pipe that was full takes at a time.
const PAGE: usize = 4 << 10;

/// How many parts are written at a time.
const PARTS: usize = 16;

/// How many pipes of this process are made to hold more, and how much: a fragment of a long message with its head, which
/// is a little more than 256 KiB. With 256 KiB, the last few bytes of each wait for the other side.
const GROWN_AT_MOST: usize = 16;
const GROWN_TO: usize = 512 << 10;

/// How long to wait before looking again, where the system cannot wait.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_in_their_order_and_a_full_pipe_is_told_from_many_parts() {
        let (reader, writer) = pair().unwrap();
        set_nonblocking(&writer).unwrap();
        let parts: Vec<Vec<u8>> = (0..2 * PARTS as u8).map(|part| vec![part; 3]).collect();
        let all = parts.concat();
        let some = |from: usize| parts[from..].iter().map(Vec::as_slice);
        assert_eq!(write_parts(&writer, some(0), usize::MAX), Written::Bytes(3 * PARTS));
        assert_eq!(write_parts(&writer, some(PARTS), 4), Written::Bytes(4), "no more are wanted");
        let mut read = vec![0; all.len()];
        assert_eq!(super::read(&reader, &mut read).unwrap(), 3 * PARTS + 4);
        assert_eq!(read[..3 * PARTS + 4], all[..3 * PARTS + 4]);

        let long = vec![7; 1 << 20];
        let Written::Part(first) = write(&writer, &long) else { panic!("a pipe holds less") };
        assert_eq!(write_parts(&writer, [&long[..]].into_iter(), usize::MAX), Written::Full);
        let mut read = vec![0; first];
        assert_eq!(super::read(&reader, &mut read).unwrap(), first);
        let two = [&long[..9], &long[..]];
        let written = write_parts(&writer, two.into_iter(), usize::MAX);
        assert!(
            matches!(written, Written::Part(len) if (9..1 << 20).contains(&len)),
            "{written:?}"
        );
    }

    #[test]
    #[cfg(all(target_os = "linux", not(plug_portable)))]
    fn what_is_there_is_read_at_once_and_what_is_not_is_not_waited_for() {
        let (reader, writer) = pair().unwrap();
        let mut buffer = [0; 8];
        if !can_read_at_once(&reader) {
            return;
        }
        assert_eq!(read_at_once(&reader, &mut buffer), None);
        assert_eq!(write(&writer, b"abc"), Written::Bytes(3));
        assert_eq!(read_at_once(&reader, &mut buffer), Some(3));
        assert_eq!(&buffer[..3], b"abc");
        drop(writer);
        assert_eq!(read_at_once(&reader, &mut buffer), Some(0), "the end of the stream");
    }

    #[test]
    fn bytes_are_read_behind_what_is_there_and_not_more_than_wanted() {
        let (reader, writer) = pair().unwrap();
        write(&writer, b"abcdefgh");
        let mut memory = Vec::with_capacity(7);
        memory.extend_from_slice(b"12");
        assert_eq!(read_behind(&reader, &mut memory, 3).unwrap(), 3);
        assert_eq!(memory, b"12abc");
        assert_eq!(read_behind(&reader, &mut memory, 100).unwrap(), 2, "there is no more room");
        assert_eq!(memory, b"12abcde");
        drop(writer);
        memory.clear();
        assert_eq!(read_behind(&reader, &mut memory, 100).unwrap(), 3);
        assert_eq!(read_behind(&reader, &mut memory, 100).unwrap(), 0, "that was all");
        assert_eq!(memory, b"fgh");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn few_pipes_are_made_to_hold_more_at_a_time() {
        static AMONG: AtomicUsize = AtomicUsize::new(0);
        let holds = |fd: &OwnedFd| rustix::pipe::fcntl_getpipe_size(fd).unwrap();
        let pipes: Vec<_> = (0..=GROWN_AT_MOST).map(|_| pair().unwrap()).collect();
        let mut grown: Vec<_> = pipes.iter().map(|(_, end)| grow_among(end, &AMONG)).collect();
        if grown[0].is_none() {
            // This user has many pipes, or may have none that hold more.
            return;
        }
        assert!(grown.iter().take(GROWN_AT_MOST).all(Option::is_some));
        assert!(grown[GROWN_AT_MOST].is_none(), "there are enough");
        assert_eq!(holds(&pipes[0].0), GROWN_TO);
        assert!(holds(&pipes[GROWN_AT_MOST].0) < GROWN_TO);
        grown.clear();
        assert!(grow_among(&pipes[GROWN_AT_MOST].0, &AMONG).is_some(), "by the other end, too");
        assert!(grow_among(&pipes[0].0, &AMONG).is_none(), "it holds as much");
        assert_eq!(AMONG.load(Ordering::Relaxed), 0);
    }
}
