//! The service that is measured.

plug::include_proto!("echo");
