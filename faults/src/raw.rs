//! A plugin without the runtime, that breaks the protocol.

mod sharing;

use std::fs::File;
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::exit;
use std::time::Duration;

use plug::prost::Message as _;

use crate::wire::{self, Description, Descriptors, Frame, Hello, MethodInfo, ServiceInfo};
use crate::{ActResponse, EchoRequest, EchoResponse};

/// Plays the plugin in one of the ways in which it can go wrong.
///
/// # Errors
///
/// If the host goes away where this does not expect it.
pub fn play(way: &str, args: &[String]) -> io::Result<()> {
    let mut raw = Raw {
        input: BufReader::new(io::stdin().as_fd().try_clone_to_owned()?.into()),
        output: io::stdout().as_fd().try_clone_to_owned()?.into(),
    };
    let number = |index: usize| -> u32 { args[index].parse().expect("a number") };
    wire::read_preamble(&mut raw.input, wire::HOST_PREAMBLE)?;
    let Some(_hello) = wire::read_frame(&mut raw.input)? else { return Ok(()) };
    let hello = Hello::of_probe((1, 1));
    match way {
        // Handshake
        "versions" => {
            raw.greet(&Hello::of_probe((number(0), number(1))), &[])?;
            raw.serve()
        }
        "hello-then-exit" => {
            raw.greet(&hello, &[])?;
            exit(3)
        }
        "loud-hello-then-exit" => {
            // The host is busy with the one while the other two happen.
            io::stderr().write_all(&[b'!'; 64 << 10])?;
            raw.greet(&hello, &[])?;
            exit(3)
        }
        "hello-then-bogus" => {
            raw.greet(&hello, BOGUS_LENGTH)?;
            silence()
        }
        "dribble" => {
            let mut bytes = wire::PLUGIN_PREAMBLE.to_vec();
            bytes.extend(hello.frame().bytes());
            raw.dribble(&bytes)?;
            while let Some(open) = wire::read_frame(&mut raw.input)? {
                if open.kind == wire::GOODBYE {
                    return Ok(());
                }
                raw.dribble(&echo(&open))?;
            }
            Ok(())
        }

        // Frames, in answer to the first call
        "bogus" => {
            raw.greet(&hello, &[])?;
            raw.next_open()?;
            raw.write(BOGUS_LENGTH)?;
            silence()
        }
        "cut" => {
            raw.greet(&hello, &[])?;
            let open = raw.next_open()?;
            let reply = echo(&open);
            let keep = match args[0].as_str() {
                "prefix" => 1,
                "header" => 3,
                "body" => reply.len() / 2,
                "last" => reply.len() - 1,
                other => panic!("there is no place {other:?} to cut at"),
            };
            raw.write(&reply[..keep])?;
            exit(0)
        }
        "stranger" => {
            raw.greet(&hello, &[])?;
            raw.next_open()?;
            raw.write(&Frame::end(99, &EchoResponse::default()).bytes())?;
            silence()
        }
        "twice" => {
            raw.greet(&hello, &[])?;
            let open = raw.next_open()?;
            raw.write(&[echo(&open), echo(&open)].concat())?;
            silence()
        }
        "bad" => {
            raw.greet(&able_to_stream(hello), &[])?;
            let open = raw.next_open()?;
            raw.write(&[bad_frame(&args[0], open.call).bytes(), echo(&open)].concat())?;
            raw.serve()
        }
        "call-back" => {
            raw.greet(&hello, &[])?;
            let open = raw.next_open()?;
            let uninvited = Frame::open(2, number(0), &EchoRequest::default());
            raw.write(&uninvited.bytes())?;
            let answer = wire::read_frame(&mut raw.input)?.unwrap_or_default();
            let said = format!("{} {} {}", answer.kind, answer.call, answer.code);
            raw.write(&Frame::end(open.call, &ActResponse { said }).bytes())?;
            raw.serve()
        }
        "garbage-from" => {
            let from = number(0) as usize;
            raw.output = garble(raw.output, from)?;
            raw.greet(&hello, &[])?;
            raw.serve()
        }
        "descriptors" => {
            let descriptors = Descriptors { descriptors: many_files(number(0)) };
            raw.greet(&Hello { services: described(), ..hello }, &[])?;
            loop {
                let open = raw.next_open()?;
                raw.write(&in_fragments(open.call, &descriptors.encode_to_vec()))?;
            }
        }
        "nested" => {
            raw.greet(&hello, &[])?;
            let open = raw.next_open()?;
            // A field that nobody knows, with a group in a group in a group: a byte for each.
            let payload = vec![0x1b; number(0) as usize];
            raw.write(&Frame { payload, ..Frame::end(open.call, &()) }.bytes())?;
            raw.serve()
        }
        "bloat-then-bogus" => {
            raw.greet(&hello, &[])?;
            raw.next_open()?;
            let bloat = std::hint::black_box(vec![1_u8; (number(0) as usize) << 20]);
            raw.write(BOGUS_LENGTH)?;
            drop(bloat);
            silence()
        }
        "frame-of" => {
            raw.greet(&hello, &[])?;
            let open = raw.next_open()?;
            let ignored = Frame::ignored_of(number(0) as usize);
            raw.write(&[ignored.bytes(), echo(&open)].concat())?;
            raw.serve()
        }
        "not-utf-8" => {
            raw.greet(&hello, &[])?;
            let open = raw.next_open()?;
            // The field is a string for who reads it.
            let response = EchoResponse { payload: b"\xff\xfe".to_vec() };
            raw.write(&Frame::end(open.call, &response).bytes())?;
            raw.serve()
        }

        // Ends
        "reply-then-exit" => {
            raw.greet(&hello, &[])?;
            let open = raw.next_open()?;
            let response = EchoResponse { payload: vec![7; number(0) as usize] };
            raw.write(&Frame::end(open.call, &response).bytes())?;
            exit(0)
        }
        "much-then-die" => {
            raw.greet(&hello, &[])?;
            let reply = echo(&raw.next_open()?);
            crate::evil::resize_pipe(&raw.output, 1 << 20)?;
            let ignored = Frame::ignored_of(200_000).bytes();
            raw.write(&[&ignored[..], &ignored, &ignored, &ignored, &reply].concat())?;
            crate::evil::kill_self(rustix::process::Signal::KILL)
        }
        "die-at" => {
            raw.greet(&hello, &[])?;
            let first = raw.next_open()?;
            for _ in 1..number(0) {
                raw.next_open()?;
            }
            raw.write(&echo(&first))?;
            crate::evil::kill_self(rustix::process::Signal::KILL)
        }
        "close-output" => {
            raw.greet(&hello, &[])?;
            raw.next_open()?;
            drop(raw);
            let null = File::options().read(true).write(true).open("/dev/null")?;
            rustix::stdio::dup2_stdin(&null)?;
            rustix::stdio::dup2_stdout(&null)?;
            silence()
        }

        "pipe-sizes" => {
            raw.greet(&hello, &[])?;
            let open = raw.next_open()?;
            let sizes = [
                rustix::pipe::fcntl_getpipe_size(raw.input.get_ref())?,
                rustix::pipe::fcntl_getpipe_size(&raw.output)?,
                rustix::pipe::fcntl_getpipe_size(io::stderr())?,
            ];
            let said = sizes.map(|size| size.to_string()).join(" ");
            raw.write(&Frame::end(open.call, &ActResponse { said }).bytes())?;
            raw.serve()
        }

        // Order
        "halves" => {
            raw.greet(&hello, &[])?;
            let (first, second) = (raw.next_open()?, raw.next_open()?);
            let (first, second) = (echo(&first), echo(&second));
            let (begin, rest) = second.split_at(second.len() / 2);
            raw.write(&[&first, begin].concat())?;
            // Who got the first reply calls again: so it no longer reads for the second.
            let third = raw.next_open()?;
            raw.write(&[rest, &echo(&third)].concat())?;
            raw.serve()
        }
        "reverse" => {
            raw.greet(&hello, &[])?;
            let opens: io::Result<Vec<_>> = (0..number(0)).map(|_| raw.next_open()).collect();
            for open in opens?.iter().rev() {
                raw.write(&echo(open))?;
            }
            raw.serve()
        }
        "one-at-a-time" => {
            raw.greet(&Hello { max_calls: 1, ..hello }, &[])?;
            // The first call ends when somebody has put a line on stderr's other side: a file.
            let open = raw.next_open()?;
            while !std::path::Path::new(&args[0]).exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
            raw.write(&echo(&open))?;
            raw.serve()
        }
        // Pressure
        "deaf" => {
            raw.greet(&Hello { features: args.to_vec(), ..hello }, &[])?;
            silence()
        }
        "rounds-of" => {
            raw.greet(&Hello { max_calls: number(0), ..hello }, &[])?;
            loop {
                let opens: io::Result<Vec<_>> = (0..number(0)).map(|_| raw.next_open()).collect();
                for open in opens? {
                    raw.write(&echo(&open))?;
                }
            }
        }
        "late" => {
            raw.greet(&hello, &[])?;
            // Each second call is answered after the one before it, which nobody waits for any more.
            loop {
                let (first, second) = (raw.next_open()?, raw.next_open()?);
                raw.write(&[echo(&first), echo(&second)].concat())?;
            }
        }
        "flood" => {
            raw.greet(&hello, &[])?;
            raw.next_open()?;
            let frame = match args[0].as_str() {
                "empty" => vec![0],
                _ => Frame::ignored_of(10).bytes(),
            };
            let many = frame.repeat(1 << 16);
            loop {
                raw.write(&many)?;
            }
        }
        "half-of-a-large-reply" => {
            raw.greet(&hello, &[])?;
            let open = raw.next_open()?;
            // Far more than a pipe holds.
            let fragment = vec![7; 256 << 10];
            let message = |flags, total| {
                let payload = fragment.clone();
                Frame {
                    kind: wire::MESSAGE,
                    call: open.call,
                    flags,
                    total,
                    payload,
                    ..Frame::default()
                }
            };
            let total = 4 * fragment.len() as u64;
            raw.write(&[message(0, total).bytes(), message(0, 0).bytes()].concat())?;
            std::fs::write(&args[0], "")?;
            let next = raw.next_open()?;
            raw.write(&message(0, 0).bytes())?;
            let last = Frame { kind: wire::END, ..message(1, 0) };
            raw.write(&[last.bytes(), echo(&next)].concat())?;
            raw.serve()
        }
        "sharing" => sharing::play(raw, args),
        other => panic!("there is no way {other:?} to go wrong"),
    }
}

/// Says what this plugin is where it is only asked for that, with so many files.
///
/// # Errors
///
/// If nobody reads it.
pub fn describe(files: u32) -> io::Result<()> {
    let hello = Some(Hello { services: described(), ..Hello::of_probe((1, 1)) });
    let description = Description { hello, descriptors: many_files(files) };
    io::stdout().write_all(&description.encode_to_vec())
}

/// The services of one that has descriptors.
fn described() -> Vec<ServiceInfo> {
    let methods = vec![MethodInfo { name: "Get".to_owned() }];
    let description = ServiceInfo { name: "plug.Description".to_owned(), methods };
    Hello::of_probe((1, 1)).services.into_iter().chain([description]).collect()
}

/// Descriptors of so many files without anything: two bytes each, and some hundred once they are decoded.
fn many_files(files: u32) -> Vec<u8> {
    [0x0a, 0].repeat(files as usize)
}

struct Raw {
    input: BufReader<File>,
    output: File,
}

impl Raw {
    fn greet(&mut self, hello: &Hello, and: &[u8]) -> io::Result<()> {
        wire::write(&mut self.output, &[wire::PLUGIN_PREAMBLE, &hello.frame().bytes(), and])
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        wire::write(&mut self.output, &[bytes])
    }

    fn dribble(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.iter().try_for_each(|&byte| self.write(&[byte]))
    }

    /// The next call. A host that says goodbye or goes away ends this process.
    fn next_open(&mut self) -> io::Result<Frame> {
        match wire::read_frame(&mut self.input)? {
            Some(frame) if frame.kind == wire::OPEN => Ok(frame),
            _ => exit(0),
        }
    }

    /// Goes on as a good plugin would.
    fn serve(&mut self) -> io::Result<()> {
        loop {
            let open = self.next_open()?;
            self.write(&echo(&open))?;
        }
    }
}

/// A hello with all that streams need.
fn able_to_stream(hello: Hello) -> Hello {
    let features = ["streams", "credit", "cancel"].map(str::to_owned).to_vec();
    Hello { features, stream_window: 1 << 16, connection_window: 1 << 20, ..hello }
}

/// A frame that a plugin must not send while a call of its host is open.
fn bad_frame(what: &str, call: u64) -> Frame {
    let end = Frame::end(call, &EchoResponse::default());
    match what {
        "unknown-kind" => Frame { kind: 20, ..Frame::default() },
        "ignorable-kind" => Frame { kind: wire::IGNORED, call: 5, flags: 99, ..Frame::default() },
        "unknown-flags" => Frame { flags: 1 << 20 | 1, ..end },
        "call-0" => Frame { call: 0, ..end },
        "call-of-the-other-parity" => Frame { call: call + 1, ..end },
        "open-with-an-id-of-the-host" => Frame { kind: wire::OPEN, method: 1, ..end },
        "cancel-of-nothing" => Frame { kind: wire::CANCEL, call: call + 1, ..Frame::default() },
        "absurd-credit" => Frame { kind: wire::CREDIT, credit: u64::MAX, ..Frame::default() },
        "credit-that-shrinks" => Frame { kind: wire::CREDIT, credit: 1, ..Frame::default() },
        other => panic!("there is no bad frame {other:?}"),
    }
}

/// Passes bytes on up to one from which on they are random, 64 KiB of them. Then it ends, with this process, or every
/// other time does not end.
fn garble(to: File, from: usize) -> io::Result<File> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    std::thread::spawn(move || {
        let (mut reader, mut to, mut at) = (File::from(reader), to, 0);
        let mut buffer = [0; 1 << 10];
        while let Ok(len @ 1..) = reader.read(&mut buffer) {
            let good = len.min(from - at);
            at += good;
            let _ = to.write_all(&buffer[..good]);
            if at == from {
                let random: Vec<u8> = random(from as u64).take(8 << 10).flatten().collect();
                let _ = to.write_all(&random);
                if from % 2 == 0 {
                    exit(0);
                }
                silence();
            }
        }
    });
    Ok(writer.into())
}

/// Words that look like chance: SplitMix64.
fn random(mut state: u64) -> impl Iterator<Item = [u8; 8]> {
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)).to_le_bytes()
    })
}

/// A reply in as few frames as it can have.
fn in_fragments(call: u64, response: &[u8]) -> Vec<u8> {
    let mut fragments = response.chunks(256 << 10).peekable();
    let mut total = if response.len() > 256 << 10 { response.len() as u64 } else { 0 };
    let mut bytes = Vec::new();
    while let Some(fragment) = fragments.next() {
        let is_last = fragments.peek().is_none();
        let (kind, flags) = if is_last { (wire::END, 1) } else { (wire::MESSAGE, 0) };
        let payload = fragment.to_vec();
        let total = std::mem::take(&mut total);
        bytes.extend(Frame { kind, call, flags, total, payload, ..Frame::default() }.bytes());
    }
    bytes
}

/// The reply to an `Echo`, or to an `Act`, which says its payload too.
fn echo(open: &Frame) -> Vec<u8> {
    let payload = EchoRequest::decode(&open.payload[..]).unwrap_or_default().payload;
    let response = match open.method {
        3 => {
            let said = String::from_utf8_lossy(&payload).into_owned();
            Frame::end(open.call, &ActResponse { said })
        }
        _ => Frame::end(open.call, &EchoResponse { payload }),
    };
    response.bytes()
}

/// Says nothing more and lives on, also without a host, but not for ever.
fn silence() -> ! {
    std::thread::sleep(Duration::from_secs(120));
    exit(0)
}

/// A length of 2^32 - 1.
const BOGUS_LENGTH: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0x0f];
