//! The admin endpoint of an instance, and the client that speaks to it.
//!
//! HTTP/1.1 on a unix socket, `<runtime_dir>/<instance>.sock`, and on a loopback TCP address
//! where one is asked for.
//!
//! | route | right | answer |
//! |---|---|---|
//! | `POST /v1/rotate` | admin | [`Progress`](crate::report::Progress), one per line |
//! | `GET /v1/status` | read | [`InstanceStatus`](crate::report::InstanceStatus) |
//! | `GET /v1/events` | read | [`WatchEvent`], one per line |
//! | `GET /v1/health/live`, `/v1/health/ready` | read | 200, or 503 while not ready |
//!
//! On the unix socket whoever has the uid of this process, or is root, has every right; the
//! kernel attests the uid *at connect*, so a process that hands its connection on hands its right
//! on. On TCP a token decides. Every request bears the header `x-oneiric-request: 1`, which no
//! browser sends for a foreign page and no server can be tricked into sending; has a `Host` that
//! is allowed, and did not come through a proxy.
//!
//! No route returns a secret, an environment, a setting or a metric.

mod options;
mod server;
mod guard;
mod routes;
mod wire;
mod token;
mod socket;
mod directory;
mod trace_context;
mod client;
mod endpoint;
mod discovery;

pub use client::{AdminClient, ClientError};
pub use directory::{runtime_dir, runtime_dirs};
pub use discovery::{Found, discover};
pub use endpoint::Endpoint;
pub use options::AdminOptions;
pub use server::AdminServer;
pub use wire::WatchEvent;
