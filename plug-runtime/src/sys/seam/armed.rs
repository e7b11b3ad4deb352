//! Steps that fail as they are told to, see the module above.

use std::fs::File;
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Call, Errno};

/// Fails if it is this step's turn.
pub(crate) fn step(call: Call) -> Result<(), Errno> {
    step_up_to(call, 1).map(drop)
}

/// Fails if it is this step's turn, and otherwise says how many of `len` bytes are read or written at most.
pub(crate) fn step_up_to(call: Call, len: usize) -> Result<usize, Errno> {
    if DISARMED.load(Ordering::Relaxed) {
        return Ok(len);
    }
    match PLAN.get_or_init(Plan::from_env).next(call) {
        None => Ok(len),
        Some(Failure::AtMost(most)) => Ok(len.min(most)),
        Some(Failure::Error(_, error)) => Err(error),
    }
}

/// Reads the rules and opens the trace now, and not at the first step, when there may be no descriptor left for it.
pub fn arm() {
    PLAN.get_or_init(Plan::from_env);
}

/// From now on no step of this process fails or is traced.
pub fn disarm() {
    DISARMED.store(true, Ordering::Relaxed);
}

static PLAN: OnceLock<Plan> = OnceLock::new();
static DISARMED: AtomicBool = AtomicBool::new(false);

#[derive(Clone, Copy, Debug)]
enum Failure {
    Error(&'static str, Errno),
    AtMost(usize),
}

struct Plan {
    rules: Vec<Rule>,
    trace: Option<File>,
    steps: AtomicU64,
    /// How many steps of each kind there were.
    of_kind: [AtomicU64; CALLS.len()],
}

struct Rule {
    place: Place,
    what: What,
}

enum Place {
    Step(u64),
    Each(Call, u64),
    After(Call, u64),
}

enum What {
    This(Failure),
    /// One of those that the system can have, by its place among them.
    Place(usize),
}

impl Plan {
    fn from_env() -> Plan {
        let rules = std::env::var("PLUG_SEAM").unwrap_or_default();
        let trace = std::env::var_os("PLUG_SEAM_TRACE").map(|path| {
            let file = File::options().create(true).append(true).open(&path);
            file.unwrap_or_else(|error| panic!("PLUG_SEAM_TRACE={path:?}: {error}"))
        });
        Plan {
            rules: rules.split(',').filter(|rule| !rule.is_empty()).map(Rule::parse).collect(),
            trace,
            steps: AtomicU64::new(0),
            of_kind: [const { AtomicU64::new(0) }; CALLS.len()],
        }
    }

    fn next(&self, call: Call) -> Option<Failure> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let number = self.of_kind[call as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let rule = self.rules.iter().find(|rule| rule.place.is_here(step, call, number));
        let failure = rule.and_then(|rule| match rule.what {
            What::This(failure) => Some(failure),
            What::Place(place) => call.failures().get(place).copied(),
        });
        if let Some(mut trace) = self.trace.as_ref() {
            let (name, possible) = (call.name(), call.failures().len());
            let failure = match failure {
                None => String::new(),
                Some(Failure::AtMost(most)) => format!(" most:{most}"),
                Some(Failure::Error(name, _)) => format!(" {name}"),
            };
            // In one write, so that lines of several threads are not mixed.
            let line = format!("{step} {name} {possible}{failure}\n");
            trace.write_all(line.as_bytes()).expect("the trace can be written");
        }
        failure
    }
}

impl Place {
    fn is_here(&self, step: u64, call: Call, number: u64) -> bool {
        match *self {
            Place::Step(this) => this == step,
            Place::Each(this, every) => this == call && number % every == 0,
            Place::After(this, spared) => this == call && number > spared,
        }
    }
}

impl Rule {
    fn parse(rule: &str) -> Rule {
        Rule::try_parse(rule).unwrap_or_else(|| panic!("PLUG_SEAM has a wrong rule: {rule:?}"))
    }

    fn try_parse(rule: &str) -> Option<Rule> {
        let (place, what) = rule.split_once('=')?;
        let place = if let Ok(step) = place.parse() {
            Place::Step(step)
        } else if let Some((call, spared)) = place.split_once('>') {
            Place::After(Call::named(call)?, spared.parse().ok()?)
        } else {
            let (call, every) = place.split_once('/').unwrap_or((place, "1"));
            Place::Each(Call::named(call)?, every.parse().ok().filter(|&every| every > 0)?)
        };
        let what = if let Some(place) = what.strip_prefix('#') {
            What::Place(place.parse().ok()?)
        } else if let Some(most) = what.strip_prefix("most:") {
            What::This(Failure::AtMost(most.parse().ok()?))
        } else {
            let error = ERRORS.iter().find(|(name, _)| *name == what)?;
            What::This(Failure::Error(error.0, error.1))
        };
        Some(Rule { place, what })
    }
}

impl Call {
    fn named(name: &str) -> Option<Call> {
        CALLS.iter().find(|call| call.1 == name).map(|call| call.0)
    }

    fn name(self) -> &'static str {
        CALLS[self as usize].1
    }

    /// The failures that the system can have here, when nothing is wrong with the arguments.
    fn failures(self) -> &'static [Failure] {
        CALLS[self as usize].2
    }
}

macro_rules! errors {
    ($($name:ident $errno:ident),*) => {
        $(const $name: Failure = Failure::Error(stringify!($name), Errno::$errno);)*
        const ERRORS: &[(&str, Errno)] = &[$((stringify!($name), Errno::$errno)),*];
    };
}

errors!(
    EACCES ACCESS, EAGAIN AGAIN, EINTR INTR, EINVAL INVAL, EIO IO, EMFILE MFILE, ENFILE NFILE, ENOENT NOENT,
    ENOMEM NOMEM, ENOSPC NOSPC, ENOSYS NOSYS, EPERM PERM, EPIPE PIPE
);
const SHORT: Failure = Failure::AtMost(1);

/// Each kind, in order, with its name in rules and what can go wrong.
const CALLS: [(Call, &str, &[Failure]); 26] = [
    (Call::Pipe, "pipe", &[EMFILE, ENFILE]),
    (Call::Duplicate, "duplicate", &[EMFILE]),
    (Call::SetFlags, "set-flags", &[EPERM]),
    (Call::Resize, "resize", &[EPERM]),
    (Call::Read, "read", &[EINTR, EAGAIN, SHORT, EIO]),
    (Call::Write, "write", &[EINTR, EAGAIN, SHORT, EPIPE]),
    // Both ends are ours, and if it is full, that will do.
    (Call::Ring, "ring", &[EINTR]),
    (Call::Readable, "readable", &[EPERM]),
    (Call::Poll, "poll", &[EINTR, ENOMEM, EINVAL]),
    (Call::EpollCreate, "epoll-create", &[EMFILE, ENOMEM]),
    (Call::EpollControl, "epoll-control", &[ENOMEM, ENOSPC]),
    (Call::EpollWait, "epoll-wait", &[EINTR, EPERM]),
    (Call::TimerCreate, "timer-create", &[EMFILE, ENOMEM]),
    // With a timer and a time that are valid, it cannot fail.
    (Call::TimerSet, "timer-set", &[]),
    (Call::EventCreate, "event-create", &[EMFILE, ENOMEM]),
    // Only if it has been written to as often as there are numbers.
    (Call::EventWrite, "event-write", &[]),
    (Call::PidfdOpen, "pidfd-open", &[EMFILE, ENOMEM, ENOSYS]),
    (Call::Waitid, "waitid", &[EINTR]),
    (Call::Kill, "kill", &[EPERM]),
    (Call::Memory, "memory", &[EMFILE, ENOMEM]),
    (Call::Advise, "advise", &[EINVAL]),
    (Call::Limit, "limit", &[EPERM]),
    (Call::Spawn, "spawn", &[EAGAIN, ENOMEM, EMFILE]),
    (Call::Thread, "thread", &[EAGAIN]),
    (Call::Proc, "proc", &[ENOENT, EACCES, EMFILE]),
    (Call::Open, "open", &[ENOENT, EMFILE]),
];
