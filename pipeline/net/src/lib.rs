//! The network side that exporters and extensions share: the bounded HTTP listener, and TLS from files.
//!
//! # Layout
//!
//! | module | what it holds |
//! |---|---|
//! | [`listener`] | the bounded HTTP listener, of scrapes and of the daemon itself |
//! | [`tls`] | certificates and keys of listeners and connections |
#![forbid(unsafe_code)]

pub mod listener;
pub mod tls;
