//! For those who write providers and adapters, and for the tests of everything that calls them.
//!
//! [`MemoryProvider`] is a store that a test scripts: slow, hanging, failing or changing on
//! demand. [`scan_for_canary`] finds a secret in captured output, however it was encoded.
//!
//! It is a dev-dependency only, and no place to keep a real secret: a double counts and holds
//! what it is given for as long as the test runs.
#![forbid(unsafe_code)]

mod memory;
mod canary;
pub mod live;

pub use canary::scan_for_canary;
pub use memory::MemoryProvider;
