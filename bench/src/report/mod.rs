//! What becomes of the results.

pub mod compare;
pub mod csv;
pub mod plot;
pub mod readme;
pub mod table;

/// A number as people read it: three digits that count, with commas in thousands, nothing for what was not measured.
pub fn readable(value: f64) -> String {
    let digits = match value.abs() {
        size if size.is_nan() => return String::new(),
        size if size >= 99.95 => return with_commas(value.round() as i64),
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// A large number, in thousands or millions.
pub fn short(value: f64) -> String {
    match value {
        _ if value >= 999_500.0 => format!("{} M", readable(value / 1e6)),
        _ if value >= 9_995.0 => format!("{} k", readable(value / 1e3)),
        _ => readable(value),
    }
}

fn with_commas(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_count() {
        let texts = [2.666, 9.996, 99.96, 123.4, 1234567.0, -1234.0, f64::NAN].map(readable);
        let shorts = [9_000.0, 48_203.0, 999_499.0, 999_500.0, 23_241_091.0].map(short);
        assert_eq!(shorts, ["9,000", "48.2 k", "999 k", "1.00 M", "23.2 M"]);
        assert_eq!(texts, ["2.67", "10.0", "100", "123", "1,234,567", "-1,234", ""]);
    }
}
