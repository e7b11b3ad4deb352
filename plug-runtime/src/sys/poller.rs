//! What the watcher waits with: descriptors, each armed for one event at a time, and a timer that
//! other threads set without waking it.

#[cfg(all(target_os = "linux", not(plug_portable)))]
pub(crate) use linux::Poller;
#[cfg(not(all(target_os = "linux", not(plug_portable))))]
pub(crate) use portable::Poller;

/// What a descriptor is armed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
}

/// What has happened.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    /// The keys of descriptors that are ready. They are not waited for any more.
    pub(crate) keys: Vec<u64>,
    /// Whether the timer has run out.
    pub(crate) timer: bool,
}

#[cfg(all(target_os = "linux", not(plug_portable)))]
mod linux {
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::{Duration, Instant};

    use rustix::event::{EventfdFlags, epoll};
    use rustix::io::Errno;
    use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

    use super::{Interest, Ready};
    use crate::sys::pipe::{PAUSE, timespec};
    use crate::sys::seam::{self, Call};

    /// epoll, with a timerfd for the timer and an eventfd to wake it.
    #[derive(Debug)]
    pub(crate) struct Poller {
        epoll: OwnedFd,
        timer: OwnedFd,
        bell: OwnedFd,
    }

    impl Poller {
        pub(crate) fn new() -> io::Result<Poller> {
            seam::step(Call::EpollCreate)?;
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            seam::step(Call::TimerCreate)?;
            let timer = rustix::time::timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
            )?;
            let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
            seam::step(Call::EventCreate)?;
            let bell = rustix::event::eventfd(0, flags)?;
            for (fd, key) in [(&timer, TIMER), (&bell, BELL)] {
                seam::step(Call::EpollControl)?;
                let data = epoll::EventData::new_u64(key);
                epoll::add(&epoll, fd, data, epoll::EventFlags::IN)?;
            }
            Ok(Poller { epoll, timer, bell })
        }

        /// Waits for one event of a descriptor, to be told by its key.
        ///
        /// A pipe that is known here, even if nothing is waited for, makes each write into it 2 % of a
        /// call dearer: the kernel calls on everybody who is registered.
        pub(crate) fn arm(&self, fd: impl AsFd, key: u64, interest: Interest) -> io::Result<()> {
            let flags = match interest {
                Interest::Read => epoll::EventFlags::IN,
                Interest::Write => epoll::EventFlags::OUT,
            };
            let flags = flags | epoll::EventFlags::ONESHOT;
            let data = epoll::EventData::new_u64(key);
            seam::step(Call::EpollControl)?;
            // Most are forgotten when they have been waited for, but what is read all the time is not.
            match epoll::add(&self.epoll, &fd, data, flags) {
                Err(Errno::EXIST) => Ok(epoll::modify(&self.epoll, &fd, data, flags)?),
                result => Ok(result?),
            }
        }

        /// Waits for a descriptor no longer. It must come before it is closed.
        pub(crate) fn forget(&self, fd: impl AsFd, _key: u64) {
            // It may not be known. Apart from that, it cannot fail.
            let _ = epoll::delete(&self.epoll, fd);
        }

        /// Sets the timer, which stays set if it runs already, without waking the watcher.
        pub(crate) fn set_timer(&self, after: Duration) {
            let spec =
                Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(after) };
            // With such a timer and such a time it cannot fail.
            let _ = seam::step(Call::TimerSet);
            let _ = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec);
        }

        /// Lets `wait` return.
        pub(crate) fn wake(&self) {
            // It fails only if it was called more often than can be counted.
            let _ = seam::step(Call::EventWrite);
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }

        /// Waits until something happens, or the time has come.
        pub(crate) fn wait(&self, until: Option<Instant>, ready: &mut Ready) {
            ready.keys.clear();
            ready.timer = false;
            let timeout =
                until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
            let nothing = epoll::Event {
                flags: epoll::EventFlags::empty(),
                data: epoll::EventData::new_u64(0),
            };
            let mut events = [nothing; 64];
            let waited = seam::step(Call::EpollWait)
                .and_then(|()| epoll::wait(&self.epoll, &mut events, timeout.as_ref()));
            let count = match waited {
                Ok(count) => count,
                Err(Errno::INTR) => 0,
                Err(_) => {
                    // The kernel has no reason to, but a filter of system calls may. The watcher must live on: what
                    // it does by the tick and at deadlines keeps everything going.
                    std::thread::sleep(PAUSE);
                    ready.timer = true;
                    0
                }
            };
            for event in &events[..count] {
                match event.data.u64() {
                    TIMER => {
                        ready.timer = true;
                        self.silence(&self.timer);
                    }
                    BELL => self.silence(&self.bell),
                    key => ready.keys.push(key),
                }
            }
        }

        fn silence(&self, counter: &OwnedFd) {
            // If it fails, the next wait returns at once, and it is tried again.
            let _ = seam::step(Call::Read).and_then(|()| rustix::io::read(counter, &mut [0; 8]));
        }
    }

    const TIMER: u64 = u64::MAX;
    const BELL: u64 = u64::MAX - 1;
}

#[cfg(not(all(target_os = "linux", not(plug_portable))))]
mod portable {
    use std::collections::BTreeMap;
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags};
    use rustix::io::Errno;

    use super::{Interest, Ready};
    use crate::sys::pipe;
    use crate::sys::seam::{self, Call};

    /// `poll`, woken through a pipe whenever another thread changes what to wait for.
    #[derive(Debug)]
    pub(crate) struct Poller {
        known: Mutex<Known>,
        bell: OwnedFd,
        rung: OwnedFd,
    }

    #[derive(Debug, Default)]
    struct Known {
        /// Descriptors of our own, so that none is closed and reused by others while it is polled.
        fds: BTreeMap<u64, (Arc<OwnedFd>, Option<Interest>)>,
        timer: Option<Instant>,
    }

    impl Poller {
        pub(crate) fn new() -> io::Result<Poller> {
            let (rung, bell) = pipe::pair()?;
            pipe::set_nonblocking(&rung)?;
            pipe::set_nonblocking(&bell)?;
            Ok(Poller { known: Mutex::default(), bell, rung })
        }

        pub(crate) fn arm(&self, fd: impl AsFd, key: u64, interest: Interest) -> io::Result<()> {
            let mut known = self.lock();
            match known.fds.get_mut(&key) {
                Some((_, armed)) => *armed = Some(interest),
                None => {
                    let own = pipe::duplicate(fd)?;
                    known.fds.insert(key, (Arc::new(own), Some(interest)));
                }
            }
            drop(known);
            self.wake();
            Ok(())
        }

        pub(crate) fn forget(&self, _fd: impl AsFd, key: u64) {
            // While it is polled, a descriptor of the watcher's keeps the pipe open: it must let go now.
            let known = self.lock().fds.remove(&key);
            if known.is_some() {
                self.wake();
            }
        }

        pub(crate) fn set_timer(&self, after: Duration) {
            self.lock().timer = Some(Instant::now() + after);
            self.wake();
        }

        pub(crate) fn wake(&self) {
            pipe::ring(&self.bell);
        }

        pub(crate) fn wait(&self, until: Option<Instant>, ready: &mut Ready) {
            ready.keys.clear();
            ready.timer = false;
            let known = self.lock();
            let timer = known.timer;
            let until = [until, timer].into_iter().flatten().min();
            let armed = |(&key, (fd, interest)): (&u64, &(Arc<OwnedFd>, Option<Interest>))| {
                interest.map(|interest| (key, fd.clone(), interest))
            };
            let own: Vec<_> = known.fds.iter().filter_map(armed).collect();
            drop(known);
            let mut fds: Vec<_> = own
                .iter()
                .map(|(_, fd, interest)| match interest {
                    Interest::Read => PollFd::new(fd, PollFlags::IN),
                    Interest::Write => PollFd::new(fd, PollFlags::OUT),
                })
                .chain([PollFd::new(&self.rung, PollFlags::IN)])
                .collect();
            let timeout =
                until.map(|until| pipe::timespec(until.saturating_duration_since(Instant::now())));
            let polled = seam::step(Call::Poll)
                .and_then(|()| rustix::event::poll(&mut fds, timeout.as_ref()));
            let has_failed = match polled {
                Ok(_) => false,
                Err(Errno::INTR) => return,
                // Whoever is told that something is ready looks without waiting: so all are.
                Err(_) => {
                    std::thread::sleep(pipe::PAUSE);
                    true
                }
            };
            // If it fails, the next wait returns at once, and it is tried again.
            let _ = pipe::read(&self.rung, &mut [0; 64]);
            let mut known = self.lock();
            for ((key, ..), _) in
                own.iter().zip(&fds).filter(|(_, poll)| has_failed || !poll.revents().is_empty())
            {
                let armed = known.fds.get_mut(key).and_then(|(_, armed)| armed.take());
                if armed.is_some() {
                    ready.keys.push(*key);
                }
            }
            if known.timer.is_some_and(|timer| timer <= Instant::now()) {
                known.timer = None;
                ready.timer = true;
            }
        }

        fn lock(&self) -> MutexGuard<'_, Known> {
            self.known.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
