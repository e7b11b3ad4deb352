//! A host without the runtime.

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Weak};

use plug::prost::Message;
use plug_faults::memory::{Memory, Output, To};
use plug_faults::wire::{self, Frame, Hello, MemoryOffer, MemoryRequest};

use crate::aftermath::{BOUND, EVIL, KillOnDrop};

/// The evil plugin, started by hand.
pub(crate) struct RawHost {
    child: KillOnDrop,
    pub(crate) input: ChildStdin,
    frames: Receiver<io::Result<Frame>>,
    /// Hands what it reads from then on to the thread that reads.
    moves: Sender<Moved>,
    /// Where it writes, once that is in memory.
    pub(crate) memory: Option<Output>,
}

impl RawHost {
    /// Starts it and says hello. What it sends is read when it is asked for, so its pipe may be full.
    pub(crate) fn start(args: &[&str], hello: &Hello) -> RawHost {
        let child = Command::new(EVIL)
            .args(args)
            .env("PLUG_HOST", std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = KillOnDrop(child);
        let mut input = child.0.stdin.take().unwrap();
        let output = child.0.stdout.take().unwrap();
        wire::write(&mut input, &[wire::HOST_PREAMBLE, &hello.frame().bytes()]).unwrap();
        let (moves, moved) = channel();
        RawHost { child, input, frames: read(output, moved), moves, memory: None }
    }

    /// Sends several frames with one write, which fits into the pipe.
    pub(crate) fn send(&mut self, frames: &[Frame]) {
        let bytes: Vec<_> = frames.iter().flat_map(Frame::bytes).collect();
        match &mut self.memory {
            Some(memory) => wire::write(memory, &[&bytes]).unwrap(),
            None => wire::write(&mut self.input, &[&bytes]).unwrap(),
        }
    }

    /// Asks for memory, and returns what the plugin offers.
    pub(crate) fn ask_for_memory(&mut self) -> MemoryOffer {
        self.send(&[Frame::memory(&MemoryRequest { capacity: 1 << 16, may_poll: false })]);
        let frame = self.next();
        assert_eq!((frame.kind, frame.code), (wire::MEMORY, 0), "{frame:?}");
        MemoryOffer::decode(&frame.payload[..]).unwrap()
    }

    /// Moves both directions into the memory that the plugin offers.
    pub(crate) fn share(&mut self) -> Arc<Memory> {
        let offer = self.ask_for_memory();
        let memory = Arc::new(Memory::open(self.child.0.id(), &offer).unwrap());
        let bell = Arc::new(File::from(self.input.as_fd().try_clone_to_owned().unwrap()));
        let moved = Moved { memory: memory.clone(), bell: Arc::downgrade(&bell) };
        self.moves.send(moved).unwrap();
        let output = memory.clone().output(To::Plugin, bell);
        self.send(&[Frame::of_kind(wire::SWITCH)]);
        self.memory = Some(output);
        assert_eq!(self.next().kind, wire::SWITCH);
        memory
    }

    /// The next frame.
    pub(crate) fn next(&self) -> Frame {
        let frame = self.frames.recv_timeout(BOUND);
        frame.expect("waited in vain for: a frame from the plugin").unwrap()
    }

    /// The hello that the plugin answers with.
    pub(crate) fn hello(&self) -> Hello {
        let frame = self.next();
        assert_eq!(frame.kind, wire::HELLO, "{frame:?}");
        Hello::decode(&frame.payload[..]).unwrap()
    }

    /// Waits for the end of the process, and returns its exit code and what it printed.
    pub(crate) fn end(self) -> (Option<i32>, String) {
        let RawHost { child, input, frames, moves, memory } = self;
        drop((input, frames, moves, memory));
        end(child)
    }

    /// The same of one that ends although its host is there.
    pub(crate) fn end_by_itself(self) -> (Option<i32>, String) {
        let RawHost { child, input: _input, frames: _frames, .. } = self;
        end(child)
    }
}

fn end(mut child: KillOnDrop) -> (Option<i32>, String) {
    let mut printed = Vec::new();
    child.0.stderr.take().unwrap().read_to_end(&mut printed).unwrap();
    let status = child.0.wait().unwrap();
    (status.code(), String::from_utf8_lossy(&printed).into_owned())
}

/// Reads frames on a thread of their own, one ahead: so that the pipe fills up if nobody takes them.
fn read(output: ChildStdout, moves: Receiver<Moved>) -> Receiver<io::Result<Frame>> {
    let (sender, frames) = sync_channel(1);
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        if let Err(error) = wire::read_preamble(&mut output, wire::PLUGIN_PREAMBLE) {
            let _ = sender.send(Err(error));
            return;
        }
        while let Some(frame) = wire::read_frame(&mut output).transpose() {
            let has_switched = frame.as_ref().is_ok_and(|frame| frame.kind == wire::SWITCH);
            if sender.send(frame).is_err() {
                return;
            }
            if has_switched {
                break;
            }
        }
        let Ok(Moved { memory, bell }) = moves.recv() else { return };
        // What is read ahead are bells.
        let pipe = File::from(OwnedFd::from(output.into_inner()));
        let mut input = BufReader::new(memory.input(To::Host, pipe, bell));
        while let Some(frame) = wire::read_frame(&mut input).transpose() {
            if sender.send(frame).is_err() {
                return;
            }
        }
    });
    frames
}

/// What the thread that reads needs to go on in the memory.
struct Moved {
    memory: Arc<Memory>,
    bell: Weak<File>,
}
