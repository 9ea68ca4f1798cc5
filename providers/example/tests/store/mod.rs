//! A shelf in this process, with all that can go wrong with one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use oneiric_testkit::Fault;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The token that it knows.
pub const TOKEN: &str = "let-me-in";

#[derive(Default)]
pub struct Shelf(Mutex<Held>);

#[derive(Default)]
pub struct Held {
    /// The versions of each secret, the oldest first; the newest is the current one.
    pub secrets: BTreeMap<String, Vec<Laid>>,
    pub fault: Option<Fault>,
    /// How many versions each secret had when the shelf began to lag.
    pub seen: BTreeMap<String, usize>,
}

pub struct Laid {
    pub value: Vec<u8>,
    pub enabled: bool,
}

type Asked = Query<BTreeMap<String, String>>;

impl Shelf {
    /// Starts one, and says where it is.
    pub async fn start() -> (Arc<Self>, String) {
        let shelf = Arc::new(Self::default());
        let routes = Router::new()
            .route("/v1/secrets", get(list))
            .route("/v1/secret", get(secret))
            .route("/v1/versions", get(versions))
            .with_state(Arc::clone(&shelf));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        (shelf, url)
    }

    pub fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }

    /// Lets nobody in without the token, and plays what was told.
    async fn enter(&self, headers: &HeaderMap) -> Result<(), Response> {
        let token = headers.get("authorization").and_then(|value| value.to_str().ok());
        if token != Some(&format!("Bearer {TOKEN}")) {
            return Err(StatusCode::UNAUTHORIZED.into_response());
        }
        loop {
            let fault = self.held().fault.clone();
            return Err(match fault {
                Some(Fault::Unreachable) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                Some(Fault::Denied) => StatusCode::FORBIDDEN.into_response(),
                Some(Fault::UnknownIdentity) => StatusCode::UNAUTHORIZED.into_response(),
                Some(Fault::Throttled { retry_after: Some(wait) }) => {
                    let wait = wait.as_secs().to_string();
                    (StatusCode::TOO_MANY_REQUESTS, [("retry-after", wait)]).into_response()
                }
                Some(Fault::Throttled { retry_after: None }) => {
                    StatusCode::TOO_MANY_REQUESTS.into_response()
                }
                Some(Fault::Slow(wait)) => {
                    tokio::time::sleep(wait).await;
                    return Ok(());
                }
                Some(Fault::Hanging) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
                _ => return Ok(()),
            });
        }
    }
}

async fn list(State(shelf): State<Arc<Shelf>>, headers: HeaderMap) -> Result<Response, Response> {
    shelf.enter(&headers).await?;
    let keys: Vec<String> = shelf.held().secrets.keys().cloned().collect();
    Ok(Json(keys).into_response())
}

async fn secret(
    State(shelf): State<Arc<Shelf>>,
    Query(asked): Asked,
    headers: HeaderMap,
) -> Result<Response, Response> {
    shelf.enter(&headers).await?;
    let held = shelf.held();
    let none = || StatusCode::NOT_FOUND.into_response();
    let key = asked.get("key").ok_or_else(none)?;
    let laid = held.secrets.get(key).ok_or_else(none)?;
    let number = match asked.get("version") {
        Some(version) => version.parse().map_err(|_| none())?,
        None if held.fault == Some(Fault::Lagging) => *held.seen.get(key).ok_or_else(none)?,
        None => laid.len(),
    };
    let version = number.checked_sub(1).and_then(|at| laid.get(at)).ok_or_else(none)?;
    if !version.enabled {
        return Err(StatusCode::GONE.into_response());
    }
    Ok(([("shelf-version", number.to_string())], version.value.clone()).into_response())
}

async fn versions(
    State(shelf): State<Arc<Shelf>>,
    Query(asked): Asked,
    headers: HeaderMap,
) -> Result<Response, Response> {
    shelf.enter(&headers).await?;
    let held = shelf.held();
    let laid = asked.get("key").and_then(|key| held.secrets.get(key));
    let laid = laid.ok_or_else(|| StatusCode::NOT_FOUND.into_response())?;
    let line = |(at, version): (usize, &Laid)| json!({"version": at + 1, "enabled": version.enabled, "current": at + 1 == laid.len()});
    let lines: Vec<Value> = laid.iter().enumerate().map(line).collect();
    Ok(Json(lines).into_response())
}
