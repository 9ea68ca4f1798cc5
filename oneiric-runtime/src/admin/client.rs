//! The client of an admin endpoint.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::endpoint::Endpoint;
use super::wire::{REQUEST_HEADER, RotateBody, WatchEvent};
use super::{token, trace_context};
use crate::report::{InstanceReport, InstanceStatus, Outcome, Progress};
use crate::runtime::RotateRequest;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer that needs no work may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an instance may take until it begins to answer, before it counts as hung. It does so
/// before any work is done.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest line and the largest answer that is taken, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

type Cause = Box<dyn StdError + Send + Sync>;

/// A client of one admin endpoint. Every call has a connection of its own.
#[derive(Debug, Clone)]
pub struct AdminClient {
    endpoint: Endpoint,
    token_file: Option<PathBuf>,
}

/// Why an instance did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The request was not sent: nobody was there, or there is no token to send with it.
    #[error("no instance was reached at {endpoint}")]
    Unreached {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: Cause,
    },
    /// The instance answered that it will not. It has done nothing.
    #[error("the instance at {endpoint} refused with status {status}: {message}")]
    Refused {
        /// Where.
        endpoint: Endpoint,
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The request was sent, and what became of it is not known: the answer broke off, or had not
    /// ended by the deadline.
    #[error("what was asked of the instance at {endpoint} has no known end")]
    Ambiguous {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: Cause,
    },
}

impl ClientError {
    /// What it means for a rotation that was asked for.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Unreached { .. } => Outcome::Unreached,
            Self::Refused { .. } => Outcome::Failed,
            Self::Ambiguous { .. } => Outcome::Ambiguous,
        }
    }
}

impl AdminClient {
    /// A client without a token: enough for a unix socket.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, token_file: None }
    }

    /// The same with a token, read from this file for each request. On a unix socket none is
    /// sent.
    #[must_use]
    pub fn with_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// Whom it asks.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asks for a rotation, tells its course, and returns how it ended. The instance sees it as
    /// part of the current span's trace.
    ///
    /// Dropping the future does not stop the rotation.
    ///
    /// # Errors
    /// `Unreached` if it was not asked for, `Refused` if the instance refused to try, `Ambiguous`
    /// if the connection broke, or `deadline` passed, before its end was told.
    pub async fn rotate(
        &self,
        request: &RotateRequest,
        deadline: Instant,
        mut on_progress: impl FnMut(&Progress),
    ) -> Result<InstanceReport, ClientError> {
        let body = serde_json::to_vec(&RotateBody::from(request));
        let body = body.expect("a request to rotate can be written as JSON");
        let link = self.connect(deadline).await?;
        let course = async {
            let begun = self.send(link, Method::POST, "/v1/rotate", body);
            let mut answer = match timeout(BEGIN_TIMEOUT, begun).await {
                Ok(begun) => begun?,
                Err(_) => {
                    return Err(self.ambiguous("the instance hangs: it did not answer at all"));
                }
            };
            while let Some(line) = answer.line().await.map_err(|error| self.ambiguous(error))? {
                // A newer instance may tell of steps that have no name here yet.
                let Ok(step) = serde_json::from_slice::<Progress>(&line) else { continue };
                on_progress(&step);
                if let Progress::Finished(report) = step {
                    return Ok(report);
                }
            }
            Err(self.ambiguous("the connection ended before the rotation did"))
        };
        self.by(deadline, course).await
    }

    /// The state of the instance and its adapters.
    ///
    /// # Errors
    /// As [`ClientError`] says; `Ambiguous` is an answer that broke off or makes no sense.
    pub async fn status(&self) -> Result<InstanceStatus, ClientError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let link = self.connect(deadline).await?;
        let asked = async {
            let answer = self.send(link, Method::GET, "/v1/status", Vec::new()).await?;
            let bytes = answer.all().await.map_err(|error| self.ambiguous(error))?;
            serde_json::from_slice(&bytes).map_err(|error| self.ambiguous(error))
        };
        self.by(deadline, asked).await
    }

    /// What happens to cached secrets in the instance from now on. The stream ends when the
    /// instance does, or after an error.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn events(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, ClientError>>, ClientError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let link = self.connect(deadline).await?;
        let asked = self.send(link, Method::GET, "/v1/events", Vec::new());
        let answer = self.by(deadline, asked).await?;
        let told = stream::try_unfold((self.clone(), answer), |(client, mut answer)| async {
            while let Some(line) = answer.line().await.map_err(|error| client.ambiguous(error))? {
                // A newer instance may tell of events that have no name here yet.
                if let Ok(event) = serde_json::from_slice(&line) {
                    return Ok(Some((event, (client, answer))));
                }
            }
            Ok(None)
        });
        Ok(told.boxed())
    }

    /// Everything that can fail before a request is sent.
    async fn connect(&self, deadline: Instant) -> Result<Link, ClientError> {
        let linked = async {
            let authorization = self.authorization().await?;
            let (sender, driver) = match &self.endpoint {
                Endpoint::Unix(path) => handshake(UnixStream::connect(path).await?).await?,
                Endpoint::Tcp(address) => handshake(TcpStream::connect(address).await?).await?,
            };
            Ok::<_, Cause>(Link { sender, driver, authorization })
        };
        let deadline = deadline.min(Instant::now() + CONNECT_TIMEOUT);
        match timeout_at(deadline, linked).await {
            Ok(linked) => linked.map_err(|error| self.unreached(error)),
            Err(_) => Err(self.unreached("connecting took too long")),
        }
    }

    /// Sends a request and waits for the head of its answer.
    async fn send(
        &self,
        link: Link,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Answer, ClientError> {
        let Link { mut sender, driver, authorization } = link;
        let host = match &self.endpoint {
            Endpoint::Unix(_) => "localhost".to_owned(),
            Endpoint::Tcp(address) => address.to_string(),
        };
        let (name, value) = REQUEST_HEADER;
        let request = Request::builder().method(method).uri(path);
        let request = request.header(HOST, host).header(name, value).body(Full::from(body));
        let mut request = request.expect("a request of these parts is valid");
        trace_context::inject(request.headers_mut());
        if let Some(authorization) = authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        let response = sender.try_send_request(request).await.map_err(|mut failed| {
            // Given back, it was not sent.
            match failed.take_message() {
                Some(_) => self.unreached(failed.into_error()),
                None => self.ambiguous(failed.into_error()),
            }
        })?;
        let status = response.status();
        let body = response.into_body();
        let answer = Answer { body, buffer: BytesMut::new(), _sender: sender, _driver: driver };
        if status.is_success() { Ok(answer) } else { Err(self.refused(status, answer).await) }
    }

    /// The header with the token. On a unix socket the kernel says who asks.
    async fn authorization(&self) -> Result<Option<HeaderValue>, Cause> {
        let path = match (&self.endpoint, &self.token_file) {
            (Endpoint::Unix(_), _) => return Ok(None),
            (Endpoint::Tcp(_), Some(path)) => path.clone(),
            (Endpoint::Tcp(_), None) => return Err("a TCP endpoint needs a token file".into()),
        };
        let token = spawn_blocking(move || token::read(&path)).await?;
        let header = [b"Bearer ".as_slice(), token?.expose()].concat();
        let mut header = HeaderValue::try_from(header)?;
        header.set_sensitive(true);
        Ok(Some(header))
    }

    async fn by<T>(
        &self,
        deadline: Instant,
        asked: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let in_time = timeout_at(deadline, asked).await;
        in_time.unwrap_or_else(|_| Err(self.ambiguous("the answer had not ended by the deadline")))
    }

    async fn refused(&self, status: StatusCode, answer: Answer) -> ClientError {
        #[derive(Deserialize)]
        struct Problem {
            error: String,
        }
        let problem = answer.all().await.ok();
        let problem = problem.and_then(|body| serde_json::from_slice::<Problem>(&body).ok());
        let reason = || status.canonical_reason().unwrap_or("no reason").to_owned();
        ClientError::Refused {
            endpoint: self.endpoint.clone(),
            status: status.as_u16(),
            message: problem.map_or_else(reason, |problem| problem.error),
        }
    }

    fn unreached(&self, source: impl Into<Cause>) -> ClientError {
        ClientError::Unreached { endpoint: self.endpoint.clone(), source: source.into() }
    }

    fn ambiguous(&self, source: impl Into<Cause>) -> ClientError {
        ClientError::Ambiguous { endpoint: self.endpoint.clone(), source: source.into() }
    }
}

/// A connection on which nothing was sent yet.
struct Link {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortOnDropHandle<()>,
    authorization: Option<HeaderValue>,
}

/// The body of an answer, and the connection that it comes from.
struct Answer {
    body: Incoming,
    buffer: BytesMut,
    _sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl Answer {
    /// The next line, or `None` at the end. A line that breaks off is none.
    async fn line(&mut self) -> Result<Option<Bytes>, Cause> {
        let mut searched = 0;
        loop {
            let rest = &self.buffer[searched..];
            if let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                return Ok(Some(self.buffer.split_to(searched + end + 1).freeze()));
            }
            searched = self.buffer.len();
            if searched > MAX_ANSWER {
                return Err("a line of the answer is too long".into());
            }
            let Some(frame) = self.body.frame().await.transpose()? else { return Ok(None) };
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    async fn all(self) -> Result<Bytes, Cause> {
        Ok(Limited::new(self.body, MAX_ANSWER).collect().await?.to_bytes())
    }
}

async fn handshake<S>(stream: S) -> hyper::Result<(SendRequest<Full<Bytes>>, AbortOnDropHandle<()>)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // What breaks the connection is told to whoever waits for the answer.
    let driver = tokio::spawn(async { drop(connection.await) });
    Ok((sender, AbortOnDropHandle::new(driver)))
}
