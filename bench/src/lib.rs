//! The services that are measured: [`Echo`](echo::Echo), whose payloads are `Bytes`, and
//! [`Plain`](plain::Plain), whose payloads are `Vec<u8>`.

plug::include_proto!();
