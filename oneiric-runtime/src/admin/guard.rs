//! Who may ask for what. Every request passes here before anything else is looked at.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, AUTHORIZATION, FORWARDED, HOST, VIA};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::token;
use super::wire::REQUEST_HEADER;

/// The time from one refusal to the next: what limits both guessing and the log.
const PACE: Duration = Duration::from_millis(100);
/// The host that is always right on the unix socket, where no name leads.
const LOCALHOST: &str = "localhost";

/// The rules that a request is held to.
#[derive(Debug)]
pub(super) struct Guard {
    hosts: Vec<String>,
    tokens: Option<Tokens>,
    refusing: Mutex<()>,
}

/// Where tokens are read from, anew for each request.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) admin: PathBuf,
    pub(super) read: Option<PathBuf>,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    /// A process of this user, attested by the kernel when it connected.
    Unix { uid: u32 },
    /// Anybody on this machine.
    Tcp,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    Read,
    Admin,
}

/// Why a request is refused.
enum Refusal {
    /// It may have been made by a tricked browser or server. The reason is told: it is in the
    /// manual.
    Forged(&'static str),
    /// Whoever asks may not. The reason is for the log alone.
    Unauthorised(String),
}

impl Guard {
    pub(super) fn new(hosts: Vec<String>, tokens: Option<Tokens>) -> Self {
        Self { hosts, tokens, refusing: Mutex::new(()) }
    }

    async fn admit(&self, peer: Peer, head: &Parts) -> Result<Right, Refusal> {
        self.check_origin(peer, head).map_err(Refusal::Forged)?;
        match peer {
            Peer::Unix { .. } => Ok(Right::Admin),
            Peer::Tcp => self.authenticate(&head.headers).await.map_err(Refusal::Unauthorised),
        }
    }

    /// Refuses what a browser on a foreign page, a proxy, or a server that fetches what it is
    /// told to could have sent.
    fn check_origin(&self, peer: Peer, head: &Parts) -> Result<(), &'static str> {
        let headers = &head.headers;
        let (name, value) = REQUEST_HEADER;
        if headers.get(name).is_none_or(|found| found != value) {
            return Err("the header `x-oneiric-request: 1` is missing");
        }
        if headers.contains_key("x-forwarded-for")
            || headers.contains_key(FORWARDED)
            || headers.contains_key(VIA)
        {
            return Err("the request came through a proxy");
        }
        if head.uri.authority().is_some() {
            return Err("the request is meant for a proxy");
        }
        let mut hosts = headers.get_all(HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => Authority::try_from(host.as_bytes()).ok(),
            _ => None,
        };
        let host = host.filter(|host| !host.as_str().contains('@'));
        let allowed = |host: &Authority| {
            let is = |allowed: &str| host.host().eq_ignore_ascii_case(allowed);
            self.hosts.iter().any(|allowed| is(allowed))
                || matches!(peer, Peer::Unix { .. }) && is(LOCALHOST)
        };
        if host.is_some_and(|host| allowed(&host)) {
            Ok(())
        } else {
            Err("the host is not allowed")
        }
    }

    /// What the token gives the right to, or why none. Both tokens are always compared.
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Right, String> {
        let tokens = self.tokens.as_ref().ok_or("there is no token to compare with")?;
        let presented = bearer(headers).ok_or("there is no token")?;
        let admin = is_token_in(&tokens.admin, presented).await;
        let read = match &tokens.read {
            Some(path) => is_token_in(path, presented).await,
            None => Ok(false),
        };
        match (admin, read) {
            (Ok(true), _) => Ok(Right::Admin),
            (_, Ok(true)) => Ok(Right::Read),
            (Err(error), _) | (_, Err(error)) => Err(error.chain()),
            (Ok(false), Ok(false)) => Err("the token is wrong".into()),
        }
    }

    /// Refuses, one at a time. Nothing that the caller sent is logged.
    async fn refuse(&self, peer: Peer, refusal: Refusal) -> Response {
        let _turn = self.refusing.lock().await;
        tokio::time::sleep(PACE).await;
        let (reason, response) = match refusal {
            Refusal::Forged(reason) => (reason.to_owned(), problem(StatusCode::FORBIDDEN, reason)),
            Refusal::Unauthorised(reason) => (reason, not_found()),
        };
        tracing::warn!(target: "oneiric", %peer, reason, "a request to the admin endpoint is refused");
        response
    }
}

impl Peer {
    /// Whether a process of this user may have the connection at all.
    pub(super) fn may_connect(self, own_uid: u32) -> bool {
        match self {
            Self::Unix { uid } => uid == own_uid || uid == 0,
            Self::Tcp => true,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid } => write!(f, "uid {uid}"),
            Self::Tcp => f.write_str("tcp"),
        }
    }
}

/// Lets a request in that keeps the rules, with the [`Right`] that its sender has.
pub(super) async fn admit(
    State((guard, peer)): State<(Arc<Guard>, Peer)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut head, body) = request.into_parts();
    match guard.admit(peer, &head).await {
        Ok(right) => {
            head.extensions.insert(right);
            let mut response = next.run(Request::from_parts(head, body)).await;
            // It would tell a route that is there from one that is not.
            response.headers_mut().remove(ALLOW);
            response
        }
        Err(refusal) => guard.refuse(peer, refusal).await,
    }
}

/// Lets only those pass who may change something.
pub(super) async fn require_admin(
    State((guard, peer)): State<(Arc<Guard>, Peer)>,
    Extension(right): Extension<Right>,
    request: Request,
    next: Next,
) -> Response {
    match right {
        Right::Admin => next.run(request).await,
        Right::Read => {
            let reason = "the token gives the right to read only".into();
            guard.refuse(peer, Refusal::Unauthorised(reason)).await
        }
    }
}

/// The one answer for what is not there, what may not be asked for, and whoever may not ask.
pub(super) fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "not found")
}

/// An answer that says why there is no other.
pub(super) fn problem(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

async fn is_token_in(path: &Path, presented: &[u8]) -> oneiric_core::Result<bool> {
    let path = path.to_owned();
    let read = spawn_blocking(move || token::read(&path)).await;
    let token = read.expect("reading a token does not panic")?;
    Ok(token::same(presented, &token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_user_and_root_connect() {
        for (uid, own, may) in [(7, 7, true), (0, 7, true), (8, 7, false), (7, 0, false)] {
            assert_eq!(Peer::Unix { uid }.may_connect(own), may, "{uid} to {own}");
        }
    }

    fn check(peer: Peer, uri: &str, headers: &[(&str, &str)]) -> Result<(), &'static str> {
        let hosts = ["localhost", "127.0.0.1", "[::1]", "oneiric.internal"].map(String::from);
        let mut request = http::Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        Guard::new(hosts.into(), None).check_origin(peer, &head)
    }

    #[test]
    fn hosts_are_those_of_the_list_with_any_port() {
        let header = ("x-oneiric-request", "1");
        for host in
            ["localhost", "LOCALHOST:80", "127.0.0.1:7676", "[::1]", "[::1]:1", "oneiric.internal"]
        {
            assert_eq!(check(Peer::Tcp, "/", &[header, ("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "evil.example:80",
            "user@localhost",
            "localhost@evil.example",
            "127.0.0.2",
            "::1",
        ] {
            let refused = check(Peer::Tcp, "/", &[header, ("host", host)]);
            assert_eq!(refused, Err("the host is not allowed"), "{host}");
        }
        let two = [header, ("host", "localhost"), ("host", "localhost")];
        check(Peer::Tcp, "/", &two).unwrap_err();
        check(Peer::Tcp, "/", &[header]).unwrap_err();
    }

    #[test]
    fn a_list_without_localhost_does_not_close_the_unix_socket() {
        let (head, ()) = http::Request::get("/")
            .header("x-oneiric-request", "1")
            .header("host", "localhost")
            .body(())
            .unwrap()
            .into_parts();
        let guard = Guard::new(Vec::new(), None);
        assert_eq!(guard.check_origin(Peer::Unix { uid: 7 }, &head), Ok(()));
        guard.check_origin(Peer::Tcp, &head).unwrap_err();
    }

    #[test]
    fn what_a_proxy_would_send_is_refused() {
        let good = [("x-oneiric-request", "1"), ("host", "localhost")];
        let unix = Peer::Unix { uid: 7 };
        assert_eq!(check(unix, "/v1/status", &good), Ok(()));
        for name in ["x-forwarded-for", "forwarded", "via"] {
            let headers = [good[0], good[1], (name, "")];
            assert_eq!(check(unix, "/", &headers), Err("the request came through a proxy"));
        }
        check(unix, "http://localhost/v1/status", &good).unwrap_err();
        check(unix, "/", &[good[1]]).unwrap_err();
        check(unix, "/", &[("x-oneiric-request", "0"), good[1]]).unwrap_err();
    }

    #[test]
    fn a_token_is_taken_from_one_bearer_header() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(of(&["Bearer abc"]), Some(b"abc".to_vec()));
        assert_eq!(of(&["bearer abc"]), Some(b"abc".to_vec()));
        for values in [&[][..], &["abc"], &["Basic abc"], &["Bearer"], &["Bearer a", "Bearer b"]] {
            assert_eq!(of(values), None, "{values:?}");
        }
    }
}
