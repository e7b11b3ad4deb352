//! Plugins that share memory with their host, or say that they do.

use std::any::Any;
use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::process::exit;
use std::sync::Arc;

use plug::prost::Message as _;
use rustix::fs::SealFlags;
use rustix::process::Signal;

use super::{BOGUS_LENGTH, Raw, echo, random, silence};
use crate::memory::{Input, Mark, Memory, Output, To, memory_len};
use crate::wire::{self, Frame, Hello, MemoryOffer};
use crate::{ActResponse, EchoResponse};

/// The least that a host takes, so that bytes go around the end.
const CAPACITY: u32 = 4 << 10;
const MARK: u64 = 0x6d61_726b;

/// Plays one way, until the host goes away.
pub(super) fn play(mut raw: Raw, args: &[String]) -> io::Result<()> {
    let hello = Hello { features: vec!["shm".to_owned()], ..Hello::of_probe((1, 1)) };
    raw.greet(&hello, &[])?;
    let (way, args) = args.split_first().expect("a way");
    let arg = |index: usize| args[index].as_str();
    match way.as_str() {
        "unasked" => {
            raw.next_open()?;
            raw.write(&Frame::of_kind(wire::SWITCH).bytes())?;
            silence()
        }
        "offer-unasked" => {
            raw.next_open()?;
            raw.write(&Frame::memory(&MemoryOffer::default()).bytes())?;
            silence()
        }
        "early" => {
            raw.serve_until(wire::MEMORY)?;
            raw.write(&Frame::of_kind(wire::SWITCH).bytes())?;
            silence()
        }
        "offer" => {
            raw.serve_until(wire::MEMORY)?;
            let (_kept, frame) = offer(arg(0), &raw)?;
            if let Some(frame) = frame {
                raw.write(&frame.bytes())?;
            }
            raw.serve_and_tell()
        }
        "serve" => raw.share(&[])?.serve(),
        "behind" => raw.share(&[b"Hello\n", BOGUS_LENGTH].concat())?.serve(),
        "shout" => {
            let mut shared = raw.share(&[])?;
            loop {
                let open = shared.next_open()?;
                (&*shared.output.bell).write_all(b"Hello\n")?;
                shared.write(&echo(&open))?;
            }
        }
        // One mark is changed, at once or after some calls.
        "mark" => {
            let mut shared = raw.share(&[])?;
            for _ in 0..arg(3).parse().expect("a number") {
                let open = shared.next_open()?;
                shared.write(&echo(&open))?;
            }
            let to = if arg(0) == "plugin" { To::Plugin } else { To::Host };
            let mark = match arg(1) {
                "written" => Mark::Written,
                "read" => Mark::Read,
                "reader-waits" => Mark::ReaderWaits,
                _ => Mark::WriterWaits,
            };
            let value = u32::from_str_radix(arg(2), 16).expect("a number");
            shared.memory.set_mark(to, mark, value)?;
            (&*shared.output.bell).write_all(&[0])?;
            silence()
        }
        // It says that it has written more than it has.
        "jump" => {
            let mut shared = raw.share(&[])?;
            loop {
                let open = shared.next_open()?;
                shared.write(&echo(&open))?;
                shared.output.publish(shared.output.position + 100)?;
            }
        }
        "scribble" => {
            let mut shared = raw.share(&[])?;
            let memory = shared.memory.clone();
            std::thread::spawn(move || {
                use std::os::unix::fs::FileExt as _;
                let len = memory_len(CAPACITY);
                let mut bytes = random(7);
                loop {
                    let word: [u8; 8] = bytes.next().expect("it has no end");
                    let at = u64::from_le_bytes(word);
                    // Each second time among the marks.
                    let at = if at % 2 == 0 { at / 2 % 1024 } else { at / 2 % len };
                    let _ = memory.file.write_at(&word[..(len - at).min(8) as usize], at);
                }
            });
            loop {
                let open = shared.next_open()?;
                shared.write(&echo(&open))?;
            }
        }
        "garbage" => {
            let mut shared = raw.share(&[])?;
            shared.next_open()?;
            let garbage: Vec<u8> = match arg(0) {
                "length" => BOGUS_LENGTH.to_vec(),
                "switch" => Frame::of_kind(wire::SWITCH).bytes(),
                "memory" => Frame::memory(&shared.memory.offer(MARK)).bytes(),
                seed => random(seed.parse().expect("a number")).take(400).flatten().collect(),
            };
            shared.write(&garbage)?;
            silence()
        }
        "bells" => {
            let mut shared = raw.share(&[])?;
            shared.next_open()?;
            let many = vec![0; 1 << 16];
            loop {
                (&*shared.output.bell).write_all(&many)?;
            }
        }
        "mute" => {
            let mut shared = raw.share(&[])?;
            shared.output.rings = false;
            shared.serve()
        }
        "alarm" => {
            let mut shared = raw.share(&[])?;
            loop {
                let open = shared.next_open()?;
                for _ in 0..100 {
                    (&*shared.output.bell).write_all(&[0])?;
                }
                shared.write(&echo(&open))?;
            }
        }
        "close-input" => {
            let mut shared = raw.share(&[])?;
            shared.next_act()?;
            // It does not say that it waits: so no bell tells that nobody hears it.
            shared.memory.set_mark(To::Plugin, Mark::ReaderWaits, 0)?;
            rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
            let Shared { memory: _memory, input, output: _output } = shared;
            drop(input);
            silence()
        }
        "close-output" => {
            let mut shared = raw.share(&[])?;
            shared.next_act()?;
            rustix::stdio::dup2_stdout(File::open("/dev/null")?)?;
            drop(shared);
            silence()
        }
        // The first piece of a reply is the last in the pipe.
        "in-pieces" => {
            let mut share = raw.agree()?;
            let open = share.next_open()?;
            let piece = |kind, flags, total| {
                let payload = EchoResponse { payload: vec![7; 3000] }.encode_to_vec();
                let (first, second) = payload.split_at(1000);
                let payload = if kind == wire::MESSAGE { first } else { second }.to_vec();
                Frame { kind, call: open.call, flags, total, payload, ..Frame::default() }.bytes()
            };
            let switch = Frame::of_kind(wire::SWITCH).bytes();
            (&*share.output.bell).write_all(&[piece(wire::MESSAGE, 0, 3003), switch].concat())?;
            share.write(&piece(wire::END, 1, 0))?;
            share.serve()
        }
        "die" => {
            let mut shared = raw.share(&[])?;
            let reply = echo(&shared.next_act()?);
            shared.output.rings = false;
            let len = if arg(0) == "whole" { reply.len() } else { reply.len() / 2 };
            shared.write(&reply[..len])?;
            crate::evil::kill_self(Signal::KILL)
        }
        other => panic!("there is no way {other:?} to share"),
    }
}

/// What is offered, and the frame that says so.
fn offer(what: &str, raw: &Raw) -> io::Result<(Box<dyn Any>, Option<Frame>)> {
    let good = Memory::new(CAPACITY, MARK)?.offer(MARK);
    let of_file = |file: &File| {
        let descriptor = file.as_raw_fd().unsigned_abs();
        Some(Frame::memory(&MemoryOffer { descriptor, ..good.clone() }))
    };
    let sealed = |memory: Memory, seals| -> io::Result<(Box<dyn Any>, Option<Frame>)> {
        memory.seal(seals)?;
        let frame = of_file(&memory.file);
        Ok((Box::new(memory), frame))
    };
    let size = SealFlags::SHRINK | SealFlags::GROW;
    let unsealed = || Memory::unsealed(CAPACITY, MARK);
    Ok(match what {
        "nothing" => (Box::new(()), None),
        "declined" => (Box::new(()), Some(Frame { code: 14, ..Frame::of_kind(wire::MEMORY) })),
        "unsealed" => sealed(unsealed()?, SealFlags::empty())?,
        "may-shrink" => sealed(unsealed()?, SealFlags::GROW)?,
        "may-grow" => sealed(unsealed()?, SealFlags::SHRINK)?,
        "read-only" => sealed(unsealed()?, size | SealFlags::FUTURE_WRITE)?,
        "longer" | "shorter" => {
            let memory = unsealed()?;
            let by = if what == "longer" { 1 } else { -1 };
            memory.file.set_len(memory_len(CAPACITY).wrapping_add_signed(by))?;
            sealed(memory, size)?
        }
        "other-mark" => sealed(Memory::unsealed(CAPACITY, MARK + 1)?, size)?,
        "pipe" => (Box::new(()), of_file(&raw.output)),
        "closed" => (Box::new(()), Some(Frame::memory(&MemoryOffer { descriptor: 99, ..good }))),
        "no-number" => {
            (Box::new(()), Some(Frame::memory(&MemoryOffer { descriptor: u32::MAX, ..good })))
        }
        path if path.starts_with('/') => {
            let file = File::open(path)?;
            let frame = of_file(&file);
            (Box::new(file), frame)
        }
        capacity => {
            let capacity = capacity.parse().expect("a number");
            let memory = Memory::new(capacity, MARK)?;
            let frame = Frame::memory(&memory.offer(MARK));
            (Box::new(memory), Some(frame))
        }
    })
}

impl Raw {
    /// Answers calls until a frame of another kind comes, which it should be.
    fn serve_until(&mut self, kind: u32) -> io::Result<()> {
        loop {
            match wire::read_frame(&mut self.input)? {
                Some(open) if open.kind == wire::OPEN => self.write(&echo(&open))?,
                Some(frame) if frame.kind == kind => return Ok(()),
                _ => exit(0),
            }
        }
    }

    /// Answers calls; acts with what the host has made of the offer.
    fn serve_and_tell(&mut self) -> io::Result<()> {
        let mut said = "nothing".to_owned();
        loop {
            let Some(frame) = wire::read_frame(&mut self.input)? else { exit(0) };
            match frame.kind {
                wire::OPEN if frame.method == 3 => {
                    let response = ActResponse { said: said.clone() };
                    self.write(&Frame::end(frame.call, &response).bytes())?;
                }
                wire::OPEN => self.write(&echo(&frame))?,
                wire::MEMORY => said = format!("declined {}", frame.code),
                wire::SWITCH => "switched".clone_into(&mut said),
                _ => exit(0),
            }
        }
    }

    /// Offers memory to a host that asks for it, up to the switch of the host.
    fn agree(mut self) -> io::Result<Shared> {
        self.serve_until(wire::MEMORY)?;
        let memory = Arc::new(Memory::new(CAPACITY, MARK)?);
        self.write(&Frame::memory(&memory.offer(MARK)).bytes())?;
        self.serve_until(wire::SWITCH)?;
        let Raw { input, output } = self;
        let bell = Arc::new(output);
        let input = memory.clone().input(To::Plugin, input.into_inner(), Arc::downgrade(&bell));
        let output = memory.clone().output(To::Host, bell);
        Ok(Shared { memory, input: BufReader::new(input), output })
    }

    /// The same, and switches, with something behind that.
    fn share(self, behind: &[u8]) -> io::Result<Shared> {
        let shared = self.agree()?;
        let switch = Frame::of_kind(wire::SWITCH).bytes();
        (&*shared.output.bell).write_all(&[&switch, behind].concat())?;
        Ok(shared)
    }
}

/// A plugin that has moved.
struct Shared {
    memory: Arc<Memory>,
    input: BufReader<Input>,
    output: Output,
}

impl Shared {
    fn next_open(&mut self) -> io::Result<Frame> {
        match wire::read_frame(&mut self.input)? {
            Some(frame) if frame.kind == wire::OPEN => Ok(frame),
            _ => exit(0),
        }
    }

    /// The next act; other calls are answered.
    fn next_act(&mut self) -> io::Result<Frame> {
        loop {
            let open = self.next_open()?;
            if open.method == 3 {
                return Ok(open);
            }
            self.write(&echo(&open))?;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        wire::write(&mut self.output, &[bytes])
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let open = self.next_open()?;
            self.write(&echo(&open))?;
        }
    }
}
