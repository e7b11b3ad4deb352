//! A host without the runtime.

use std::io::{self, BufReader, Read as _};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use plug::prost::Message;
use plug_faults::wire::{self, Frame, Hello};

use crate::aftermath::{BOUND, EVIL, KillOnDrop};

/// The evil plugin, started by hand.
pub(crate) struct RawHost {
    child: KillOnDrop,
    pub(crate) input: ChildStdin,
    frames: Receiver<io::Result<Frame>>,
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
        RawHost { child, input, frames: read(output) }
    }

    /// Sends several frames with one write, which fits into the pipe.
    pub(crate) fn send(&mut self, frames: &[Frame]) {
        let bytes: Vec<_> = frames.iter().flat_map(Frame::bytes).collect();
        wire::write(&mut self.input, &[&bytes]).unwrap();
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
        let RawHost { mut child, input, frames } = self;
        drop((input, frames));
        let mut printed = Vec::new();
        child.0.stderr.take().unwrap().read_to_end(&mut printed).unwrap();
        let status = child.0.wait().unwrap();
        (status.code(), String::from_utf8_lossy(&printed).into_owned())
    }
}

/// Reads frames on a thread of their own, one ahead: so that the pipe fills up if nobody takes them.
fn read(output: ChildStdout) -> Receiver<io::Result<Frame>> {
    let (sender, frames) = sync_channel(1);
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        if let Err(error) = wire::read_preamble(&mut output, wire::PLUGIN_PREAMBLE) {
            let _ = sender.send(Err(error));
            return;
        }
        while let Some(frame) = wire::read_frame(&mut output).transpose() {
            if sender.send(frame).is_err() {
                return;
            }
        }
    });
    frames
}
