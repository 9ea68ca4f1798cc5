//! A whole client per generation, for what cannot be changed in one.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use oneiric_core::Managed;
use tower_service::Service;

use crate::exchange::IncomingResponse;
use crate::service::Answering;

/// A [`Managed`] client as a tower [`Service`]: for clients that are built anew for each
/// generation, since what changes is fixed in them, such as the TLS of a channel of tonic.
///
/// Each call takes the generation that serves, and holds it until the body of the answer was read
/// to its end or dropped. It waits for a place in the client, if that is busy, within the call:
/// the service itself is always ready. A call that is dropped lets go of its generation. At the drain
/// deadline a body ends with an error, and a call whose answer has not begun goes on.
///
/// It looks at no answer. Who is told that a credential was refused reports it:
/// `managed.load().report_refused()`.
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use oneiric_adapter_http::ManagedService;
/// use oneiric_core::{HookError, ManagedHook, SecretRef};
/// use tower::service_fn;
///
/// let key: SecretRef = "files:client.json#/key".parse()?;
/// let hook = ManagedHook::new("billing".parse()?, [key.clone()], move |secrets| {
///     let key = secrets.get(&key).cloned();
///     async move {
///         // Stands for a channel with a TLS identity.
///         let _identity = key.ok_or(HookError::failed("there is no key"))?;
///         Ok(service_fn(async |_: Request<()>| Ok::<_, String>(Response::new(Empty::<&[u8]>::new()))))
///     }
/// });
/// // After `runtime.manage(hook)`, or here:
/// if let Some(channels) = hook.managed() {
///     let _client = ManagedService::new(channels);
/// }
/// # Ok::<(), oneiric_core::ParseError>(())
/// ```
pub struct ManagedService<S>(Managed<S>);

impl<S> ManagedService<S> {
    /// A client whose calls follow these generations.
    pub fn new(clients: Managed<S>) -> Self {
        Self(clients)
    }
}

impl<S, R> Service<R> for ManagedService<S>
where
    S: Service<R> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Response: IncomingResponse,
    R: Send + 'static,
{
    type Response = <S::Response as IncomingResponse>::Held;
    type Error = S::Error;
    type Future = Answering<Self::Response, S::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let clients = self.0.clone();
        Box::pin(async move {
            let in_use = clients.load();
            let mut client = S::clone(&in_use);
            poll_fn(|context| client.poll_ready(context)).await?;
            let answer = client.call(request).await?;
            Ok(answer.hold(in_use))
        })
    }
}

impl<S> Clone for ManagedService<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> fmt::Debug for ManagedService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManagedService").field(&self.0).finish()
    }
}
