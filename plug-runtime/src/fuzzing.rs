//! What the targets in `fuzz/` call: it is here only where `cfg(fuzzing)` is set, as cargo-fuzz does, and in tests.
//!
//! Each function takes any bytes, and panics if something does not hold that must.

/// A side of a connection hears anything, and its users do this and that.
pub fn frames(data: &[u8]) {
    crate::protocol::fuzz::frames(data);
}

/// A side hears the same, cut in different ways.
pub fn split(data: &[u8]) {
    crate::protocol::fuzz::split(data);
}

/// Two sides with calls and streams both ways.
pub fn sessions(data: &[u8]) {
    crate::protocol::fuzz::sessions(data);
}

/// Two hellos, or one and anything else.
pub fn handshake(data: &[u8]) {
    crate::protocol::fuzz::handshake(data);
}

/// What a plugin prints, and its lines.
pub fn stderr_lines(data: &[u8]) {
    crate::process::stderr_model::check(data);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Does a check over for each input that is stored.
    fn replay(target: &str, check: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let inputs = fs::read_dir(&folder).unwrap_or_else(|error| {
            panic!("the inputs of {target} cannot be read: {error}: {}", folder.display())
        });
        let mut count = 0;
        for input in inputs {
            let path = input.unwrap().path();
            let data = fs::read(&path).unwrap();
            // The panic of the check comes before this, and says what does not hold.
            if std::panic::catch_unwind(|| check(&data)).is_err() {
                panic!("the check of {target} fails for {}", path.display());
            }
            count += 1;
        }
        assert!(count > 5, "{target} has only {count} inputs");
    }

    #[test]
    fn f5_f6_f11_c16_what_fuzzing_frames_has_found_is_survived() {
        replay("frames", super::frames);
    }

    #[test]
    fn f3_what_fuzzing_splits_has_found_is_understood_however_it_is_cut() {
        replay("split", super::split);
    }

    #[test]
    fn what_fuzzing_sessions_has_found_comes_to_its_end() {
        replay("sessions", super::sessions);
    }

    #[test]
    fn h6_what_fuzzing_handshakes_has_found_comes_to_the_same_end_on_both_sides() {
        replay("handshake", super::handshake);
    }

    #[test]
    fn s3_s4_what_fuzzing_lines_has_found_gives_the_lines_of_a_naive_model() {
        replay("stderr_lines", super::stderr_lines);
    }
}
