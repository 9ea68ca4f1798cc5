//! The words and contracts of Oneiric.
//!
//! What a secret is called ([`SecretRef`]), in what type its bytes travel ([`SecretValue`]), what
//! a store must do ([`SecretProvider`]), what a user of secrets must do ([`LifecycleHook`], and
//! its everyday form [`Managed`]), how failures are told apart ([`ErrorKind`]), and the
//! [`Settings`](settings::Settings) of it all.
//!
//! It is *not* a client of any store, and it caches, retries and rotates nothing: see
//! `oneiric-secrets` and `oneiric-runtime`.
#![forbid(unsafe_code)]

mod id;
mod reference;
mod value;
mod kind;
mod error;
mod clock;
mod provider;
mod hook;
mod managed;
pub mod settings;
pub mod telemetry;

pub use clock::{Clock, Moment};
pub use error::{Error, ErrorKind, Result};
pub use hook::{
    DrainOutcome, DrainReport, HookError, LifecycleHook, Prepared, Refusal, RefusalStream, Retired,
    SecretSet,
};
pub use id::{AdapterId, AliasId, InstanceId, ParseError, ProviderId, RotationId};
pub use kind::SecretKind;
pub use managed::{Managed, ManagedAdapter, ManagedGuard, ManagedHook};
pub use provider::{
    Capabilities, Change, ChangeStream, Descriptor, Detection, FetchRequest, Fetched, SecretLister,
    SecretProvider, SecretWriter, Snapshot, Stamp, Version, VersionInfo, VersionState, fetch_each,
};
pub use reference::{Field, SecretKey, SecretRef};
pub use value::SecretValue;
