//! Requests and answers of reqwest, and a proof by a request of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use oneiric_core::{HookError, ManagedGuard};
use reqwest::redirect::Policy;
use reqwest::{Body, ClientBuilder, IntoUrl, Request, Response, ResponseBuilderExt as _, Url};

use crate::credential::HttpCredential;
use crate::exchange::{IncomingResponse, OutgoingRequest, ReplayRequest};
use crate::held::HeldBody;

impl OutgoingRequest for Request {
    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }

    fn origin(&self) -> Option<String> {
        Some(self.url().origin().ascii_serialization())
    }
}

impl ReplayRequest for Request {
    fn replay(&self) -> Option<Self> {
        self.try_clone()
    }
}

impl IncomingResponse for Response {
    type Held = Self;

    fn status(&self) -> StatusCode {
        self.status()
    }

    fn headers(&self) -> &HeaderMap {
        self.headers()
    }

    fn origin(&self) -> Option<String> {
        Some(self.url().origin().ascii_serialization())
    }

    fn hold<T: Send + Sync + 'static>(self, in_use: ManagedGuard<T>) -> Self {
        // It would be lost with the body that is replaced.
        let url = self.url().clone();
        let (mut parts, body) = http::Response::from(self).into_parts();
        let with_url = http::Response::builder().url(url).body(());
        let with_url = with_url.expect("an answer of nothing but a URL is valid");
        parts.extensions.extend(with_url.into_parts().0.extensions);
        let body = Body::wrap(HeldBody::new(body, in_use));
        http::Response::from_parts(parts, body).into()
    }
}

type Proof = Pin<Box<dyn Future<Output = Result<(), HookError>> + Send>>;

impl HttpCredential {
    /// A proof for [`ManagedHook::prove`](oneiric_core::ManagedHook::prove): one GET of this
    /// address with the new credential, over a connection of its own.
    ///
    /// It is proven by a success (2xx), *refused* by 401 and 403, and *fails* for everything else.
    /// A redirect proves nothing, since many servers send whom they do not know to a login page,
    /// and is not followed, so that nobody else gets to see the credential. Choose an address that
    /// is harmless to read, and that is refused without a credential.
    ///
    /// `client` brings what the connection needs, such as certificates, a proxy or a time-out; what
    /// it says of redirects and idle connections is not used.
    ///
    /// # Errors
    /// If the address is none, or no such client can be built.
    pub fn proof_by_get(
        client: ClientBuilder,
        url: impl IntoUrl,
    ) -> reqwest::Result<impl Fn(Arc<Self>) -> Proof + Send + Sync + 'static> {
        let url = url.into_url()?;
        // A client that keeps no idle connection opens one for each request.
        let client = client.redirect(Policy::none()).pool_max_idle_per_host(0).build()?;
        Ok(move |credential: Arc<Self>| -> Proof {
            let (client, url) = (client.clone(), url.clone());
            Box::pin(async move { ask(&client, url, &credential).await })
        })
    }
}

async fn ask(
    client: &reqwest::Client,
    url: Url,
    credential: &HttpCredential,
) -> Result<(), HookError> {
    let mut request = client.get(url).build().map_err(could_not_ask)?;
    credential.add_to(request.headers_mut());
    let answer = client.execute(request).await.map_err(could_not_ask)?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Err(HookError::refused(format!("the server does not accept it: {status}")))
        }
        status => {
            Err(HookError::failed(format!("the server answers {status}, which proves nothing")))
        }
    }
}

/// Addresses may hold secrets, so none is shown.
fn could_not_ask(error: reqwest::Error) -> HookError {
    HookError::failed("the server could not be asked").caused_by(error.without_url())
}
