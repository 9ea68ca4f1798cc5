//! Redis connections whose password is replaced under running requests.
//!
//! [`RedisConnection`] says where the server is and which secret is the password, and becomes an
//! adapter with one shared connection per generation. A new password is proven by a fresh
//! connection and a real command, and that connection serves next: [`acquire`] lends it to whoever
//! has a request. What cannot be replaced without a loss, because it waits for something or has
//! subscribed to something, is a [`Dedicated`] connection: it lives on and is authenticated anew.
//!
//! [`AclUser`] is the other half of it, for whoever rotates: one user of the server that has two
//! passwords for a while, and loses the old one when the server shows that no connection is left
//! that needs it. No pool, no cluster and no sentinel is in here, and nothing repeats a request.
#![forbid(unsafe_code)]

mod error;
mod mark;
mod login;
mod link;
mod shared;
mod dedicated;
mod hook;
mod acl;

pub use acl::{AclError, AclUser, Client, Holders, NewPassword};
pub use dedicated::{Dedicated, dedicated};
pub use hook::RedisConnection;
pub use shared::{Lease, Redis, acquire};
