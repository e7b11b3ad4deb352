//! Calls that are alone go a short way. What comes of it must be what the long one comes to: the same bytes, the same
//! events, the same state, also of bytes that are no frame of ours.

use std::time::Instant;

use super::random::{Random, number};
use super::*;

/// Two connections that are told the same. One goes the short way wherever it can.
struct Twins {
    long: Pair,
    short: Pair,
    /// How often that was.
    times: [usize; 4],
}

/// What of [`Twins::times`] counts what.
const OPENED: usize = 0;
const HEARD: usize = 1;
const ANSWERED: usize = 2;
const ENDED: usize = 3;

impl Twins {
    fn new(limit: u64) -> Twins {
        let limited = || Hello { max_message: limit, max_calls: 3, ..model::streams_hello() };
        let pair = || streaming(limited(), limited());
        Twins { long: pair(), short: pair(), times: [0; 4] }
    }

    /// The host makes a call. Returns what it sends.
    fn open(&mut self, opening: &Opening<'_>, request: &Blob) -> Vec<u8> {
        if !self.long.host.can_open() {
            return Vec::new();
        }
        let opened = self.long.host.open(opening, Some(request)).map_err(|error| error.to_string());
        let bytes = output(&mut self.long.host);
        let host = &mut self.short.host;
        let mut out = Output::default();
        let is_plain = !opening.streams_responses && opening.metadata.is_empty();
        let alone = (is_plain && host.is_at_rest())
            .then(|| {
                let len = request.encoded_len();
                host.open_alone(opening.method, opening.deadline, request, len, &mut out)
            })
            .flatten();
        if let Some(call) = alone {
            self.times[OPENED] += 1;
            assert_eq!((Ok(call), out.to_vec()), (opened, bytes.clone()));
            host.advance(&mut out, bytes.len());
        } else {
            let again = host.open(opening, Some(request)).map_err(|error| error.to_string());
            assert_eq!((again, output(host)), (opened, bytes.clone()));
        }
        self.check();
        bytes
    }

    /// The plugin answers the first of the calls that it serves. Returns what it sends.
    fn answer(&mut self, how: usize, response: &[u8]) -> Vec<u8> {
        let Some(call) = self.long.plugin.served.keys().min() else { return Vec::new() };
        let answer = || match how {
            0 => Answer::Failed(Error::new(Code::NotFound, "none")),
            1 => Answer::Refused(Error::new(Code::Aborted, "no")),
            _ => Answer::Response(response.to_vec()),
        };
        self.long.plugin.reply(call, answer());
        let bytes = output(&mut self.long.plugin);
        let plugin = &mut self.short.plugin;
        let mut out = Output::default();
        let is_alone = plugin.served.len() == 1
            && plugin.served.get(call).is_some_and(|served| !served.is_cancelled)
            && plugin.is_served(call)
            && plugin.outbox.is_bare();
        if is_alone && how > 1 && plugin.reply_alone(call, response, &mut out) {
            self.times[ANSWERED] += 1;
            assert_eq!(out.to_vec(), bytes);
            plugin.advance(&mut out, bytes.len());
        } else {
            plugin.reply(call, answer());
            assert_eq!(output(plugin), bytes);
        }
        self.check();
        bytes
    }

    /// Bytes reach the plugin.
    fn reach_plugin(&mut self, bytes: &[u8]) {
        let plugin = &mut self.short.plugin;
        let alone = plugin.is_at_rest().then(|| plugin.take_alone_request(bytes)).flatten();
        let alone = alone.map(|request| {
            self.times[HEARD] += 1;
            vec![format!("{:?}", Event::Request(request))]
        });
        let short = alone.unwrap_or_else(|| heard(plugin, bytes));
        assert_eq!(short, heard(&mut self.long.plugin, bytes));
        self.check();
    }

    /// Bytes reach the host.
    fn reach_host(&mut self, bytes: &[u8]) {
        let host = &mut self.short.host;
        let only = host.made.keys().next().filter(|_| host.made.len() == 1);
        // As it is in a driver that has looked before: nothing has come since the call was made.
        let call = only.filter(|&call| {
            let made = host.made.get(call).unwrap();
            !made.is_abandoned && made.responses.is_none() && !made.response.has_begun()
        });
        let is_quiet = host.outbox.is_bare() && host.idle_bytes == 0 && host.failure.is_none();
        let alone = call.filter(|_| is_quiet).and_then(|call| {
            let outcome = Ok(host.take_alone_response(call, bytes)?);
            self.times[ENDED] += 1;
            Some(vec![format!("{:?}", Event::Reply { call, outcome })])
        });
        let short = alone.unwrap_or_else(|| heard(host, bytes));
        assert_eq!(short, heard(&mut self.long.host, bytes));
        self.check();
    }

    /// Both connections are in the same state.
    #[track_caller]
    fn check(&self) {
        for (long, short) in
            [(&self.long.host, &self.short.host), (&self.long.plugin, &self.short.plugin)]
        {
            assert_eq!(state(long), state(short));
        }
    }
}

/// Feeds bytes to one side, and returns all events with all that is in them.
fn heard(connection: &mut Connection, bytes: &[u8]) -> Vec<String> {
    hear(connection, bytes);
    std::iter::from_fn(|| connection.poll_event()).map(|event| format!("{event:?}")).collect()
}

fn state(connection: &Connection) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        connection.made,
        connection.served,
        connection.deadlines,
        connection.outbox,
        (connection.next_call, connection.last_served, connection.draining),
        connection.splitter,
        connection.idle_bytes,
        connection.window,
        connection.failure,
    )
}

#[test]
fn the_short_way_comes_to_the_same() {
    let mut times = [0; 4];
    // 20,000 were tried by hand.
    let seeds = number("PLUG_SIM_SEEDS").unwrap_or(100);
    for seed in 0..seeds {
        let mut random = Random(seed);
        let mut twins = Twins::new(random.pick(&[0, 50, 5000]));
        let now = Instant::now();
        // What is on its way, each way.
        let (mut to_plugin, mut to_host) = (Vec::new(), Vec::new());
        for step in 0..200 {
            let len = random.pick(&[0, 1, 2, 64, 120, 128, 1000, 4096, 4097, 20_000]);
            let message = blob(len, random.below(250) as u8);
            match random.below(10) {
                0..=3 => {
                    let micros = random.pick(&[0, 1, 1000, 10_000_000]);
                    let deadline = (micros > 0).then(|| (now + Duration::from_micros(micros), now));
                    let method = if random.chance(90) { 1 } else { random.pick(&[2, 3, 9, 300]) };
                    let opening = Opening {
                        method,
                        deadline,
                        streams_responses: method == 2,
                        ..Opening::default()
                    };
                    to_plugin.append(&mut twins.open(&opening, &message));
                }
                4..=6 => to_host.append(&mut twins.answer(random.below(10), &message.0)),
                7 if random.chance(30) => {
                    for pair in [&mut twins.long, &mut twins.short] {
                        let call = pair.host.made.keys().min().unwrap_or(0);
                        let error = Error::of_kind(ErrorKind::Cancelled, "not wanted");
                        pair.host.cancel(call, &error, &mut Output::default());
                        let _ = std::iter::from_fn(|| pair.host.poll_event()).count();
                    }
                    let bytes = output(&mut twins.long.host);
                    assert_eq!(bytes, output(&mut twins.short.host));
                    to_plugin.extend(bytes);
                }
                8 if random.chance(30) => {
                    for pair in [&mut twins.long, &mut twins.short] {
                        let _ = pair.plugin.ping(b"ping");
                    }
                    let bytes = output(&mut twins.long.plugin);
                    assert_eq!(bytes, output(&mut twins.short.plugin));
                    to_host.extend(bytes);
                }
                _ if step > 150 => {
                    // From here on, one of them sends what none of ours does.
                    let bytes = if random.chance(50) { &mut to_plugin } else { &mut to_host };
                    if !bytes.is_empty() {
                        let at = random.below(bytes.len());
                        bytes[at] = random.next() as u8;
                    }
                }
                _ => {}
            }
            let cut = |random: &mut Random, bytes: &mut Vec<u8>| -> Vec<u8> {
                let most =
                    if random.chance(80) { bytes.len() } else { random.below(bytes.len() + 1) };
                bytes.drain(..most).collect()
            };
            if random.chance(80) && !to_plugin.is_empty() {
                let bytes = cut(&mut random, &mut to_plugin);
                twins.reach_plugin(&bytes);
                to_host.append(&mut both_say(&mut twins, Side::Plugin));
            }
            if random.chance(80) && !to_host.is_empty() {
                let bytes = cut(&mut random, &mut to_host);
                twins.reach_host(&bytes);
                to_plugin.append(&mut both_say(&mut twins, Side::Host));
            }
        }
        for (all, some) in times.iter_mut().zip(twins.times) {
            *all += some;
        }
    }
    for (way, times) in times.into_iter().enumerate() {
        assert!(times > 120, "the short way {way} was gone {times} times: too few to tell");
    }
}

/// What a side says to what it has heard.
fn both_say(twins: &mut Twins, side: Side) -> Vec<u8> {
    let [long, short] = [&mut twins.long, &mut twins.short].map(|pair| {
        output(match side {
            Side::Host => &mut pair.host,
            Side::Plugin => &mut pair.plugin,
        })
    });
    assert_eq!(long, short);
    long
}
