//! What the tests of this crate share: a private server, its administrator, a gate before it, and a
//! fake of the list.
#![expect(dead_code, reason = "no test uses all of it")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

pub(crate) mod fake;
pub(crate) mod gate;

use std::time::SystemTime;

use aws_sdk_secretsmanager::primitives::{DateTime, DateTimeFormat};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Request;
use http_body_util::Full;
use oneiric_core::SecretValue;
use oneiric_provider_aws::{Config, Push};
use oneiric_testkit::live::{Aws, AwsKind};
use serde_json::{Value, json};

/// A private server, or `None` where none can be had, which is said.
pub(crate) fn server(suite: &str, kind: AwsKind) -> Option<Aws> {
    match Aws::start(kind) {
        Ok(aws) => Some(aws),
        Err(why) => {
            oneiric_testkit::live::require(suite, &why);
            None
        }
    }
}

/// Settings for a server at this address.
pub(crate) fn config(aws: &Aws, address: &str) -> Config {
    let mut config = Config::default();
    config.region = Some(aws.region().into());
    config.credentials_file = Some(aws.credentials_file());
    config.endpoint = Some(address.into());
    config
}

/// Who sets things up there, with calls as they are on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admin {
    port: u16,
}

impl Admin {
    pub(crate) fn new(port: u16) -> Self {
        Self { port }
    }

    /// One call; an error is its code.
    pub(crate) async fn call(
        &self,
        service: &str,
        name: &str,
        body: Value,
    ) -> Result<Value, String> {
        let target = if service == "sqs" { "AmazonSQS" } else { "secretsmanager" };
        let scope = format!("x/20260101/eu-west-1/{service}/aws4_request");
        let request = Request::post("/")
            .header("host", format!("127.0.0.1:{}", self.port))
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", format!("{target}.{name}"))
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"),
            )
            .body(Full::new(body.to_string().into()))
            .unwrap();
        let (status, answer) = gate::forward(request, self.port).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        Err(answer["__type"].as_str().unwrap_or("no code").into())
    }

    pub(crate) async fn secrets(&self, name: &str, body: Value) -> Result<Value, String> {
        self.call("secretsmanager", name, body).await
    }

    /// Sets a secret and makes the version current; answers with its id.
    pub(crate) async fn put(&self, name: &str, value: &SecretValue) -> Result<String, String> {
        let (field, text) = match value.expose_str() {
            Some(text) => ("SecretString", text.to_owned()),
            None => ("SecretBinary", BASE64_STANDARD.encode(value.expose())),
        };
        let token: String = (0..36).map(|_| fastrand::alphanumeric()).collect();
        let made = json!({ "Name": name, "ClientRequestToken": token, field: text });
        let answer = match self.secrets("CreateSecret", made).await {
            Err(code) if code.contains("ResourceExistsException") => {
                let put = json!({ "SecretId": name, "ClientRequestToken": token, field: text });
                self.secrets("PutSecretValue", put).await?
            }
            made => made?,
        };
        // Of an empty value, moto makes no version.
        Ok(answer["VersionId"].as_str().ok_or("no version was made")?.to_owned())
    }

    pub(crate) async fn put_text(&self, name: &str, value: &str) -> String {
        self.put(name, &value.into()).await.unwrap()
    }

    pub(crate) async fn remove(&self, name: &str) {
        let gone = json!({ "SecretId": name, "ForceDeleteWithoutRecovery": true });
        let _ = self.secrets("DeleteSecret", gone).await;
    }

    /// A queue whose messages come again soon; answers with its URL.
    pub(crate) async fn queue(&self) -> String {
        let queue = json!({ "QueueName": "changes", "Attributes": { "VisibilityTimeout": "2" } });
        let answer = self.call("sqs", "CreateQueue", queue).await.unwrap();
        answer["QueueUrl"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn send(&self, queue: &str, body: &str) {
        let message = json!({ "QueueUrl": queue, "MessageBody": body });
        self.call("sqs", "SendMessage", message).await.unwrap();
    }

    /// How many messages wait there, those that somebody has taken included.
    pub(crate) async fn waiting(&self, queue: &str) -> u64 {
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let asked = json!({ "QueueUrl": queue, "AttributeNames": names });
        let answer = self.call("sqs", "GetQueueAttributes", asked).await.unwrap();
        let count =
            |name: &&str| answer["Attributes"][*name].as_str().unwrap().parse::<u64>().unwrap();
        names.iter().map(count).sum()
    }
}

/// A queue at this address.
pub(crate) fn push(queue: &str, address: &str) -> Push {
    let mut push = Push::new(queue);
    push.endpoint = Some(address.into());
    push
}

/// The event that Secrets Manager sends when a version becomes current, from its documentation.
pub(crate) fn event(name: &str, version: &str, label: &str) -> String {
    let now = DateTime::from(SystemTime::now());
    let now = DateTime::from_secs(now.secs()).fmt(DateTimeFormat::DateTime).unwrap();
    json!({
        "version": "0",
        "id": "d9d2b1f0-0000-4000-8000-000000000000",
        "detail-type": "Secret Label Updated",
        "source": "aws.secretsmanager",
        "time": now,
        "detail": { "name": name, "labelUpdated": label, "versionId": version },
    })
    .to_string()
}
