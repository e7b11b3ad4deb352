//! The ring, by one thread that is both sides, and by two.

use super::*;

fn both(capacity: u32) -> [(RingReader, RingWriter); 2] {
    let memory = Arc::new(SharedMemory::private(memory_len(capacity)));
    prepare(&memory);
    [End::Host, End::Plugin].map(|end| ends(memory.clone(), capacity, end))
}

/// Loom's atomics are not valid when they are 0.
fn prepare(memory: &SharedMemory) {
    let fresh = || Marks {
        written: Mark(AtomicU32::new(0)),
        read: Mark(AtomicU32::new(0)),
        reader_waits: Mark(AtomicU32::new(0)),
        writer_waits: Mark(AtomicU32::new(0)),
    };
    // SAFETY: the marks are at the beginning of the memory, which nobody else has yet.
    unsafe { memory.start().cast().write([fresh(), fresh()]) };
}

#[cfg(not(loom))]
mod one_by_one {
    use proptest::prelude::*;

    use super::*;

    /// One direction of those, through which so many bytes have gone.
    fn one_way_from(capacity: u32, start: u32) -> (RingWriter, RingReader) {
        let [(_, mut writer), (mut reader, _)] = both(capacity);
        writer.position = start;
        writer.read = start;
        reader.position = start;
        reader.written = start;
        writer.ring.marks().written.0.store(start, Ordering::Relaxed);
        writer.ring.marks().read.0.store(start, Ordering::Relaxed);
        (writer, reader)
    }

    #[test]
    fn what_goes_in_comes_out_on_the_other_side_also_around_the_end() {
        let [(mut host_reader, mut host_writer), (mut reader, mut writer)] = both(8);
        let mut into = [0; 16];
        for round in 0..10_u8 {
            assert_eq!(host_writer.write(&[round, 1, 2, 3, 4]), Ok(5));
            assert_eq!(writer.write(&[round; 3]), Ok(3));
            assert_eq!(reader.read(&mut into), Ok(5));
            assert_eq!(into[..5], [round, 1, 2, 3, 4]);
            assert_eq!(host_reader.read(&mut into), Ok(3));
            assert_eq!(into[..3], [round; 3]);
            assert_eq!(reader.read(&mut into), Ok(0));
        }
        assert_eq!(writer.write(&[9; 16]), Ok(8), "no more than there is room for");
        assert_eq!(writer.write(&[9; 16]), Ok(0));
        assert_eq!(host_reader.read(&mut into[..6]), Ok(6));
        assert_eq!(writer.write(&[9; 16]), Ok(6));
    }

    #[test]
    fn positions_pass_the_end_of_their_numbers() {
        let (mut writer, mut reader) = one_way_from(8, u32::MAX - 5);
        let mut into = [0; 8];
        for round in 0..10 {
            assert_eq!(writer.write(&[round; 7]), Ok(7));
            assert_eq!(reader.read(&mut into), Ok(7));
            assert_eq!(into[..7], [round; 7]);
        }
    }

    #[test]
    fn who_waits_is_woken_once_and_only_then() {
        let [(_, mut writer), (mut reader, _)] = both(8);
        assert!(!writer.must_wake(), "nobody waits");
        assert!(reader.begin_to_wait());
        writer.write(&[1; 8]).unwrap();
        assert!(writer.must_wake());
        assert!(!writer.must_wake(), "it has been told");
        assert!(!reader.begin_to_wait(), "there is something");
        assert!(!writer.must_wake());
        assert_eq!(writer.begin_to_wait(), Ok(true));
        let mut into = [0; 3];
        reader.read(&mut into).unwrap();
        assert!(!reader.must_wake(), "there is room for a few bytes only");
        reader.read(&mut into).unwrap();
        assert!(reader.must_wake());
        assert!(!reader.must_wake());
        assert_eq!(writer.begin_to_wait(), Ok(false), "there is room");
        reader.read(&mut into).unwrap();
        assert!(reader.begin_to_wait());
        reader.end_waiting();
        writer.write(&[1]).unwrap();
        assert!(!writer.must_wake());
    }

    #[test]
    fn x11_what_was_written_before_a_mark_became_impossible_counts() {
        let [(_, mut writer), (mut reader, _)] = both(8);
        reader.ring.marks().read.0.store(1000, Ordering::Release);
        let parts = [&[1, 2, 3][..], &[4; 8][..]];
        let written = writer.write_parts(parts.iter().copied());
        let read = reader.read(&mut [0; 8]).unwrap();
        assert_eq!(written.unwrap_or(0), read, "{written:?}");
        // To read has made the mark right again, which is too late.
        assert_eq!(writer.write_parts(parts[1..].iter().copied()), Err(Impossible));
    }

    #[test]
    fn a_writer_learns_how_much_of_its_last_bytes_was_taken() {
        let [(_, mut writer), (mut reader, _)] = both(8);
        writer.write(&[1; 3]).unwrap();
        writer.write(&[2; 4]).unwrap();
        assert_eq!(writer.taken_of_last(4), 0);
        reader.read(&mut [0; 2]).unwrap();
        assert_eq!(writer.taken_of_last(4), 0, "those were others");
        reader.read(&mut [0; 3]).unwrap();
        assert_eq!(writer.taken_of_last(4), 2);
        reader.read(&mut [0; 8]).unwrap();
        assert_eq!(writer.taken_of_last(4), 4);
        reader.ring.marks().read.0.store(100, Ordering::Relaxed);
        assert_eq!(writer.taken_of_last(4), 4, "it may have taken them");
    }

    #[test]
    fn x11_positions_that_cannot_be_are_refused() {
        let [(mut host_reader, mut host_writer), (reader, writer)] = both(8);
        host_writer.write(&[1; 8]).unwrap();
        for claimed in [9_u32, 1 << 31, u32::MAX] {
            writer.ring.marks().written.0.store(claimed, Ordering::Relaxed);
            assert_eq!(host_reader.read(&mut [0; 8]), Err(Impossible), "written: {claimed}");
            reader.ring.marks().read.0.store(claimed, Ordering::Relaxed);
            assert_eq!(host_writer.write(&[1]), Err(Impossible), "read: {claimed}");
            assert_eq!(host_writer.begin_to_wait(), Err(Impossible), "read: {claimed}");
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Write(usize),
        Read(usize),
    }

    proptest! {
        /// Held against a queue.
        #[cfg_attr(miri, ignore = "proptest asks for the working directory")]
        #[test]
        fn it_is_a_queue(
            steps in prop::collection::vec(
                prop_oneof![(0..20_usize).prop_map(Step::Write), (0..20_usize).prop_map(Step::Read)],
                0..200,
            ),
            start in any::<u32>(),
        ) {
            let (mut writer, mut reader) = one_way_from(16, start);
            let mut model = std::collections::VecDeque::new();
            let mut next = 0_u8;
            for step in steps {
                match step {
                    Step::Write(len) => {
                        let bytes: Vec<u8> = (0..len).map(|at| next.wrapping_add(at as u8)).collect();
                        let written = writer.write(&bytes).unwrap();
                        prop_assert_eq!(written, len.min(16 - model.len()));
                        model.extend(&bytes[..written]);
                        next = next.wrapping_add(written as u8);
                    }
                    Step::Read(len) => {
                        let mut into = vec![0; len];
                        let read = reader.read(&mut into).unwrap();
                        // What was there when it last looked, which it does when nothing of that is left.
                        prop_assert!(read <= len.min(model.len()));
                        prop_assert_eq!(read == 0, len == 0 || model.is_empty());
                        let expected: Vec<u8> = model.drain(..read).collect();
                        prop_assert_eq!(&into[..read], &expected[..]);
                    }
                }
                prop_assert_eq!(reader.has_bytes(), !model.is_empty());
            }
        }
    }

    /// As two processes use it: they wake each other by unparking, and neither may sleep for good.
    #[test]
    fn two_threads_pass_bytes_and_wake_each_other() {
        const LEN: usize = if cfg!(miri) { 2_000 } else { 2_000_000 };
        let [(_, mut writer), (mut reader, _)] = both(64);
        let reading = std::thread::current();
        let (sender, writing) = std::sync::mpsc::channel();
        let sent = std::thread::spawn(move || {
            sender.send(std::thread::current()).unwrap();
            let mut sent = 0;
            while sent < LEN {
                let len = (sent % 97 + 1).min(LEN - sent);
                let bytes: Vec<u8> = (sent..sent + len).map(|at| at as u8).collect();
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let written = writer.write(rest).unwrap();
                    rest = &rest[written..];
                    if writer.must_wake() {
                        reading.unpark();
                    }
                    if written == 0 && writer.begin_to_wait().unwrap() {
                        std::thread::park();
                    }
                }
                sent += len;
            }
        });
        let writing = writing.recv().unwrap();
        let mut into = [0; 50];
        let mut received = 0;
        while received < LEN {
            let len = reader.read(&mut into).unwrap();
            let expected: Vec<u8> = (received..received + len).map(|at| at as u8).collect();
            assert_eq!(into[..len], expected[..], "at {received}");
            received += len;
            if reader.must_wake() {
                writing.unpark();
            }
            if len == 0 && reader.begin_to_wait() {
                std::thread::park();
                reader.end_waiting();
            }
        }
        sent.join().unwrap();
    }
}

#[cfg(loom)]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::sync::{current, model, park};

    /// Each way of waiting: the reader for the first byte, and the writer for room for its third.
    #[test]
    fn x11_neither_side_sleeps_while_there_is_something_to_do() {
        model(|| {
            let [(_, mut writer), (mut reader, _)] = both(2);
            let reading = current();
            let (ready, writing) = loom::sync::mpsc::channel();
            let writes = thread::spawn(move || {
                ready.send(current()).unwrap();
                for byte in 0..3 {
                    while writer.write(&[byte]).unwrap() == 0 {
                        if writer.begin_to_wait().unwrap() {
                            park();
                        }
                    }
                    if writer.must_wake() {
                        reading.unpark();
                    }
                }
            });
            let writing = writing.recv().unwrap();
            for expected in 0..3 {
                let mut into = [9];
                while reader.read(&mut into).unwrap() == 0 {
                    if reader.begin_to_wait() {
                        park();
                        reader.end_waiting();
                    }
                }
                assert_eq!(into, [expected]);
                if reader.must_wake() {
                    writing.unpark();
                }
            }
            writes.join().unwrap();
        });
    }
}
