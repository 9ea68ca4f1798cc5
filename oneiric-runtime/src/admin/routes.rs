//! The routes and their answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use futures_util::{Stream, StreamExt, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use http_body_util::LengthLimitError;
use oneiric_core::telemetry::span;
use oneiric_secrets::Scope;
use serde::Serialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::guard::{self, Guard, Peer, not_found, problem};
use super::trace_context;
use super::wire::{RotateBody, WatchEvent, line};
use crate::report::InstanceStatus;
use crate::runtime::{RotateRequest, Runtime};

/// The largest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// How long the manager may take to say how things stand.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// What the routes of one connection work with.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) runtime: Runtime,
    pub(super) guard: Arc<Guard>,
    pub(super) peer: Peer,
    /// Ends the streams that have no end of their own.
    pub(super) shutdown: CancellationToken,
    pub(super) read_timeout: Duration,
}

/// The routes of one connection.
pub(super) fn router(served: Served) -> Router {
    let rules = (Arc::clone(&served.guard), served.peer);
    let require_admin = middleware::from_fn_with_state(rules.clone(), guard::require_admin);
    let unknown = || async { not_found() };
    let routes = Router::new()
        .route("/v1/rotate", post(rotate).layer(require_admin))
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/health/live", get(live))
        .route("/v1/health/ready", get(ready))
        .method_not_allowed_fallback(unknown)
        .fallback(unknown)
        .with_state(served);
    // Around the whole and not around each route: whoever is refused does not learn what there is.
    Router::new()
        .fallback_service(routes)
        .layer(middleware::from_fn_with_state(rules, guard::admit))
}

/// Asks for a rotation and tells its course. It goes on if the caller does not listen.
async fn rotate(State(served): State<Served>, headers: HeaderMap, body: Body) -> Response {
    let request = match read_request(body, served.read_timeout).await {
        Ok(request) => request,
        Err((status, message)) => return problem(status, &message),
    };
    let span = tracing::info_span!(
        target: "oneiric",
        "rotation.request",
        otel.name = span::REQUEST,
        otel.kind = "server",
        rotation = %request.rotation
    );
    // Without an exporter there is no trace to be part of.
    let _ = span.set_parent(trace_context::extract(&headers));
    let mut steps = span.in_scope(|| {
        log(&request, served.peer);
        served.runtime.rotate_with_progress(request)
    });
    ndjson(stream::poll_fn(move |context| steps.poll_recv(context)))
}

async fn status(State(served): State<Served>) -> Response {
    match state_of(&served.runtime).await {
        Some(status) => Json(status).into_response(),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "the runtime does not answer"),
    }
}

/// Tells what happens to cached secrets from now on.
async fn events(State(served): State<Served>) -> Response {
    let events = served.runtime.resolver().subscribe();
    let told = stream::unfold(events, |mut events| async {
        loop {
            match events.recv().await.map(WatchEvent::new) {
                Ok(Some(event)) => return Some((event, events)),
                Ok(None) => {}
                Err(RecvError::Lagged(missed)) => {
                    return Some((WatchEvent::Lagged { missed }, events));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    });
    ndjson(told.take_until(served.shutdown.cancelled_owned()))
}

async fn live() -> Response {
    Json(json!({ "status": "live" })).into_response()
}

async fn ready(State(served): State<Served>) -> Response {
    match state_of(&served.runtime).await {
        Some(_) => Json(json!({ "status": "ready" })).into_response(),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "the runtime does not answer"),
    }
}

async fn read_request(body: Body, limit: Duration) -> Result<RotateRequest, (StatusCode, String)> {
    let bytes = match timeout(limit, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error);
            let too_large = cause.is_some_and(<dyn std::error::Error>::is::<LengthLimitError>);
            return Err(if too_large {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {MAX_BODY} bytes"))
            } else {
                (StatusCode::BAD_REQUEST, "the body broke off".into())
            });
        }
        Err(_) => return Err((StatusCode::REQUEST_TIMEOUT, "the body took too long".into())),
    };
    RotateBody::parse(&bytes).map_err(|message| (StatusCode::BAD_REQUEST, message))
}

async fn state_of(runtime: &Runtime) -> Option<InstanceStatus> {
    timeout(STATUS_TIMEOUT, runtime.status()).await.ok()?.ok()
}

/// Each item as one line, sent as soon as it is there.
fn ndjson<T: Serialize>(items: impl Stream<Item = T> + Send + 'static) -> Response {
    let lines = items.map(|item| {
        let line = line(&item).expect("a report or an event can be written as JSON");
        Ok::<_, Infallible>(line)
    });
    let headers = [(CONTENT_TYPE, "application/x-ndjson"), (CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(lines)).into_response()
}

fn log(request: &RotateRequest, peer: Peer) {
    let (provider, keys, secrets) = match &request.scope {
        Scope::All => (None, None, None),
        Scope::Provider(provider) => (Some(provider), None, None),
        Scope::Keys(provider, keys) => (Some(provider), Some(keys), None),
        Scope::Secrets(references) => (None, None, Some(references)),
    };
    tracing::info!(
        target: "oneiric",
        %peer,
        provider = provider.map(tracing::field::display),
        keys = keys.map(tracing::field::debug),
        secrets = secrets.map(tracing::field::debug),
        count = keys.map(Vec::len).or(secrets.map(Vec::len)),
        mode = request.mode.token(),
        "a rotation is asked for"
    );
}
