//! Answers: JSON, and errors in the form of `google.rpc.Status`.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::fault::Retry;

/// What is sent back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) retry_after: Option<u64>,
    /// A page of something in between, instead of JSON.
    pub(crate) page: bool,
}

impl Reply {
    pub(crate) fn ok(body: Value) -> Self {
        Self { status: 200, body, retry_after: None, page: false }
    }

    pub(crate) fn error(status: u16, code: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let body = json!({"error": {"code": status, "message": message, "status": code}});
        Self { status, body, retry_after: None, page: false }
    }

    pub(crate) fn page(status: u16) -> Self {
        Self { status, body: Value::Null, retry_after: None, page: true }
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::error(404, "NOT_FOUND", format!("Secret [{what}] not found or has no versions."))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::error(400, "INVALID_ARGUMENT", message)
    }

    pub(crate) fn failed_precondition(message: impl Into<String>) -> Self {
        Self::error(400, "FAILED_PRECONDITION", message)
    }

    /// Says how long to wait.
    pub(crate) fn retry(mut self, retry: Option<Retry>) -> Self {
        match retry {
            None => {}
            Some(Retry::Header(wait)) => self.retry_after = Some(wait.as_secs()),
            Some(Retry::Info(wait)) => {
                self.body["error"]["details"] = json!([{
                    "@type": "type.googleapis.com/google.rpc.RetryInfo",
                    "retryDelay": format!("{}.{:09}s", wait.as_secs(), wait.subsec_nanos()),
                }]);
            }
        }
        self
    }

    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::IM_A_TEAPOT);
        let mut response = Response::builder().status(status);
        if let Some(seconds) = self.retry_after {
            response = response.header(header::RETRY_AFTER, seconds);
        }
        let (kind, body) = if self.page {
            ("text/html", "<html><body>something in between</body></html>".to_owned())
        } else {
            ("application/json; charset=UTF-8", self.body.to_string())
        };
        let response = response.header(header::CONTENT_TYPE, kind).body(Full::new(body.into()));
        response.expect("the parts are valid")
    }
}
