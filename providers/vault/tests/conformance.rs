//! The conformance suite on a real OpenBao, for both versions of the key-value engine.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use oneiric_core::{Error, ErrorKind, Result, SecretKey, SecretProvider, SecretValue};
use oneiric_provider_vault::{Config, Kv};
use oneiric_testkit::live::OpenBao;
use oneiric_testkit::{Ability, Fault, Outcome, Rig, conformance};
use serde_json::json;

mod support;

use support::gate::{Gate, Mode};
use support::{ALL, Admin};

/// A store behind a gate, and a client with a token in a file.
struct VaultRig {
    _bao: OpenBao,
    admin: Admin,
    gate: Gate,
    kv: Kv,
    mount: &'static str,
    folder: tempfile::TempDir,
    token: Mutex<String>,
    /// What was deleted and comes back when it is mended.
    deleted: Mutex<Vec<(SecretKey, u64)>>,
}

impl VaultRig {
    async fn new(bao: OpenBao, kv: Kv) -> Self {
        let admin = Admin::new(&bao);
        let mount = match kv {
            Kv::V1 => "old/kv",
            Kv::V2 => "secret",
        };
        match kv {
            Kv::V1 => {
                let body = json!({ "type": "kv", "options": { "version": "1" } });
                admin.post("sys/mounts/old/kv", body).await;
            }
            // The suite makes more versions than are kept by default.
            Kv::V2 => _ = admin.post("secret/config", json!({ "max_versions": 100 })).await,
        }
        let gate = Gate::before(bao.port()).await;
        let (token, deleted) = Default::default();
        let folder = tempfile::tempdir().unwrap();
        let rig = Self { _bao: bao, admin, gate, kv, mount, folder, token, deleted };
        rig.allow(true).await;
        rig.new_token().await;
        rig
    }

    async fn allow(&self, all: bool) {
        let capabilities: &[&str] = if all { &ALL } else { &["deny"] };
        self.admin.policy("suite", &format!("{}/*", self.mount), capabilities).await;
    }

    async fn new_token(&self) {
        let token = self.admin.token("suite", "1h").await;
        support::write(self.folder.path(), "token", &format!("{token}\n"));
        *self.token.lock().unwrap() = token;
    }

    fn path(&self, room: &str, key: &SecretKey) -> String {
        match self.kv {
            Kv::V1 => format!("{}/{key}", self.mount),
            Kv::V2 => format!("{}/{room}/{key}", self.mount),
        }
    }

    async fn put_one(&self, key: &SecretKey, value: &SecretValue) -> Result<Option<String>> {
        let text = value.expose_str().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "a secret is JSON, and JSON has no bytes")
        })?;
        let data = json!({ "value": text });
        let body = if self.kv == Kv::V1 { data } else { json!({ "data": data }) };
        let answer = self.admin.post(&self.path("data", key), body).await;
        Ok(answer["data"]["version"].as_u64().map(|number| number.to_string()))
    }
}

#[async_trait]
impl Rig for VaultRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        let mut config = Config::new(self.gate.address());
        config.kv = self.kv;
        config.mount = self.mount.into();
        config.auth.token_file = Some(self.folder.path().join("token"));
        Arc::new(config.build().expect("the settings are valid"))
    }

    fn stages(&self) -> bool {
        false
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for (key, value) in secrets {
            ids.extend(self.put_one(key, value).await?);
        }
        Ok(ids)
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        self.admin.delete(&self.path("metadata", key)).await;
        Ok(())
    }

    async fn fault(&self, fault: Fault) -> Ability {
        match fault {
            Fault::Unreachable => self.gate.play(Mode::Closed),
            Fault::Hanging => self.gate.play(Mode::Hanging),
            Fault::Slow(latency) => self.gate.play(Mode::Slow(latency)),
            Fault::LostReply => self.gate.lose_a_reply(),
            Fault::Denied => self.allow(false).await,
            Fault::UnknownIdentity => {
                let token = std::mem::take(&mut *self.token.lock().unwrap());
                self.admin.revoke(&token).await;
            }
            // A quota of the server's own; it names no wait unless it is told to.
            Fault::Throttled { retry_after: None } => {
                self.admin.quota(&format!("{}/", self.mount), 0.001).await;
            }
            // What it would name depends on the moment, so the gate names it.
            Fault::Throttled { retry_after: Some(wait) } => {
                let head = format!("429 Too Many Requests\r\nRetry-After: {}", wait.as_secs());
                self.gate.play(Mode::Answering(head, String::new()));
            }
            Fault::Disabled(_) if self.kv == Kv::V1 => {
                return Ability::cannot("KV version 1 can only forget a secret");
            }
            Fault::Disabled(key) => {
                let answer = self.admin.get(&self.path("metadata", &key)).await;
                let current = answer["data"]["current_version"].as_u64().unwrap();
                self.admin.delete(&self.path("data", &key)).await;
                self.deleted.lock().unwrap().push((key, current));
            }
            Fault::Lagging => return Ability::cannot("there is one node, and it does not lag"),
            _ => return Ability::cannot("the server has no such thing"),
        }
        Ability::Done
    }

    async fn mend(&self) -> Result<()> {
        self.gate.mend();
        self.allow(true).await;
        self.admin.send(reqwest::Method::DELETE, "sys/quotas/rate-limit/suite", json!({})).await;
        let revoked = self.token.lock().unwrap().is_empty();
        if revoked {
            self.new_token().await;
        }
        let deleted = std::mem::take(&mut *self.deleted.lock().unwrap());
        for (key, number) in deleted {
            let body = json!({ "versions": [number] });
            self.admin.post(&self.path("undelete", &key), body).await;
        }
        Ok(())
    }
}

/// What neither version has: values that are no text, a second node that lags behind, change events
/// (of OpenBao), and common moments of several secrets.
const BOTH: [&str; 7] = [
    "bytes_that_are_no_text_are_kept_or_refused",
    "an_older_value_never_bears_a_newer_version",
    "a_change_is_announced",
    "a_lost_push_is_found_by_a_look",
    "a_doubled_push_is_a_hint_alone",
    "a_reordered_push_is_a_hint_alone",
    "a_set_is_of_one_moment",
];

/// Runs the suite; nothing but these may be skipped.
async fn holds_the_contract(suite: &str, kv: Kv, may_skip: impl Fn(&str) -> bool) {
    let Some(bao) = support::openbao(suite) else { return };
    let report = conformance(&VaultRig::new(bao, kv).await).await;
    report.assert_passed();
    let skipped = report.cases().filter(|(_, outcome)| matches!(outcome, Outcome::Skipped(_)));
    let mut skipped: Vec<&str> = skipped.map(|(name, _)| name).collect();
    let mut expected: Vec<&str> = report.cases().map(|(name, _)| name).collect();
    expected.retain(|name| BOTH.contains(name) || may_skip(name));
    skipped.sort_unstable();
    expected.sort_unstable();
    assert_eq!(skipped, expected);
}

/// A new version is current at once.
const RACE: &str = "of_two_promotions_one_is_a_conflict";

/// Of KV version 1 there is nothing to know but the value.
const NO_METADATA: [&str; 2] =
    ["what_is_known_is_not_sent_again", "a_disabled_current_version_is_said_so"];

/// KV version 1 cannot be written with a comparison, so it is not written.
const WRITES: [&str; 10] = [
    "a_token_makes_one_version",
    "a_value_over_the_limit_is_not_written",
    "a_new_version_waits_to_be_promoted",
    "a_promotion_compares_before_it_swaps",
    RACE,
    "a_disabled_version_is_refused_until_it_is_enabled",
    "a_destroyed_version_is_gone_for_good",
    "a_write_to_nothing_is_not_found",
    "a_lost_reply_is_ambiguous_and_a_repeat_is_no_second_write",
    "a_write_may_be_dropped_at_any_await",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kv_version_2_holds_the_contract() {
    holds_the_contract("vault-kv-2", Kv::V2, |case| case == RACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kv_version_1_holds_the_contract() {
    holds_the_contract("vault-kv-1", Kv::V1, |case| {
        NO_METADATA.contains(&case) || WRITES.contains(&case)
    })
    .await;
}
