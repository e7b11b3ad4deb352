//! A line of the results.

/// NaN is what was not measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub work: String,
    pub candidate: String,
    /// KiB where the work is about memory.
    pub median_us: f64,
    pub p99_us: f64,
    pub x_pipe: f64,
    pub calls_per_s: f64,
    pub cpu_us_per_call: f64,
    pub switches_per_call: f64,
}

impl Row {
    /// A figure that has a name of its own.
    pub fn single(work: &str, candidate: &str, value: f64) -> Row {
        Row {
            work: work.to_owned(),
            candidate: candidate.to_owned(),
            median_us: value,
            p99_us: f64::NAN,
            x_pipe: f64::NAN,
            calls_per_s: f64::NAN,
            cpu_us_per_call: f64::NAN,
            switches_per_call: f64::NAN,
        }
    }
}
