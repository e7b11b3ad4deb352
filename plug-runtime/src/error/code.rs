//! The status codes of failed calls.

/// The status code of a failed call: those of gRPC, with the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum Code {
    /// The call was cancelled by its caller.
    Cancelled = 1,
    /// No better code is known: the code of errors made from strings.
    Unknown = 2,
    /// An argument is wrong, whatever the state of the plugin.
    InvalidArgument = 3,
    /// The time allowed has passed.
    DeadlineExceeded = 4,
    /// What was asked for does not exist.
    NotFound = 5,
    /// What was to be made exists already.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A quota, a limit or the disk is exhausted.
    ResourceExhausted = 8,
    /// The plugin is not in the state that the call needs.
    FailedPrecondition = 9,
    /// The call lost a race and may be tried again at a higher level.
    Aborted = 10,
    /// Past the valid range, such as the end of a file.
    OutOfRange = 11,
    /// The method does not exist or does nothing yet.
    Unimplemented = 12,
    /// A broken invariant or a panic.
    Internal = 13,
    /// Not available now; the same call may work later.
    Unavailable = 14,
    /// Data was lost or is corrupt.
    DataLoss = 15,
    /// The caller did not say who it is.
    Unauthenticated = 16,
}

impl Code {
    pub(crate) fn from_wire(code: u32) -> Code {
        ALL_CODES.into_iter().find(|&known| known as u32 == code).unwrap_or(Code::Unknown)
    }
}

impl From<&std::io::Error> for Code {
    /// The code that fits an I/O error best: `NotFound`, `PermissionDenied` and so on, else `Unknown`.
    fn from(error: &std::io::Error) -> Code {
        use std::io::ErrorKind as Io;
        match error.kind() {
            Io::NotFound => Code::NotFound,
            Io::PermissionDenied => Code::PermissionDenied,
            Io::AlreadyExists => Code::AlreadyExists,
            Io::InvalidInput => Code::InvalidArgument,
            Io::InvalidData | Io::UnexpectedEof => Code::DataLoss,
            Io::TimedOut => Code::DeadlineExceeded,
            Io::StorageFull | Io::QuotaExceeded | Io::OutOfMemory => Code::ResourceExhausted,
            Io::Unsupported => Code::Unimplemented,
            Io::ConnectionRefused | Io::HostUnreachable | Io::NetworkUnreachable => {
                Code::Unavailable
            }
            _ => Code::Unknown,
        }
    }
}

const ALL_CODES: [Code; 16] = [
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_grpc() {
        for (index, code) in ALL_CODES.into_iter().enumerate() {
            assert_eq!(code as usize, index + 1);
            assert_eq!(Code::from_wire(code as u32), code);
        }
        assert_eq!(Code::from_wire(99), Code::Unknown);
    }
}
