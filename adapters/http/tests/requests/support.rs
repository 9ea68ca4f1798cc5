//! An API that knows tokens, and a client of it whose credential can be changed.

use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Full};
use oneiric_adapter_http::{CredentialLayer, HttpCredential};
use oneiric_core::{
    LifecycleHook as _, Managed, ManagedHook, RefusalStream, Retired, SecretRef, SecretSet,
    SecretValue, Version,
};
use tokio::time::sleep;
use tower::Service;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What the API answers with, and how it fails.
pub(crate) type Answer = Result<Response<Full<Bytes>>, String>;

#[derive(Default)]
pub(crate) struct Api {
    accepted: Mutex<Vec<String>>,
    /// What it answers with instead of judging.
    instead: Mutex<Option<Answer>>,
    /// The token and the body of each request, in order.
    seen: Mutex<Vec<(String, String)>>,
    slow: AtomicBool,
}

impl Api {
    pub(crate) fn accepting(tokens: &[&str]) -> Arc<Self> {
        let api = Self::default();
        *api.accepted.lock().unwrap() = tokens.iter().map(|&token| token.to_owned()).collect();
        Arc::new(api)
    }

    pub(crate) fn answering(answer: Answer) -> Arc<Self> {
        let api = Self::default();
        *api.instead.lock().unwrap() = Some(answer);
        Arc::new(api)
    }

    /// From now on it takes a second to answer.
    pub(crate) fn slow(&self) {
        self.slow.store(true, Ordering::SeqCst);
    }

    pub(crate) fn seen(&self) -> Vec<(String, String)> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn tokens(&self) -> Vec<String> {
        self.seen().into_iter().map(|(token, _)| token).collect()
    }

    pub(crate) fn client(self: &Arc<Self>) -> ApiClient {
        ApiClient(Arc::clone(self))
    }

    fn judge(&self, token: &str) -> Answer {
        if let Some(answer) = &*self.instead.lock().unwrap() {
            return answer.clone();
        }
        let known = self.accepted.lock().unwrap().iter().any(|accepted| accepted == token);
        let status = if known { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        Ok(answer(status, "Bearer error=\"invalid_token\""))
    }
}

/// A client of the API that knows nothing of credentials.
#[derive(Clone)]
pub(crate) struct ApiClient(Arc<Api>);

impl<B: Body<Data: Send, Error: Debug> + Send + 'static> Service<Request<B>> for ApiClient {
    type Response = Response<Full<Bytes>>;
    type Error = String;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), String>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let api = Arc::clone(&self.0);
        Box::pin(async move {
            let token = token_of(request.headers());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            api.seen.lock().unwrap().push((token.clone(), body));
            if api.slow.load(Ordering::SeqCst) {
                sleep(SECOND).await;
            }
            api.judge(&token)
        })
    }
}

impl Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiClient")
    }
}

pub(crate) fn answer(status: StatusCode, challenge: &str) -> Response<Full<Bytes>> {
    let answer = Response::builder().status(status).header("www-authenticate", challenge);
    answer.body(Full::from("the answer")).unwrap()
}

fn token_of(headers: &HeaderMap) -> String {
    let values: Vec<_> = headers.get_all(AUTHORIZATION).iter().collect();
    let [value] = values[..] else { panic!("{} credentials", values.len()) };
    value.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
}

pub(crate) fn order() -> Request<Full<Bytes>> {
    Request::post("http://api.internal/orders").body(Full::from("an order")).unwrap()
}

/// The credential, whose generations the test commits.
pub(crate) struct Credential {
    hook: ManagedHook<HttpCredential>,
    refusals: Mutex<RefusalStream>,
}

impl Credential {
    pub(crate) async fn of(token: &str) -> Arc<Self> {
        let reference: SecretRef = "files:token".parse().unwrap();
        let hook = HttpCredential::bearer("api".parse().unwrap(), reference);
        let refusals = hook.refusals().unwrap().into();
        let this = Arc::new(Self { hook, refusals });
        this.change(token).await;
        this
    }

    /// Makes this token the one that serves; what was before can be drained.
    pub(crate) async fn change(&self, token: &str) -> Box<dyn Retired> {
        let [reference] = self.hook.secrets() else { panic!("it has one secret") };
        let part = (reference.clone(), SecretValue::from(token), Version::numbered(1));
        self.hook.prepare(&SecretSet::new([part])).await.unwrap().commit()
    }

    /// The same in so long.
    pub(crate) fn change_in(self: &Arc<Self>, time: Duration, token: &'static str) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            sleep(time).await;
            this.change(token).await;
        });
    }

    pub(crate) fn managed(&self) -> Managed<HttpCredential> {
        self.hook.managed().unwrap()
    }

    pub(crate) fn layer(&self) -> CredentialLayer<Request<Full<Bytes>>> {
        CredentialLayer::new(self.managed())
    }

    /// Whether a refusal was reported since this was asked last.
    pub(crate) fn was_reported(&self) -> bool {
        self.refusals.lock().unwrap().next().now_or_never().is_some()
    }
}
