//! Sessions that were recorded, and each side of this code against them: what an older side says is understood as it
//! was meant, and what a newer one says beyond that is passed over.
//!
//! A file in `tests/sessions` has its description (`#`), what both sides state (`hello all` or `hello base`; `newer`
//! where they say more than they can know of), what their users do (`do host open 1 5`), and below that what is said
//! and seen. A session without the latter is recorded by this, and no other ever again:
//!
//! ```text
//! PLUG_RECORD=1 cargo test -p plug-runtime --lib v7
//! ```
//!
//! So for each release, put new files into a folder of its own.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::model::{Shape, streams_hello};
use super::*;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sessions");

/// One line of a file.
#[derive(Debug)]
enum Line {
    Note(String),
    Hello { has_features: bool },
    Newer,
    Do(Side, Vec<String>),
    Says(Side, Vec<u8>),
    Sees(Side, String),
}

#[test]
fn v7_sessions_recorded_earlier_are_understood_by_both_sides() {
    let files = files(Path::new(FOLDER));
    assert!(files.len() > 8, "there are only {} sessions", files.len());
    for path in files {
        let name = path.strip_prefix(FOLDER).unwrap().display().to_string();
        let mut lines = parse(&name, &std::fs::read_to_string(&path).unwrap());
        if !lines.iter().any(|line| matches!(line, Line::Says(..))) {
            assert!(std::env::var_os("PLUG_RECORD").is_some(), "{name}: set PLUG_RECORD=1");
            lines = record(lines);
            std::fs::write(&path, print(&lines)).unwrap();
        }
        for side in [Side::Host, Side::Plugin] {
            replay(&name, &lines, side);
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// One side of this code, with a user who reads all at once.
struct Player {
    side: Side,
    connection: Connection,
    now: Instant,
    seen: VecDeque<String>,
}

impl Player {
    fn new(lines: &[Line], side: Side) -> Player {
        let has_features = lines.iter().any(|l| matches!(l, Line::Hello { has_features: true }));
        let mut hello = if has_features { streams_hello() } else { kv_hello() };
        if lines.iter().any(|line| matches!(line, Line::Newer)) {
            hello.features.push("telepathy".into());
            hello.version_max = 7;
        }
        let now = Instant::now();
        Player { side, connection: Connection::new(side, hello, None), now, seen: VecDeque::new() }
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.connection.handle_bytes(bytes);
        self.read();
    }

    fn read(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            if let Event::Messages { call, cost, .. } = &event {
                self.connection.consume(*call, *cost);
            }
            self.seen.extend(told(event));
        }
        while self.connection.poll_room().is_some() {}
    }

    /// Does what a line says: a word, and numbers.
    fn act(&mut self, words: &[String]) {
        let number = |at: usize| -> u64 { words.get(at).map_or(0, |word| word.parse().unwrap()) };
        let (call, len) = (number(1), number(2) as usize);
        let message = vec![7; len];
        let connection = &mut self.connection;
        match words[0].as_str() {
            "accept" => connection.accept(),
            "ready" => connection.ready(),
            // A call of a method with a request of a length, for some time, within another call.
            "open" => {
                let has_streams = connection.features().streams;
                let shape = if has_streams { Shape::ALL[call as usize - 1] } else { Shape::Unary };
                let within = number(4);
                let deadline = (number(3) > 0)
                    .then(|| (self.now + Duration::from_millis(number(3)), self.now));
                let metadata = [("trace-id".to_owned(), bytes::Bytes::from_static(b"4bf92f35"))];
                let opening = Opening {
                    method: call as u32,
                    deadline,
                    within,
                    metadata: if number(5) > 0 { &metadata } else { &[] },
                    ..shape.opening()
                };
                let request = (!shape.has_requests()).then_some(Blob(message));
                connection.open(&opening, request.as_ref()).unwrap();
            }
            "send" => drop(connection.send(call, &message).unwrap()),
            "end_requests" => connection.end_requests(call),
            "begin" => connection.begin_responses(call),
            "finish" => connection.finish(call, Ok(())),
            "break_off" => connection.finish(call, Err(Error::new(Code::DataLoss, "broke off"))),
            "respond" => drop(connection.reply(call, super::answer(message))),
            "fail" => drop(connection.reply(call, failed(Code::NotFound, "not there"))),
            "refuse" => {
                let error = Error::new(Code::Aborted, "not now");
                connection.reply(call, super::Answer::Refused(error));
            }
            "cancel" => {
                let error = Error::of_kind(ErrorKind::Cancelled, "not wanted");
                connection.cancel(call, &error, &mut Output::default());
            }
            "tick" => {
                self.now += Duration::from_millis(call);
                connection.handle_timeout(self.now, &mut Output::default());
            }
            "ping" => connection.ping(b"ping").unwrap(),
            "log" => assert!(connection.log(call, b"record")),
            "level" => connection.set_level(b"level"),
            "goodbye" => connection.goodbye(Duration::from_millis(call)),
            other => panic!("nobody can {other}"),
        }
        self.read();
    }
}

/// What a user learns from an event; nothing from those that are between a connection and its driver.
fn told(event: Event) -> Vec<String> {
    let mut extra = String::new();
    if let Event::Request(request) = &event {
        if let Some(more) = &request.extra {
            let (timeout, within, metadata) = (more.timeout, more.within, &more.metadata);
            extra = format!(", timeout {timeout:?}, within {within}, metadata {metadata:?}");
        }
    }
    let mut seen = Seen::all_of(event);
    seen.retain(|seen| !matches!(seen, Seen::Freed | Seen::Room { .. }));
    seen.iter().map(|seen| format!("{seen:?}{extra}")).collect()
}

/// One side plays its part, with what the other has said when it was recorded.
fn replay(name: &str, lines: &[Line], side: Side) {
    let mut player = Player::new(lines, side);
    for (number, line) in (1..).zip(lines) {
        match line {
            Line::Do(of, words) if *of == side => player.act(words),
            Line::Says(of, bytes) if *of != side => player.hear(bytes),
            Line::Sees(of, expected) if *of == side => {
                let seen = player.seen.pop_front();
                assert_eq!(seen.as_ref(), Some(expected), "{name}: {side:?}, its line {number}");
            }
            _ => {}
        }
        let said = output(&mut player.connection);
        if matches!(line, Line::Says(of, _) if *of == side) {
            assert!(said.is_empty(), "it is said with the line before");
        }
        assert!(player.connection.failure().is_none(), "{name}: {:?}", player.connection.failure());
    }
    assert!(player.seen.is_empty(), "{name}: {side:?} sees more: {:?}", player.seen);
    assert!(player.connection.is_leaving(), "{name}: it ends with a goodbye");
    assert_eq!((player.connection.calls_made(), player.connection.served.len()), (0, 0), "{name}");
}

/// Both sides do what the lines say, and what comes of it is noted behind each.
fn record(script: Vec<Line>) -> Vec<Line> {
    let is_newer = script.iter().any(|line| matches!(line, Line::Newer));
    let mut players = [Side::Host, Side::Plugin].map(|side| Player::new(&script, side));
    let mut lines = Vec::new();
    for line in script {
        let done = match &line {
            Line::Do(side, words) => {
                players[*side as usize].act(words);
                true
            }
            _ => false,
        };
        lines.push(line);
        if done {
            converse(&mut players, is_newer, &mut lines);
        }
    }
    lines
}

fn converse(players: &mut [Player; 2], is_newer: bool, lines: &mut Vec<Line>) {
    loop {
        let mut silent = true;
        for speaker in [0, 1] {
            let side = players[speaker].side;
            let seen = std::mem::take(&mut players[speaker].seen);
            lines.extend(seen.into_iter().map(|seen| Line::Sees(side, seen)));
            let mut said = output(&mut players[speaker].connection);
            if said.is_empty() {
                continue;
            }
            silent = false;
            if is_newer {
                said = newer(side, &said);
            }
            players[1 - speaker].hear(&said);
            lines.push(Line::Says(side, said));
        }
        if silent && players.iter().all(|player| player.seen.is_empty()) {
            return;
        }
    }
}

/// The same as a side might say it that knows more: each frame has fields, and is followed by a frame of a kind, that
/// nobody here knows.
fn newer(side: Side, said: &[u8]) -> Vec<u8> {
    let (preamble, mut said) = match said.strip_prefix(side.preamble()) {
        Some(rest) => (&side.preamble()[..], rest),
        None => (&[][..], said),
    };
    let unknown = [&[0xa0, 0x06, 0x07, 0xaa, 0x06, 0x03][..], b"new"].concat();
    let mut newer = preamble.to_vec();
    while !said.is_empty() {
        let Varint::Value(len, prefix) = read_varint(said) else { panic!("no length") };
        let (frame, rest) = said[prefix..].split_at(len as usize);
        said = rest;
        let hello = Frame::decode(frame).ok().filter(|frame| frame.kind == kind::HELLO);
        // Here those in the hello, too.
        let payload = hello.map(|hello| [hello.payload, &unknown].concat());
        let frame = match &payload {
            Some(payload) => frame_of_hello(payload),
            None => frame.to_vec(),
        };
        prost::encoding::encode_varint((unknown.len() + frame.len()) as u64, &mut newer);
        newer.extend_from_slice(&unknown);
        newer.extend_from_slice(&frame);
        newer.extend(bytes(&[Frame { payload: b"?", ..of_kind(100) }]));
    }
    newer
}

fn frame_of_hello(payload: &[u8]) -> Vec<u8> {
    let whole = bytes(&[Frame { payload, ..of_kind(kind::HELLO) }]);
    let Varint::Value(_, prefix) = read_varint(&whole) else { panic!("no length") };
    whole[prefix..].to_vec()
}

// ---- files

fn parse(name: &str, text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(more) = line.strip_prefix("    ") {
            let Some(Line::Says(_, said)) = lines.last_mut() else { panic!("{name}: {line}") };
            said.extend(more.split(' ').flat_map(|word| {
                let (byte, times) = word.split_once('*').unwrap_or((word, "1"));
                vec![u8::from_str_radix(byte, 16).expect(line); times.parse().expect(line)]
            }));
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let side = |word: &str| match word {
            "host" => Side::Host,
            "plugin" => Side::Plugin,
            _ => panic!("{name}: {line}"),
        };
        lines.push(match words[..] {
            ["#", ..] => Line::Note(line.to_owned()),
            ["hello", what] => Line::Hello { has_features: what == "all" },
            ["newer"] => Line::Newer,
            ["do", of, ..] => {
                Line::Do(side(of), words[2..].iter().map(|&word| word.to_owned()).collect())
            }
            [of, "says"] => Line::Says(side(of), Vec::new()),
            [of, "sees", ..] => Line::Sees(side(of), words[2..].join(" ")),
            _ => panic!("{name}: {line}"),
        });
    }
    lines
}

fn print(lines: &[Line]) -> String {
    let name = |side: &Side| if *side == Side::Host { "host" } else { "plugin" };
    let mut text = String::new();
    for line in lines {
        match line {
            Line::Note(note) => writeln!(text, "{note}"),
            Line::Hello { has_features: true } => writeln!(text, "hello all"),
            Line::Hello { has_features: false } => writeln!(text, "hello base"),
            Line::Newer => writeln!(text, "newer"),
            Line::Do(side, words) => writeln!(text, "\ndo {} {}", name(side), words.join(" ")),
            Line::Sees(side, seen) => writeln!(text, "{} sees {seen}", name(side)),
            Line::Says(side, said) => {
                let runs = said.chunk_by(|a, b| a == b).flat_map(|run| match run.len() {
                    0..8 => vec![format!("{:02x}", run[0]); run.len()],
                    many => vec![format!("{:02x}*{many}", run[0])],
                });
                let runs: Vec<String> = runs.collect();
                let rows = runs.chunks(32).map(|row| format!("    {}\n", row.join(" ")));
                write!(text, "{} says\n{}", name(side), rows.collect::<String>())
            }
        }
        .unwrap();
    }
    text
}

/// What the first frame carries.
fn hello_in(said: &[u8]) -> Option<Vec<u8>> {
    let Varint::Value(len, prefix) = read_varint(said) else { return None };
    let frame = Frame::decode(said.get(prefix..prefix + len as usize)?).ok()?;
    Some(frame.payload.to_vec())
}

/// Inputs for the fuzz targets `frames`, `split` and `handshake`, made of what each side has said.
#[test]
#[ignore = "writes into fuzz/corpus: cargo test -p plug-runtime --lib seeds -- --ignored"]
fn seeds() {
    for path in files(Path::new(FOLDER)) {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let folder = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let lines = parse(&name, &std::fs::read_to_string(&path).unwrap());
        let has_features = lines.iter().any(|l| matches!(l, Line::Hello { has_features: true }));
        for side in [Side::Host, Side::Plugin] {
            let [mut frames, mut whole] = [(); 2].map(|()| {
                let greets = 4;
                vec![greets | u8::from(has_features) << 1 | u8::from(side == Side::Plugin)]
            });
            whole.extend([3, 0, 9, 0, 40, 0, 90, 0]);
            let hello = lines.iter().find_map(|line| match line {
                Line::Says(of, said) if *of != side => hello_in(&said[side.preamble().len()..]),
                _ => None,
            });
            let hello = hello.expect("it greets");
            let len = (hello.len() as u16).to_be_bytes();
            let pair = [&[1][..], &len, &hello, &len, &hello].concat();
            let alone = [&[0, u8::from(side == Side::Plugin)][..], &hello].concat();
            for line in &lines {
                match line {
                    Line::Says(of, said) if *of != side && said.len() < 1000 => {
                        frames.push(0);
                        frames.extend((said.len() as u16).to_be_bytes());
                        frames.extend(said);
                        whole.extend(said);
                    }
                    Line::Do(of, words) if *of == side && words[0] == "open" => {
                        frames.extend([6, 7 + words[1].parse::<u8>().unwrap()]);
                    }
                    Line::Do(of, words) if *of == side && words[0] == "respond" => {
                        frames.extend([6, 0]);
                    }
                    _ => {}
                }
            }
            let handshakes = [("handshake", "_alone", alone), ("handshake", "", pair)];
            for (target, suffix, input) in
                [("frames", "", frames), ("split", "", whole)].into_iter().chain(handshakes)
            {
                let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
                let file = corpus.join(target).join(format!("{folder}_{name}_{side:?}{suffix}"));
                std::fs::write(file, input).unwrap();
            }
        }
    }
}
