//! A client whose requests carry the current credential, and are sent once more when it was
//! refused and there is a newer one.

use std::fmt;
use std::future::{Future, poll_fn};
use std::mem::replace;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use oneiric_core::{Managed, ManagedGuard};
use tokio::time::timeout_at;
use tower_layer::Layer;
use tower_service::Service;

use crate::credential::HttpCredential;
use crate::exchange::{IncomingResponse, OutgoingRequest, ReplayRequest};
use crate::refusal::{Patience, is_refusal};

/// How long a newer credential is waited for, unless somebody says otherwise.
const WAIT: Duration = Duration::from_secs(2);

pub(crate) type Answering<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Makes a request again before it is sent, where that can be done.
type Replay<R> = dyn Fn(&R) -> Option<R> + Send + Sync;

/// Puts the current credential into every request of a client: any tower [`Service`] of HTTP
/// requests, `reqwest::Client` among them.
///
/// # One request
/// Each attempt takes the generation that serves when it is sent, and holds it until the body of
/// the answer was read to its end or dropped. A header of the same name is replaced.
///
/// If the answer is a 401, the server did not accept the credential. That is reported, which makes
/// the runtime ask the store, once for all who say so. As soon as a newer generation serves, the
/// request is sent a second time with it, and what comes of that is the answer. There is no third
/// attempt, and none at all
/// - where no newer generation serves within [`wait_at_most`](Self::wait_at_most);
/// - where the request cannot be sent again, since its body was a stream;
/// - for any other answer, and for a failure: what became of that request is not known.
///
/// Then the caller gets the 401 as it came. The method does not matter: a server that answers 401
/// has not applied the request (RFC 9110, section 15.5.2). Put the layer next to the client,
/// inside of what follows redirects, so that it sees no answers of others.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt as _, Full};
/// use oneiric_adapter_http::{CredentialLayer, HttpCredential};
/// use oneiric_core::Managed;
/// use tower::{Service, ServiceBuilder, ServiceExt as _};
///
/// async fn order<C>(client: C, credentials: Managed<HttpCredential>) -> Result<Bytes, C::Error>
/// where
///     C: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>>,
///     C: Clone + Send + 'static,
///     C::Future: Send,
/// {
///     let api = ServiceBuilder::new().layer(CredentialLayer::new(credentials)).service(client);
///     let request = Request::post("https://api.internal/orders").body(Full::from("an order"));
///     let answer = api.oneshot(request.expect("it is a valid request")).await?;
///     // Until here the credential of this request is not revoked.
///     Ok(answer.into_body().collect().await.expect("a full body does not fail").to_bytes())
/// }
/// ```
///
/// # At the drain deadline
/// A body that is being read ends with an error: see [`HeldBody`](crate::HeldBody). A request whose
/// answer has not begun is not cut off, since the errors of your client are its own: it is *leaked*,
/// and counted, until its answer comes. Give the client a time limit that is shorter than the drain.
///
/// # Cancellation
/// A call that is dropped lets go of its generation. Nothing goes on without it.
pub struct CredentialLayer<R> {
    credentials: Managed<HttpCredential>,
    replay: Arc<Replay<R>>,
    patience: Arc<Patience>,
}

impl<R: ReplayRequest + 'static> CredentialLayer<R> {
    /// Requests are replayed that can be. Each is cloned before it is sent.
    pub fn new(credentials: Managed<HttpCredential>) -> Self {
        Self::with_replay(credentials, R::replay)
    }
}

impl<R> CredentialLayer<R> {
    /// For requests whose bodies cannot be cloned. `replay` makes a request again before it is
    /// sent, where that can be done; `|_| None` replays none.
    pub fn with_replay(
        credentials: Managed<HttpCredential>,
        replay: impl Fn(&R) -> Option<R> + Send + Sync + 'static,
    ) -> Self {
        let patience = Arc::new(Patience::new(WAIT));
        Self { credentials, replay: Arc::new(replay), patience }
    }

    /// How long a request that was refused may wait for a newer generation: 2 s by default. All
    /// requests of a generation wait at the same time, so while a credential stays refused, those
    /// that come later are answered at once. They wait again after 10 s, when the runtime is ready
    /// to ask the store again.
    #[must_use]
    pub fn wait_at_most(mut self, wait: Duration) -> Self {
        self.patience = Arc::new(Patience::new(wait));
        self
    }

    /// Puts the layer around a client.
    pub fn over<S>(&self, client: S) -> CredentialService<S, R> {
        CredentialService { client, layer: self.clone() }
    }

    /// The generation after this one, which was refused, if it comes in time.
    async fn after(
        &self,
        refused: &ManagedGuard<HttpCredential>,
    ) -> Option<ManagedGuard<HttpCredential>> {
        let newer = || {
            let current = self.credentials.load();
            (current.generation() > refused.generation()).then_some(current)
        };
        if let Some(newer) = newer() {
            return Some(newer);
        }
        // Whether it was in time or not: what counts is what serves.
        let _ = timeout_at(self.patience.until(refused.generation()), refused.retired()).await;
        newer()
    }
}

/// A client whose requests carry the current credential: see [`CredentialLayer`].
pub struct CredentialService<S, R> {
    client: S,
    layer: CredentialLayer<R>,
}

impl<S, R> CredentialService<S, R>
where
    S: Service<R> + Clone,
    Self: Service<R>,
{
    /// Sends one request: what [`Service::call`] does, for those who have no tower at hand.
    pub async fn send(
        &self,
        request: R,
    ) -> Result<<Self as Service<R>>::Response, <Self as Service<R>>::Error> {
        let mut service = self.clone();
        poll_fn(|context| service.poll_ready(context)).await?;
        service.call(request).await
    }
}

impl<S, R> Service<R> for CredentialService<S, R>
where
    S: Service<R> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: IncomingResponse + Send,
    R: OutgoingRequest + Send + 'static,
{
    type Response = <S::Response as IncomingResponse>::Held;
    type Error = S::Error;
    type Future = Answering<Self::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.client.poll_ready(context)
    }

    fn call(&mut self, mut request: R) -> Self::Future {
        // The one that was polled ready is the one that is called.
        let next = self.client.clone();
        let mut client = replace(&mut self.client, next);
        let layer = self.layer.clone();
        Box::pin(async move {
            let again = (layer.replay)(&request);
            let asked = request.origin();
            let credential = layer.credentials.load();
            credential.add_to(request.headers_mut());
            let answer = client.call(request).await?;
            if !refuses(&answer, asked.as_deref()) {
                return Ok(answer.hold(credential));
            }
            credential.report_refused();
            let Some(mut request) = again else { return Ok(answer.hold(credential)) };
            let Some(newer) = layer.after(&credential).await else {
                return Ok(answer.hold(credential));
            };
            drop((answer, credential));

            newer.add_to(request.headers_mut());
            poll_fn(|context| client.poll_ready(context)).await?;
            let answer = client.call(request).await?;
            if refuses(&answer, asked.as_deref()) {
                newer.report_refused();
            }
            Ok(answer.hold(newer))
        })
    }
}

/// Whether the one who was asked does not accept the credential.
fn refuses(answer: &impl IncomingResponse, asked: Option<&str>) -> bool {
    // Most answers are none, and need not say whose they are.
    is_refusal(answer.status(), answer.headers())
        && asked.is_none_or(|asked| answer.origin().is_none_or(|answered| answered == asked))
}

impl<S, R> Layer<S> for CredentialLayer<R> {
    type Service = CredentialService<S, R>;

    fn layer(&self, client: S) -> Self::Service {
        self.over(client)
    }
}

impl<R> Clone for CredentialLayer<R> {
    fn clone(&self) -> Self {
        Self {
            credentials: self.credentials.clone(),
            replay: Arc::clone(&self.replay),
            patience: Arc::clone(&self.patience),
        }
    }
}

impl<S: Clone, R> Clone for CredentialService<S, R> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), layer: self.layer.clone() }
    }
}

impl<R> fmt::Debug for CredentialLayer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialLayer")
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

impl<S: fmt::Debug, R> fmt::Debug for CredentialService<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialService")
            .field("client", &self.client)
            .field("layer", &self.layer)
            .finish()
    }
}
