//! A host without the runtime.

use std::io::{self, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use plug::prost::Message;
use plug_faults::wire::{self, Frame, Hello};

use crate::aftermath::{BOUND, EVIL};

/// The evil plugin, started by hand.
pub(crate) struct RawHost {
    child: Child,
    pub(crate) input: ChildStdin,
    frames: Receiver<io::Result<Frame>>,
}

impl RawHost {
    /// Starts it and says hello. What it sends is read when it is asked for, so its pipe may be full.
    pub(crate) fn start(args: &[&str], hello: &Hello) -> RawHost {
        let mut child = Command::new(EVIL)
            .args(args)
            .env("PLUG_HOST", std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let output = child.stdout.take().unwrap();
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
        let RawHost { child, input, frames } = self;
        drop((input, frames));
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
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
