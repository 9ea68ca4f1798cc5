//! What a request has to be able to do to carry a credential, and an answer to keep it in use.

use http::{HeaderMap, Request, Response, StatusCode};
use oneiric_core::ManagedGuard;

use crate::held::HeldBody;

/// A request that a credential can be put into.
pub trait OutgoingRequest {
    /// Its headers.
    fn headers_mut(&mut self) -> &mut HeaderMap;

    /// Scheme, host and port of whom it asks, for clients that follow redirects by themselves: an
    /// answer of somebody else says nothing about the credential. `None` where the answers of this
    /// client do not say whose they are.
    fn origin(&self) -> Option<String> {
        None
    }
}

/// A request that may be sent a second time, if all of it is still there.
pub trait ReplayRequest: OutgoingRequest + Sized {
    /// The same request, made before the first is sent. `None` if its body is a stream, which is
    /// gone once it was sent.
    fn replay(&self) -> Option<Self>;
}

/// The answer to a request.
pub trait IncomingResponse {
    /// The same answer, keeping a credential in use.
    type Held;

    /// Its status.
    fn status(&self) -> StatusCode;

    /// Its headers.
    fn headers(&self) -> &HeaderMap;

    /// Scheme, host and port of who gave it, if it says so.
    fn origin(&self) -> Option<String> {
        None
    }

    /// Keeps a generation in use until the body was read to its end, or is dropped.
    fn hold<T: Send + Sync + 'static>(self, in_use: ManagedGuard<T>) -> Self::Held;
}

impl<B> OutgoingRequest for Request<B> {
    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }
}

/// A body that can be cloned is there as a whole: `Full`, `Empty`, `Bytes`, a string, `()`.
impl<B: Clone> ReplayRequest for Request<B> {
    fn replay(&self) -> Option<Self> {
        Some(self.clone())
    }
}

impl<B: http_body::Body> IncomingResponse for Response<B> {
    type Held = Response<HeldBody<B>>;

    fn status(&self) -> StatusCode {
        self.status()
    }

    fn headers(&self) -> &HeaderMap {
        self.headers()
    }

    fn hold<T: Send + Sync + 'static>(self, in_use: ManagedGuard<T>) -> Self::Held {
        self.map(|body| HeldBody::new(body, in_use))
    }
}
