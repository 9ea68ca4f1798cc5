//! What the tests of this crate share: a real OpenBao, its administrator, and a gate before it.
#![expect(dead_code, reason = "no test uses all of it")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

pub(crate) mod gate;
pub(crate) mod lender;

use std::path::{Path, PathBuf};

use oneiric_provider_vault::{Auth, Config};
use oneiric_testkit::live::OpenBao;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

/// A private OpenBao, or `None` where none can be had, which is said.
pub(crate) fn openbao(suite: &str) -> Option<OpenBao> {
    match OpenBao::start() {
        Ok(bao) => Some(bao),
        Err(why) => {
            oneiric_testkit::live::require(suite, &why);
            None
        }
    }
}

/// Who may do everything there.
pub(crate) struct Admin {
    client: Client,
    base: String,
    root_token: String,
}

impl Admin {
    pub(crate) fn new(bao: &OpenBao) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        Self { client, base: format!("{}/v1", bao.address()), root_token: bao.root_token().into() }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let request = self.client.request(method, format!("{}/{path}", self.base));
        let request = request.header("X-Vault-Token", &self.root_token).json(&body);
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, answer.json().await.unwrap_or_default())
    }

    /// Changes something, which must be possible.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.send(Method::POST, path, body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.send(Method::GET, path, json!({})).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    pub(crate) async fn delete(&self, path: &str) {
        let (status, answer) = self.send(Method::DELETE, path, json!({})).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
    }

    /// Sets a policy that allows all of this on a path, or nothing at all.
    pub(crate) async fn policy(&self, name: &str, path: &str, capabilities: &[&str]) {
        let rule = json!({ "path": { path: { "capabilities": capabilities } } });
        let body = json!({ "policy": rule.to_string() });
        self.post(&format!("sys/policies/acl/{name}"), body).await;
    }

    /// A token with this policy that lives so long.
    pub(crate) async fn token(&self, policy: &str, ttl: &str) -> String {
        let body = json!({ "policies": [policy], "ttl": ttl });
        let answer = self.post("auth/token/create", body).await;
        answer["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn revoke(&self, token: &str) {
        self.post("auth/token/revoke", json!({ "token": token })).await;
    }

    /// Sets a secret of KV version 2 at `secret/`, and answers with its version.
    pub(crate) async fn put(&self, key: &str, data: Value) -> u64 {
        let answer = self.post(&format!("secret/data/{key}"), json!({ "data": data })).await;
        answer["data"]["version"].as_u64().unwrap()
    }

    /// Limits the requests below a path to so many a second.
    pub(crate) async fn quota(&self, path: &str, rate: f64) {
        let body = json!({ "path": path, "rate": rate, "interval": "1s" });
        self.post("sys/quotas/rate-limit/suite", body).await;
        for _ in 0..200 {
            let (status, _) = self.send(Method::GET, &format!("{path}none"), json!({})).await;
            if status == StatusCode::TOO_MANY_REQUESTS {
                return;
            }
        }
        panic!("the quota is not kept");
    }
}

/// All that a client may do with secrets.
pub(crate) const ALL: [&str; 6] = ["create", "read", "update", "patch", "delete", "list"];

/// Settings for a server with a token.
pub(crate) fn with_token(address: &str, token: &str) -> Config {
    let mut config = Config::new(address);
    config.auth.token = Some(token.into());
    config
}

/// Settings for a server with another login.
pub(crate) fn with_auth(address: &str, auth: &str) -> Config {
    let auth: Auth = toml::from_str(auth).unwrap();
    let mut config = Config::new(address);
    config.auth = auth;
    config
}

/// Writes a file as it should be done: beside, and then in one step.
pub(crate) fn write(dir: &Path, name: &str, content: &str) -> PathBuf {
    let (new, path) = (dir.join(".new"), dir.join(name));
    std::fs::write(&new, content).unwrap();
    std::fs::rename(&new, &path).unwrap();
    path
}
