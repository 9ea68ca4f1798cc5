//! PostgreSQL pools whose login is replaced under running queries.
//!
//! [`PostgresPool`] makes pools of sqlx (the feature `sqlx`, a default one) and `PostgresDeadpool`
//! those of deadpool (the feature `deadpool`). Each says where the server is and which secrets are
//! the login, and becomes a [`PostgresHook`], which has one pool per generation: the generation of
//! every connection is known. A new login is proven by a fresh connection and a real statement
//! before its pool serves, and that pool has as many connections as the old one before anybody has
//! to wait for them. [`acquire`] takes a connection of the generation that serves, and reports a
//! login that the server does not accept any more.
//!
//! [`TwoRoles`] is the other half of it, for whoever rotates: two roles of the server that
//! alternate, of which the idle one gets a new password. No pool changes a role, and none opens a
//! transaction of its own.
#![forbid(unsafe_code)]

mod roles;
#[cfg(any(feature = "sqlx", feature = "deadpool"))]
mod error;
#[cfg(any(feature = "sqlx", feature = "deadpool"))]
mod pooled;
#[cfg(any(feature = "sqlx", feature = "deadpool"))]
mod pace;
#[cfg(any(feature = "sqlx", feature = "deadpool"))]
mod hook;
#[cfg(feature = "sqlx")]
mod with_sqlx;
#[cfg(feature = "deadpool")]
mod with_deadpool;

#[cfg(any(feature = "sqlx", feature = "deadpool"))]
pub use hook::PostgresHook;
#[cfg(any(feature = "sqlx", feature = "deadpool"))]
pub use pooled::{Lease, Pooled, acquire};
pub use roles::{Administrator, NewLogin, RoleError, TwoRoles};
#[cfg(feature = "deadpool")]
pub use with_deadpool::{PgDeadpool, PostgresDeadpool};
#[cfg(feature = "sqlx")]
pub use with_sqlx::PostgresPool;
