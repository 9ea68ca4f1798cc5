//! The README and the manual, whose examples run as tests.
//!
//! They stand in this crate because it may use all that a service uses, and nothing may use it.
//! It is *not* a library to build on: the scenarios are in the program.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../docs/adapters.md")]
struct Adapters;

#[cfg(doctest)]
#[doc = include_str!("../../docs/adapters/redis.md")]
struct Redis;

#[cfg(doctest)]
#[doc = include_str!("../../docs/managed.md")]
struct Managed;
