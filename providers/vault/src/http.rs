//! The connection: one request, one answer, within a limit of time. It knows no tokens but those
//! that it is given.

use std::path::PathBuf;
use std::time::Duration;

use oneiric_core::settings::is_this_machine;
use oneiric_core::{Error, ErrorKind, Result, SecretValue};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Method, Response, Url};
use serde::Deserialize;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::config::Config;
use crate::error::{Call, Seen, failed, late};
use crate::nodes::{Nodes, may_go_on, share};
use crate::payload::MAX_BYTES;

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Says that the request is meant for the API, which proxies may ask for.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// The most bytes of an answer that are taken. JSON may need six for one of a value.
const MAX_ANSWER: usize = 6 * MAX_BYTES + 64 * 1024;

/// How often we let a standby send us elsewhere for one call.
const MAX_HOPS: u32 = 2;

/// The way to one server, or to the nodes of one cluster. The client is made by the first call.
#[derive(Debug)]
pub(crate) struct Http {
    nodes: Nodes,
    namespace: Option<HeaderValue>,
    ca_file: Option<PathBuf>,
    pub(crate) timeout: Duration,
    client: OnceCell<Client>,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    /// The path after `/v1`, in parts that are not yet escaped.
    pub(crate) path: Vec<&'a str>,
    pub(crate) query: Option<(&'static str, &'a str)>,
    pub(crate) body: Option<Body>,
    pub(crate) call: Call,
    /// What it is about, for errors.
    pub(crate) what: &'a str,
    pub(crate) deadline: Option<Instant>,
}

/// What is sent along.
pub(crate) struct Body {
    kind: &'static str,
    text: SecretValue,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind)
    }
}

impl Body {
    pub(crate) fn json(body: &impl serde::Serialize) -> Self {
        Self { kind: "application/json", text: text(body) }
    }

    /// Changes the named members alone.
    pub(crate) fn merge(body: &impl serde::Serialize) -> Self {
        Self { kind: "application/merge-patch+json", text: text(body) }
    }
}

fn text(body: &impl serde::Serialize) -> SecretValue {
    serde_json::to_vec(body).expect("what we send is JSON").into()
}

impl<'a> Ask<'a> {
    pub(crate) fn get(path: Vec<&'a str>, what: &'a str, deadline: Option<Instant>) -> Self {
        let (query, body) = (None, None);
        Self { method: Method::GET, path, query, body, call: Call::Read, what, deadline }
    }

    pub(crate) fn post(path: Vec<&'a str>, body: Body, call: Call, what: &'a str) -> Self {
        let (query, body) = (None, Some(body));
        Self { method: Method::POST, path, query, body, call, what, deadline: None }
    }
}

/// One answer, good or bad.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    retry_after: Option<Duration>,
    body: Zeroizing<Vec<u8>>,
}

/// What every answer of the server that is none of success may have.
#[derive(Deserialize)]
struct Refusal {
    errors: Vec<String>,
}

impl Reply {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Reads the body. What it says when it cannot could quote a value.
    pub(crate) fn read<'b, T: Deserialize<'b>>(&'b self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The failure that it is.
    pub(crate) fn failure(&self, ask: &Ask<'_>) -> Error {
        failed(self.seen(), ask.call, ask.what, &self.said())
    }

    /// What the server says in its own words.
    pub(crate) fn said(&self) -> Vec<String> {
        self.read::<Refusal>().map(|refusal| refusal.errors).unwrap_or_default()
    }

    fn seen(&self) -> Seen {
        let refusal = self.read::<Refusal>();
        Seen::Status {
            status: self.status,
            retry_after: self.retry_after,
            // A merge into what is not there is answered without a body.
            own: refusal.is_some() || (self.body.is_empty() && self.status == 404),
            explained: refusal.is_some_and(|refusal| !refusal.errors.is_empty()),
        }
    }
}

/// A call without an answer.
struct Broken {
    seen: Seen,
    said: Vec<String>,
}

impl From<Seen> for Broken {
    fn from(seen: Seen) -> Self {
        Self { seen, said: Vec::new() }
    }
}

impl Http {
    pub(crate) fn new(config: &Config, urls: Vec<Url>) -> Self {
        let namespace = config.namespace.as_deref().map(|namespace| {
            HeaderValue::from_str(namespace).expect("a namespace has only printable characters")
        });
        let (ca_file, timeout) = (config.ca_file.clone(), config.timeout);
        Self { nodes: Nodes::new(urls), namespace, ca_file, timeout, client: OnceCell::new() }
    }

    /// Sends a request with this token, and follows a standby to the one that answers. Where there
    /// are several nodes, the next one is asked where this one cannot answer and has done nothing
    /// that matters.
    pub(crate) async fn send(&self, ask: &Ask<'_>, token: Option<&SecretValue>) -> Result<Reply> {
        let longest = Instant::now() + self.timeout;
        let deadline = ask.deadline.map_or(longest, |deadline| deadline.min(longest));
        if deadline <= Instant::now() {
            return Err(late(ask.what));
        }
        // Nothing is sent before there is a client.
        let client = timeout_at(deadline, self.client.get_or_try_init(|| self.connect()));
        let client = client.await.map_err(|_| late(ask.what))??;
        let headers = self.headers(ask, token)?;
        let mut nodes_left = self.nodes.len();
        for (at, node) in self.nodes.in_turn() {
            let now = Instant::now();
            let until = now + share(deadline.saturating_duration_since(now), nodes_left, ask.call);
            nodes_left -= 1;
            let exchange = self.exchange(client, node, ask, &headers);
            let answer = timeout_at(until, exchange).await;
            let answer = answer.unwrap_or_else(|_| Err(Seen::Timeout.into()));
            let seen = match &answer {
                Ok(reply) if reply.is_success() => None,
                Ok(reply) => Some(reply.seen()),
                Err(broken) => Some(broken.seen),
            };
            let another = seen.is_some_and(|seen| may_go_on(seen, ask.call));
            if another && nodes_left > 0 && Instant::now() < deadline {
                continue;
            }
            match seen.is_some_and(|seen| may_go_on(seen, Call::Read)) {
                true if !another => self.nodes.leave(at),
                true => {}
                false => self.nodes.choose(at),
            }
            return answer.map_err(|Broken { seen, said }| failed(seen, ask.call, ask.what, &said));
        }
        Err(late(ask.what))
    }

    async fn exchange(
        &self,
        client: &Client,
        node: &Url,
        ask: &Ask<'_>,
        headers: &HeaderMap,
    ) -> Result<Reply, Broken> {
        let mut url = locate(node, ask);
        let mut hops = 0;
        loop {
            let request = client.request(ask.method.clone(), url.clone());
            let mut request = request.headers(headers.clone());
            if let Some(body) = &ask.body {
                request = request.header(CONTENT_TYPE, body.kind).body(body.text.expose().to_vec());
            }
            let mut answer = request.send().await.map_err(|error| broken(&error))?;
            match elsewhere(&answer, &url) {
                Some(other) if hops < MAX_HOPS => {
                    hops += 1;
                    url = other;
                }
                _ => return read(&mut answer).await,
            }
        }
    }

    fn headers(&self, ask: &Ask<'_>, token: Option<&SecretValue>) -> Result<HeaderMap> {
        let mut headers = HeaderMap::from_iter([(REQUEST, HeaderValue::from_static("true"))]);
        if let Some(namespace) = &self.namespace {
            headers.insert(NAMESPACE, namespace.clone());
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_bytes(token.expose()).map_err(|_| {
                let message = format!("the token for `{}` has characters that none has", ask.what);
                Error::new(ErrorKind::Unauthenticated, message)
            })?;
            value.set_sensitive(true);
            headers.insert(TOKEN, value);
        }
        Ok(headers)
    }

    async fn connect(&self) -> Result<Client> {
        provide_crypto();
        let mut client = Client::builder()
            .http1_only()
            // A redirection is followed here, since the token goes along.
            .redirect(Policy::none())
            // The resolver retries.
            .retry(reqwest::retry::never());
        if self.nodes.len() > 1 {
            // A node that takes no connection must not use up the time of all.
            client = client.connect_timeout(share(self.timeout, self.nodes.len(), Call::Read));
        }
        if self.nodes.all_plain() {
            // No certificate is looked at, so none need be there.
            client = client.tls_certs_only([]);
        } else if let Some(path) = &self.ca_file {
            let unusable = |what: &str| {
                let message = format!("`ca_file`, `{}`, {what}", path.display());
                Error::new(ErrorKind::Invalid, message)
            };
            let pem = tokio::fs::read(path).await.map_err(|_| unusable("cannot be read"))?;
            let certificates = Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|certificates| !certificates.is_empty());
            let certificates = certificates.ok_or_else(|| unusable("has no certificate in PEM"))?;
            client = client.tls_certs_only(certificates);
        }
        client.build().map_err(|error| {
            let message = "the client for HTTPS cannot be made";
            Error::with_source(ErrorKind::Unavailable, message, error)
        })
    }
}

fn locate(node: &Url, ask: &Ask<'_>) -> Url {
    let mut url = node.clone();
    url.path_segments_mut()
        .expect("an http address has a path")
        .pop_if_empty()
        .push("v1")
        .extend(&ask.path);
    if let Some((name, value)) = ask.query {
        url.query_pairs_mut().append_pair(name, value);
    }
    url
}

/// Where a standby sends us: to the same API of another server, and never from TLS to none, nor in
/// the clear to another machine.
fn elsewhere(answer: &Response, from: &Url) -> Option<Url> {
    if !matches!(answer.status().as_u16(), 307 | 308) {
        return None;
    }
    let location = answer.headers().get(LOCATION)?.to_str().ok()?;
    let to = from.join(location).ok()?;
    is_safe(from, &to).then_some(to)
}

/// Whether a token that goes to the one may go to the other.
fn is_safe(from: &Url, to: &Url) -> bool {
    match (from.scheme(), to.scheme()) {
        (_, "https") => true,
        ("http", "http") => to.host_str().is_some_and(is_this_machine),
        _ => false,
    }
}

async fn read(answer: &mut Response) -> Result<Reply, Broken> {
    let status = answer.status().as_u16();
    let seconds = answer.headers().get(RETRY_AFTER).and_then(|wait| wait.to_str().ok());
    let retry_after = seconds.and_then(|wait| wait.trim().parse().ok()).map(Duration::from_secs);
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = answer.chunk().await.map_err(|error| broken(&error))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Seen::TooLarge.into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, retry_after, body })
}

/// What a broken exchange means. Of its text only the innermost is kept, which speaks of sockets
/// and certificates.
fn broken(error: &reqwest::Error) -> Broken {
    let seen = match error {
        error if error.is_connect() => Seen::NoConnection,
        error if error.is_timeout() => Seen::Timeout,
        error if error.is_builder() => Seen::NoRequest,
        _ => Seen::Lost,
    };
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    Broken { seen, said: vec![innermost.to_string()] }
}

/// The choice of cryptography is the process's. Where nobody has chosen, it is ring.
fn provide_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Somebody else may have been quicker.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_is_sent_on_in_the_clear_to_another_machine() {
        let safe = |from: &str, to: &str| is_safe(&from.parse().unwrap(), &to.parse().unwrap());
        for from in ["http://127.0.0.1:8200", "https://vault:8200"] {
            assert!(safe(from, "https://vault-2:8200/v1/a"));
            assert!(!safe(from, "http://vault-2:8200/v1/a"), "{from}");
            assert!(!safe(from, "http://127.0.0.1.example/v1/a"), "{from}");
            assert!(!safe(from, "ftp://127.0.0.1/v1/a"), "{from}");
        }
        assert!(safe("http://127.0.0.1:8200", "http://[::1]:8200/v1/a"));
        assert!(!safe("https://vault:8200", "http://127.0.0.1:8200/v1/a"), "from TLS to none");
    }
}
