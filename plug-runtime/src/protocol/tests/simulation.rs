//! Schedules as drivers make them: two sides, two pipes that hold little, a clock that somebody turns, and users who
//! call, serve, send and read in their own time; with everything that goes wrong between two processes. All of it
//! follows from one number, the seed.
//!
//! The ordinary tests run some seeds. A long run by hand, 2000 of them a second on one core:
//!
//! ```text
//! PLUG_SIM_SEEDS=100000 cargo test --release -p plug-runtime --lib simulation -- --nocapture
//! ```
//!
//! `PLUG_SIM_SEED=<n>` repeats one, and prints its steps.

use super::model::{Answered, End, Limits, Shape};
use super::random::{Random, number};
use super::world::{Step, World};
use super::*;
use crate::protocol::FRAGMENT;

/// What goes wrong, and after how many steps.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// A side dies. Its peer first reads so many of the bytes that are in the pipe, and then learns that it is gone:
    /// by the end of the bytes, or by its exit.
    Kill {
        side: Side,
        reads: usize,
        by_exit: bool,
    },
    /// The bytes to a side stop after so many more.
    Cut {
        to: Side,
        after: usize,
    },
    /// A side reads nothing for so many steps.
    Stall {
        side: Side,
        steps: usize,
    },
    /// A side says goodbye, and its peer ends when its calls have.
    Goodbye {
        side: Side,
    },
    /// A side sends what no side of ours does.
    Garbage {
        side: Side,
    },
    /// The clock goes on by an hour at once.
    Jump,
}

/// One run.
struct Simulation {
    world: World,
    random: Random,
    /// How much each pipe holds, and how much a side reads and writes at most in one go.
    capacity: usize,
    piece: usize,
    fault: Fault,
    fault_at: usize,
    stalled: Option<(Side, usize)>,
    /// How many calls, messages and long messages users still make.
    calls: usize,
    messages: usize,
    shows: bool,
}

const SIDES: [Side; 2] = [Side::Host, Side::Plugin];

impl Simulation {
    fn new(seed: u64, shows: bool) -> Simulation {
        let mut random = Random(seed);
        let stream_window = random.pick(&[64, 500, 4000, 512 << 10]);
        let limits = Limits {
            max_calls: random.pick(&[1, 3, 64]),
            stream_window,
            connection_window: stream_window * random.pick(&[1, 3, 32]),
            budget: random.pick(&[1, 10_000, 64 << 20]),
        };
        let side = random.pick(&SIDES);
        let fault = match random.below(12) {
            0 | 1 => Fault::Kill { side, reads: random.below(5000), by_exit: random.chance(50) },
            2 => Fault::Cut { to: side, after: random.below(3000) },
            3 => Fault::Stall { side, steps: random.below(500) },
            4 => Fault::Goodbye { side },
            5 => Fault::Garbage { side },
            6 => Fault::Jump,
            _ => Fault::None,
        };
        let capacity = random.pick(&[1, 7, 100, 4096, 65536]);
        let piece = random.pick(&[1, 13, 1000, 65536]);
        Simulation {
            world: World::new(limits),
            capacity,
            piece,
            fault,
            fault_at: random.below(600),
            stalled: None,
            calls: random.below(40),
            messages: random.below(300),
            shows,
            random,
        }
    }

    fn run(mut self) -> Outcome {
        if self.shows {
            println!(
                "{:?}, pipes of {}, pieces of {}, {:?} at {}",
                self.world.limits, self.capacity, self.piece, self.fault, self.fault_at
            );
        }
        for step in 0..1000 {
            if step == self.fault_at {
                if let Fault::Garbage { side } = self.fault {
                    return self.hear_garbage(side.other());
                }
                self.go_wrong();
            }
            if matches!(self.stalled, Some((_, until)) if step >= until) {
                self.stalled = None;
            }
            self.turn();
        }
        self.stalled = None;
        // What is left is done without any more delay. One-byte pipes would make that long.
        self.capacity = usize::MAX;
        self.world.finish();
        let ended = [&self.world.host, &self.world.plugin]
            .iter()
            .flat_map(|end| end.made.values())
            .filter(|made| matches!(made.outcome, Some(Ok(_))))
            .count();
        Outcome { peaceful: self.world.is_peaceful(), answered: ended }
    }

    fn step(&mut self, step: Step) {
        if self.shows {
            println!("{step:?}");
        }
        self.world.step(&step);
    }

    /// Something happens that can: a user or a driver of one side does one thing.
    fn turn(&mut self) {
        let side = self.random.pick(&SIDES);
        let which = self.random.below(1000);
        match self.random.below(100) {
            0..8 if self.calls > 0 => {
                self.calls -= 1;
                let shape = self.random.pick(&Shape::ALL);
                let len = self.len();
                let timeout = self.random.chance(15).then(|| 1 + self.random.next() % 60);
                self.step(Step::Open(side, shape, len, timeout));
            }
            8..24 if self.messages > 0 => {
                self.messages -= 1;
                let len = self.len();
                let requests = self.random.chance(50);
                self.step(match requests {
                    true => Step::Send(side, which, len),
                    false => Step::Respond(side, which, len),
                });
            }
            24..27 => self.step(Step::EndRequests(side, which)),
            27..33 => {
                let len = self.len();
                let answer = match self.random.below(6) {
                    0 => Answered::Failed,
                    1 => Answered::Refused,
                    2 => Answered::Finished(false),
                    _ => Answered::Response(blob(len, which as u8)),
                };
                self.step(Step::Answer(side, which, answer));
            }
            33..43 => {
                let all = self.random.chance(30);
                self.step(Step::Consume(side, which, all));
            }
            43..45 => {
                let reaches = self.random.chance(70);
                self.step(Step::Cancel(side, which, reaches));
            }
            45 => self.step(Step::Discard(side, which)),
            46..48 => {
                // Somebody wakes up late now and then.
                let late = if self.random.chance(10) { 100 } else { 1 };
                let millis = late * (self.random.next() % 5);
                self.step(Step::Tick(millis));
            }
            48 => self.step(Step::Ping(side)),
            49 => self.step(self.random_log()),
            50..75 => self.write(side),
            _ => self.read(side),
        }
    }

    fn random_log(&self) -> Step {
        if self.messages % 2 == 0 { Step::Log } else { Step::Level }
    }

    fn len(&mut self) -> usize {
        match self.random.below(40) {
            0 => FRAGMENT + self.random.below(1000),
            1..4 => 5000 + self.random.below(50_000),
            4..14 => self.random.below(3000),
            _ => self.random.below(30),
        }
    }

    /// A driver writes what the pipe takes.
    fn write(&mut self, side: Side) {
        let room = self.capacity.saturating_sub(self.world.end(side.other()).arriving.len());
        let most = room.min(1 + self.random.below(self.piece));
        let at_once = self.random.chance(70);
        self.step(Step::Write(side, most, at_once));
    }

    fn read(&mut self, side: Side) {
        if self.stalled.is_some_and(|(stalled, _)| stalled == side) {
            return;
        }
        let most = 1 + self.random.below(self.piece);
        self.step(Step::Read(side, most));
    }

    fn go_wrong(&mut self) {
        if self.shows {
            println!("{:?}", self.fault);
        }
        match self.fault {
            Fault::None => {}
            Fault::Kill { side, reads, by_exit } => {
                self.step(Step::Close(side));
                self.step(Step::Read(side.other(), reads));
                self.step(if by_exit {
                    Step::Close(side.other())
                } else {
                    Step::Eof(side.other())
                });
            }
            Fault::Cut { to, after } => {
                let end = self.world.end(to);
                end.arriving.truncate(after);
                self.step(Step::Read(to, usize::MAX));
                self.step(Step::Eof(to));
            }
            Fault::Stall { side, steps } => self.stalled = Some((side, self.fault_at + steps)),
            Fault::Goodbye { side } => self.step(Step::Goodbye(side)),
            Fault::Garbage { .. } => unreachable!("it ends the run"),
            Fault::Jump => self.step(Step::Tick(3_600_000)),
        }
    }

    /// A side hears frames as no side of ours sends them, about calls that may or may not be there. What its users make
    /// of them nobody knows, but it must survive, keep to its bounds, and end each of its calls once.
    fn hear_garbage(mut self, side: Side) -> Outcome {
        self.world.step(&Step::Read(side, usize::MAX));
        let random = &mut self.random;
        let End { connection, made, .. } = match side {
            Side::Host => &mut self.world.host,
            Side::Plugin => &mut self.world.plugin,
        };
        let mut open: Vec<u64> =
            made.keys().copied().filter(|call| made[call].outcome.is_none()).collect();
        let mut ended = Vec::new();
        for round in 0..200 {
            if round == 199 {
                connection.close(&killed());
            }
            let payload = vec![7; random.below(40)];
            let frame = Frame {
                kind: random.pick(&[2, 3, 3, 4, 4, 5, 6, 6, 7, 8, 9, 10, 11, 64, 127]),
                call: random.next() % 12,
                method: random.next() as u32 % 6,
                flags: random.pick(&[0, 0, 1, 1, 2, 3, 4, 8]),
                total: random.pick(&[0, 0, 0, 5, 100, 1 << 20]),
                credit: random.pick(&[0, 500, 10_000, 1 << 50]),
                code: random.pick(&[0, 0, 5]),
                payload: &payload,
                ..Frame::default()
            };
            connection.handle_bytes(&bytes(&[frame]));
            assert!(connection.held() < 8 << 20, "{} bytes are held", connection.held());
            while let Some(event) = connection.poll_event() {
                match event {
                    Event::Reply { call, .. } => ended.push(call),
                    Event::Messages { call, cost, .. } => connection.consume(call, cost),
                    Event::Request(request) if random.chance(50) => {
                        connection.reply(request.call, failed(Code::NotFound, "no"));
                    }
                    _ => {}
                }
            }
        }
        ended.sort_unstable();
        open.sort_unstable();
        assert_eq!(ended, open, "{side:?}: each call ends once");
        assert_eq!((connection.calls_made(), connection.calls_served()), (0, 0));
        Outcome { peaceful: false, answered: 0 }
    }
}

/// How a run ended.
struct Outcome {
    peaceful: bool,
    answered: usize,
}

fn killed() -> Error {
    Error::of_kind(ErrorKind::Exited, "the plugin was killed")
}

#[test]
fn f14_f17_whatever_the_schedule_everything_comes_to_its_end() {
    if let Some(seed) = number("PLUG_SIM_SEED") {
        Simulation::new(seed, true).run();
        return;
    }
    let seeds = number("PLUG_SIM_SEEDS").unwrap_or(300);
    let (mut peaceful, mut answered) = (0, 0);
    for seed in 0..seeds {
        let run = || Simulation::new(seed, false).run();
        match std::panic::catch_unwind(run) {
            Ok(outcome) => {
                peaceful += u64::from(outcome.peaceful);
                answered += outcome.answered;
            }
            Err(problem) => {
                println!("seed {seed} fails: repeat it with PLUG_SIM_SEED={seed}");
                std::panic::resume_unwind(problem);
            }
        }
    }
    println!(
        "{seeds} seeds, {peaceful} of them without an end of the connection, {answered} answers"
    );
    // Most runs must get somewhere, or they test nothing.
    assert!(peaceful > seeds / 3 && answered as u64 > seeds, "{peaceful} and {answered}");
}
