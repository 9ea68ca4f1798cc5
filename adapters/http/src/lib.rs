//! The credential header of an HTTP client, replaced under running requests.
//!
//! [`HttpCredential`] holds one header (bearer, basic or any other) in the types of the `http`
//! crate. [`CredentialLayer`] puts the current one into the requests of a client that is a tower
//! service, and sends a request once more if it was refused and there is a newer one.
//! [`ManagedService`] is for clients that are themselves built per generation.
//!
//! It is *not* a client: what it sends, it sends with yours. The Cargo feature `reqwest` brings
//! requests of reqwest, and a proof with a client that you describe.
#![forbid(unsafe_code)]

mod credential;
mod hook;
mod exchange;
mod held;
mod refusal;
mod service;
mod managed_service;
#[cfg(feature = "reqwest")]
mod reqwest_client;

pub use credential::HttpCredential;
pub use exchange::{IncomingResponse, OutgoingRequest, ReplayRequest};
pub use held::HeldBody;
pub use managed_service::ManagedService;
pub use service::{CredentialLayer, CredentialService};
