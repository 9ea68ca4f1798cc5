//! Leases of a real database engine: taken once, renewed, replaced before they end, and given back.

mod static_roles;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use oneiric_core::{Change, ErrorKind, FetchRequest, Fetched, SecretProvider, Stamp};
use oneiric_provider_vault::{Config, Engine, VaultProvider};
use oneiric_testkit::live::{OpenBao, Postgres};
use reqwest::Method;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::support::gate::{Gate, Mode};
use crate::support::lender::Lender;
use crate::support::{Admin, openbao, with_token};
use crate::{key, refused};

/// The servers, and what was read of them.
struct Engines {
    bao: OpenBao,
    postgres: Postgres,
    admin: Admin,
}

const MAKE: &str =
    "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";

impl Engines {
    async fn start(suite: &str) -> Option<Self> {
        let (bao, postgres) = servers(suite).await?;
        let port = postgres.port();
        Some(Self::join(bao, postgres, port).await)
    }

    /// The same with a gate between the two servers.
    async fn apart(suite: &str) -> Option<(Self, Gate)> {
        let (bao, postgres) = servers(suite).await?;
        let gate = Gate::before(postgres.port()).await;
        let port = gate.port();
        Some((Self::join(bao, postgres, port).await, gate))
    }

    /// Has the one make roles of the other, which it finds at this port.
    async fn join(bao: OpenBao, postgres: Postgres, port: u16) -> Self {
        let admin = Admin::new(&bao);
        admin.post("sys/mounts/database", json!({ "type": "database" })).await;
        let url = format!(
            "postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{port}/postgres?sslmode=disable"
        );
        let connection = json!({
            "plugin_name": "postgresql-database-plugin", "allowed_roles": "*",
            "connection_url": url, "username": "admin", "password": postgres.admin_password(),
        });
        admin.post("database/config/pg", connection).await;
        Self { bao, postgres, admin }
    }

    async fn role(&self, name: &str, ttl: &str, max_ttl: &str) {
        let role = json!({
            "db_name": "pg", "creation_statements": [MAKE],
            "default_ttl": ttl, "max_ttl": max_ttl,
        });
        self.admin.post(&format!("database/roles/{name}"), role).await;
    }

    /// The roles of leases that the database has.
    fn users(&self) -> Vec<String> {
        let rows = self.postgres.psql("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'");
        rows.unwrap().lines().map(str::to_owned).collect()
    }

    /// The leases of a role that the server has.
    async fn leases(&self, role: &str) -> Vec<String> {
        let path = format!("sys/leases/lookup/database/creds/{role}");
        let method = Method::from_bytes(b"LIST").unwrap();
        let (_, answer) = self.admin.send(method, &path, json!({})).await;
        let keys = answer["data"]["keys"].as_array().cloned().unwrap_or_default();
        keys.iter().map(|key| key.as_str().unwrap().to_owned()).collect()
    }
}

async fn servers(suite: &str) -> Option<(OpenBao, Postgres)> {
    let bao = openbao(suite)?;
    match tokio::task::spawn_blocking(Postgres::start).await.unwrap() {
        Ok(postgres) => Some((bao, postgres)),
        Err(why) => {
            oneiric_testkit::live::require(suite, &why);
            None
        }
    }
}

fn leased(address: &str, token: &str) -> Config {
    let mut config = with_token(address, token);
    config.engine = Engine::Leases;
    config
}

async fn fetched(provider: &VaultProvider, name: &str) -> Fetched {
    let fetched = provider.fetch(&FetchRequest::new(key(name))).await;
    fetched.unwrap_or_else(|error| panic!("{name}: {}", error.chain()))
}

fn id(fetched: &Fetched) -> String {
    fetched.version.id().into_owned()
}

fn user(fetched: &Fetched) -> String {
    let json: serde_json::Value = serde_json::from_slice(fetched.value.expose()).unwrap();
    json["username"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_lease_is_taken_for_all_and_given_back() {
    let Some(engines) = Engines::start("vault-leases").await else { return };
    engines.role("app", "1h", "2h").await;
    let provider = leased(&engines.bao.address(), engines.bao.root_token()).build().unwrap();
    assert_eq!(
        provider.stamps(&[key("creds/app")]).await[0].as_ref().unwrap_err().kind(),
        ErrorKind::NotFound,
        "a look takes no lease"
    );
    let all = join_all((0..30).map(|_| fetched(&provider, "creds/app"))).await;
    assert_eq!(engines.leases("app").await, [id(&all[0])]);
    assert_eq!(engines.users(), [user(&all[0])]);
    assert!(all.iter().all(|of| of.version == all[0].version));
    let left = all[0].expires_at.unwrap().duration_since(std::time::SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(3590) && left <= Duration::from_secs(3600), "{left:?}");
    let stamp = provider.stamps(&[key("creds/app")]).await.pop().unwrap().unwrap();
    assert_eq!(all[0].stamp.as_ref(), Some(&stamp));
    let pinned = FetchRequest::new(key("creds/app")).at_version(id(&all[0]));
    assert_eq!(provider.fetch(&pinned).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(refused(&provider, "creds/nobody").await, ErrorKind::Invalid);
    // What comes without a lease is no credential.
    assert_eq!(refused(&provider, "roles/app").await, ErrorKind::Invalid);
    let debug = format!("{provider:?} {all:?}");
    let password: serde_json::Value = serde_json::from_slice(all[0].value.expose()).unwrap();
    assert!(!debug.contains(password["password"].as_str().unwrap()), "{debug}");

    assert!(provider.release(Instant::now() + Duration::from_secs(30)).await);
    assert_eq!(engines.leases("app").await.len(), 0);
    assert_eq!(engines.users().len(), 0);
    assert_eq!(refused(&provider, "creds/app").await, ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_while_it_may_be_and_replaced_before_its_utmost_end() {
    let Some(engines) = Engines::start("vault-lease-life").await else { return };
    engines.role("app", "3s", "7s").await;
    let provider = leased(&engines.bao.address(), engines.bao.root_token()).build().unwrap();
    let mut changes = provider.changes().unwrap();
    let first = fetched(&provider, "creds/app").await;
    let started = Instant::now();
    let told = timeout(Duration::from_secs(20), changes.next()).await.unwrap().unwrap();
    let took = started.elapsed();
    assert!(took > Duration::from_secs(3), "it was renewed: {took:?}");
    assert!(took < Duration::from_secs(7), "it was replaced before its end: {took:?}");
    let second = fetched(&provider, "creds/app").await;
    let named = Change::Secret { key: key("creds/app"), version: Some(second.version.clone()) };
    assert_eq!(told, named);
    assert_ne!(first.version, second.version);
    assert_eq!(engines.users().len(), 2, "the old one lives for those who still use it");
}

/// A provider by a token that is taken from a file, with the file.
struct ByFile {
    provider: VaultProvider,
    folder: tempfile::TempDir,
}

impl ByFile {
    async fn new(engines: &Engines, address: &str, overlap: Duration) -> Self {
        engines.admin.policy("all", "*", &["read", "update"]).await;
        let folder = tempfile::tempdir().unwrap();
        let token = engines.admin.token("all", "1h").await;
        let file = crate::support::write(folder.path(), "token", &token);
        let mut config = Config::new(address);
        config.engine = Engine::Leases;
        config.lease_overlap = overlap;
        config.auth.token_file = Some(file);
        Self { provider: config.build().unwrap(), folder }
    }

    /// Puts another token into the file, by which every lease has a successor long before its own
    /// end and that of the token that it was taken by.
    async fn supersede(&self, engines: &Engines) {
        let mut changes = self.provider.changes().unwrap();
        let token = engines.admin.token("all", "1h").await;
        crate::support::write(self.folder.path(), "token", &token);
        let told = async {
            // The file is looked at by whoever needs a token.
            let _ = self.provider.stamps(&[key("creds/app")]).await;
            changes.next().await
        };
        timeout(Duration::from_secs(20), told).await.unwrap().unwrap();
    }
}

/// Waits until the server has no lease but this one, which no lease of an hour does by itself.
async fn alone(engines: &Engines, lease: &Fetched) {
    let alone = async {
        while engines.leases("app").await != [id(lease)] {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), alone).await.unwrap();
    assert_eq!(engines.users(), [user(lease)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_superseded_lease_is_revoked_when_its_overlap_is_over() {
    let Some(engines) = Engines::start("vault-lease-overlap").await else { return };
    engines.role("app", "1h", "2h").await;
    let overlap = Duration::from_secs(2);
    let by_file = ByFile::new(&engines, &engines.bao.address(), overlap).await;
    let first = fetched(&by_file.provider, "creds/app").await;
    let superseded = Instant::now();
    by_file.supersede(&engines).await;
    let second = fetched(&by_file.provider, "creds/app").await;
    assert_ne!(first.version, second.version);
    alone(&engines, &second).await;
    assert!(superseded.elapsed() >= overlap);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_token_written_again_replaces_no_lease() {
    let Some(engines) = Engines::start("vault-lease-same-token").await else { return };
    engines.role("app", "1h", "2h").await;
    let by_file = ByFile::new(&engines, &engines.bao.address(), Duration::from_secs(600)).await;
    let mut changes = by_file.provider.changes().unwrap();
    let first = fetched(&by_file.provider, "creds/app").await;
    let file = by_file.folder.path().join("token");
    let token = std::fs::read_to_string(&file).unwrap();
    // A file of another name that takes its place is another file, whatever is in it.
    for text in [format!("{token}\n"), token] {
        crate::support::write(by_file.folder.path(), "new", &text);
        std::fs::rename(by_file.folder.path().join("new"), &file).unwrap();
        assert_eq!(fetched(&by_file.provider, "creds/app").await.version, first.version);
    }
    let news = timeout(Duration::from_secs(1), changes.next()).await;
    assert!(news.is_err(), "{news:?}");
    by_file.supersede(&engines).await;
    assert_ne!(fetched(&by_file.provider, "creds/app").await.version, first.version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_serves_although_it_may_not_be_looked_up() {
    let Some(engines) = Engines::start("vault-lease-unseen").await else { return };
    engines.role("app", "1h", "2h").await;
    let policy = async |lookup: &str| {
        let rules = json!({ "path": {
            "database/creds/*": { "capabilities": ["read"] },
            "sys/leases/lookup": { "capabilities": [lookup] },
        } });
        engines.admin.post("sys/policies/acl/app", json!({ "policy": rules.to_string() })).await;
    };
    policy("deny").await;
    let token = engines.admin.token("app", "1h").await;
    let provider = leased(&engines.bao.address(), &token).build().unwrap();
    let look = async || provider.stamps(&[key("creds/app")]).await.pop().unwrap();
    let first = fetched(&provider, "creds/app").await;
    assert_eq!(fetched(&provider, "creds/app").await.version, first.version);
    assert_eq!(look().await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(engines.leases("app").await, [id(&first)]);
    // What is taken away is another thing than what was never given.
    policy("update").await;
    look().await.unwrap();
    policy("deny").await;
    assert_eq!(refused(&provider, "creds/app").await, ErrorKind::Denied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_fails_is_tried_again() {
    let Some((engines, database)) = Engines::apart("vault-lease-unrevoked").await else { return };
    engines.role("app", "1h", "2h").await;
    let gate = Gate::before(engines.bao.port()).await;
    let by_file = ByFile::new(&engines, &gate.address(), Duration::from_secs(1)).await;
    fetched(&by_file.provider, "creds/app").await;
    by_file.supersede(&engines).await;
    let second = fetched(&by_file.provider, "creds/app").await;
    database.play(Mode::Closed);
    failing(&gate).await;
    assert_eq!(engines.leases("app").await.len(), 2);
    database.mend();
    alone(&engines, &second).await;

    // And so it is at the end, until the deadline.
    database.play(Mode::Closed);
    let deadline = Instant::now() + Duration::from_secs(30);
    let (released, ()) = tokio::join!(by_file.provider.release(deadline), async {
        failing(&gate).await;
        database.mend();
    });
    assert!(released);
    assert!(Instant::now() < deadline);
    assert_eq!(engines.leases("app").await.len(), 0);
    assert_eq!(engines.users().len(), 0);
}

/// Waits for some requests, which are all the same where nothing else is to be done.
async fn failing(gate: &Gate) {
    let asked = gate.requests();
    let failing = async {
        while gate.requests() < asked + 4 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), failing).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_watches_is_renewed_and_then_left_to_end() {
    let Some(engines) = Engines::start("vault-lease-unwatched").await else { return };
    engines.role("app", "6s", "15s").await;
    let provider = leased(&engines.bao.address(), engines.bao.root_token()).build().unwrap();
    let first = fetched(&provider, "creds/app").await;
    // It is renewed at 4 and at 8 s, and at 12 s for less than was asked for.
    sleep(Duration::from_secs(7)).await;
    assert_eq!(fetched(&provider, "creds/app").await.version, first.version, "it was renewed");
    let ended = async {
        loop {
            let leases = engines.leases("app").await;
            if leases.is_empty() {
                return;
            }
            assert_eq!(leases, [id(&first)], "no successor was taken for nobody");
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(60), ended).await.unwrap();
    assert_ne!(fetched(&provider, "creds/app").await.version, first.version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_was_revoked_is_noticed_by_a_look_a_read_and_a_renewal() {
    let Some(engines) = Engines::start("vault-lease-revoked").await else { return };
    engines.role("app", "3s", "1h").await;
    let provider = leased(&engines.bao.address(), engines.bao.root_token()).build().unwrap();
    let revoke = |of: &Fetched| {
        let id = format!("database/creds/app/{}", of.version);
        engines.bao.bao(&["lease", "revoke", "-sync", &id]).unwrap();
    };
    let first = fetched(&provider, "creds/app").await;
    revoke(&first);
    let stamp = provider.stamps(&[key("creds/app")]).await.pop().unwrap().unwrap();
    assert_ne!(first.stamp, Some(stamp), "a look shows it");
    let second = fetched(&provider, "creds/app").await;
    assert_ne!(first.version, second.version);
    revoke(&second);
    let third = fetched(&provider, "creds/app").await;
    assert_ne!(second.version, third.version, "a read shows it");
    let mut changes = provider.changes().unwrap();
    revoke(&third);
    let told = timeout(Duration::from_secs(3), changes.next()).await.unwrap().unwrap();
    let fourth = fetched(&provider, "creds/app").await;
    assert_ne!(third.version, fourth.version, "the renewal showed it");
    let named = Change::Secret { key: key("creds/app"), version: Some(fourth.version) };
    assert_eq!(told, named);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_takes_no_lease_that_lives() {
    let Some(engines) = Engines::start("vault-lease-away").await else { return };
    engines.role("app", "6s", "1h").await;
    let gate = Gate::before(engines.bao.port()).await;
    let provider = leased(&gate.address(), engines.bao.root_token()).build().unwrap();
    let mut changes = provider.changes().unwrap();
    let first = fetched(&provider, "creds/app").await;
    // It is away when the lease is to be renewed, and back before that ends.
    sleep(Duration::from_millis(3000)).await;
    gate.play(Mode::Closed);
    sleep(Duration::from_millis(2200)).await;
    assert_eq!(refused(&provider, "creds/app").await, ErrorKind::Unavailable);
    gate.mend();
    sleep(Duration::from_millis(3000)).await;
    let again = fetched(&provider, "creds/app").await;
    assert_eq!(first.version, again.version, "it was renewed at last");
    // It is away for longer than the lease lives: then there is another one, without being asked.
    gate.play(Mode::Closed);
    sleep(Duration::from_secs(8)).await;
    gate.mend();
    timeout(Duration::from_secs(5), changes.next()).await.unwrap().unwrap();
    assert_ne!(fetched(&provider, "creds/app").await.version, first.version);
}

/// What a renewal answers then is what it answers of a lease that is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_takes_no_lease_that_lives() {
    let Some((engines, database)) = Engines::apart("vault-lease-database").await else { return };
    engines.role("app", "15s", "1h").await;
    let gate = Gate::before(engines.bao.port()).await;
    let provider = leased(&gate.address(), engines.bao.root_token()).build().unwrap();
    let mut changes = provider.changes().unwrap();
    let first = fetched(&provider, "creds/app").await;
    database.play(Mode::Closed);
    // The token was looked at by now, so what comes next is the renewal, and then the look.
    sleep(Duration::from_secs(2)).await;
    let asked = gate.requests();
    let refused = async {
        while gate.requests() < asked + 3 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(12), refused).await.unwrap();
    assert_eq!(fetched(&provider, "creds/app").await.version, first.version);
    database.mend();
    let renewed = async {
        let ends = first.expires_at.unwrap();
        while fetched(&provider, "creds/app").await.expires_at.unwrap() <= ends {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), renewed).await.unwrap();
    assert_eq!(fetched(&provider, "creds/app").await.version, first.version, "it was renewed");
    assert!(timeout(Duration::ZERO, changes.next()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_has_ended_when_the_server_says_so_and_not_for_another_refusal() {
    let lender = Lender::start("token").await;
    lender.set("database/creds/app", Some("one"));
    let gate = Gate::before(lender.port()).await;
    let provider = leased(&gate.address(), "token").build().unwrap();
    let first = fetched(&provider, "creds/app").await;
    for said in [r#"{"errors":["failed to read lease entry"]}"#, r#"{"errors":[]}"#, "", "invalid"]
    {
        gate.play(Mode::Answering("400 Bad Request".into(), said.into()));
        let look = provider.stamps(&[key("creds/app")]).await.pop().unwrap();
        assert_eq!(look.unwrap_err().kind(), ErrorKind::Unavailable, "{said}");
        assert_eq!(refused(&provider, "creds/app").await, ErrorKind::Unavailable, "{said}");
        gate.mend();
        assert_eq!(fetched(&provider, "creds/app").await.version, first.version, "{said}");
    }
    lender.set("database/creds/app", Some("two"));
    assert_ne!(fetched(&provider, "creds/app").await.version, first.version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_waiting_loses_no_lease() {
    let Some(engines) = Engines::start("vault-lease-dropped").await else { return };
    engines.role("app", "1h", "2h").await;
    let gate = Gate::before(engines.bao.port()).await;
    let provider = Arc::new(leased(&gate.address(), engines.bao.root_token()).build().unwrap());
    gate.play(Mode::Slow(Duration::from_millis(300)));
    let mut request = FetchRequest::new(key("creds/app"));
    request.deadline = Some(Instant::now() + Duration::from_millis(50));
    let late = provider.fetch(&request).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
    sleep(Duration::from_millis(600)).await;
    gate.mend();
    let lease = fetched(&provider, "creds/app").await;
    assert_eq!(engines.leases("app").await, [id(&lease)], "the one that was on its way");

    // What arrives when nobody is there any more is given back.
    let provider = leased(&gate.address(), engines.bao.root_token()).build().unwrap();
    gate.play(Mode::Slow(Duration::from_millis(300)));
    let dropped = timeout(Duration::from_millis(100), fetched(&provider, "creds/app")).await;
    assert!(dropped.is_err());
    drop(provider);
    let given_back = async {
        sleep(Duration::from_millis(300)).await;
        while engines.leases("app").await.len() > 1 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(5), given_back).await.unwrap();
}

/// A provider with a login whose tokens live so long. It may revoke no lease.
async fn by_login(
    engines: &Engines,
    address: &str,
    ttl: &str,
    max_ttl: &str,
    dir: &Path,
) -> VaultProvider {
    let admin = &engines.admin;
    let rules = json!({ "path": {
        "database/creds/*": { "capabilities": ["read"] },
        "auth/token/revoke-self": { "capabilities": ["update"] },
    } });
    admin.post("sys/policies/acl/app", json!({ "policy": rules.to_string() })).await;
    admin.post("sys/auth/approle", json!({ "type": "approle" })).await;
    let role = json!({ "token_policies": "app", "token_ttl": ttl, "token_max_ttl": max_ttl });
    admin.post("auth/approle/role/app", role).await;
    let role_id = admin.get("auth/approle/role/app/role-id").await;
    let secret_id = admin.post("auth/approle/role/app/secret-id", json!({})).await;
    let text = secret_id["data"]["secret_id"].as_str().unwrap();
    let file = crate::support::write(dir, "secret-id", text);
    let mut config = crate::support::with_auth(
        address,
        &format!(
            "[approle]\nrole_id = '{}'\nsecret_id_file = '{}'",
            role_id["data"]["role_id"].as_str().unwrap(),
            file.display()
        ),
    );
    config.engine = Engine::Leases;
    config.build().unwrap()
}

/// A lease ends with the token that it was taken by, so it is replaced when that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_does_not_outlive_its_token_and_is_replaced_with_it() {
    let Some(engines) = Engines::start("vault-lease-token").await else { return };
    engines.role("app", "1h", "2h").await;
    let dir = tempfile::tempdir().unwrap();
    let provider = by_login(&engines, &engines.bao.address(), "8s", "12s", dir.path()).await;
    let mut changes = provider.changes().unwrap();
    let mut last = fetched(&provider, "creds/app").await;
    let left = last.expires_at.unwrap().duration_since(std::time::SystemTime::now()).unwrap();
    assert!(left <= Duration::from_secs(8), "it ends with its token: {left:?}");
    for _ in 0..2 {
        timeout(Duration::from_secs(30), changes.next()).await.unwrap().unwrap();
        assert!(
            engines.leases("app").await.contains(&id(&last)),
            "the old one has not ended when the new one is there"
        );
        let next = fetched(&provider, "creds/app").await;
        assert_ne!(next.version, last.version);
        last = next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_token_is_given_up_whose_leases_may_not_be_revoked() {
    let Some(engines) = Engines::start("vault-lease-tokens").await else { return };
    engines.role("app", "1h", "2h").await;
    let gate = Gate::before(engines.bao.port()).await;
    let dir = tempfile::tempdir().unwrap();
    let provider = by_login(&engines, &gate.address(), "1h", "2h", dir.path()).await;
    let mut changes = provider.changes().unwrap();
    let first = fetched(&provider, "creds/app").await;
    // The call, and the look whether the token is known: so there is another login.
    gate.refuse(2);
    provider.stamps(&[key("creds/app")]).await.pop().unwrap().unwrap();
    timeout(Duration::from_secs(20), changes.next()).await.unwrap().unwrap();
    let second = fetched(&provider, "creds/app").await;
    assert_ne!(first.version, second.version);
    assert_eq!(engines.leases("app").await.len(), 2, "the first token has not ended");

    assert!(provider.release(Instant::now() + Duration::from_secs(30)).await);
    let gone = async {
        while !engines.leases("app").await.is_empty() || !engines.users().is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_left_at_the_end_is_said() {
    let lender = Lender::start("token").await;
    lender.set("database/creds/app", Some("one"));
    lender.set("database/creds/empty", Some(""));
    let address = format!("http://127.0.0.1:{}", lender.port());
    let soon = || Instant::now() + Duration::from_secs(20);
    let provider = leased(&address, "token").build().unwrap();
    assert!(provider.release(soon()).await, "there is nothing");
    let provider = leased(&address, "token").build().unwrap();
    fetched(&provider, "creds/app").await;
    assert!(provider.release(soon()).await);
    assert_eq!(lender.leases(), 0);

    lender.keep(true);
    // One that serves, and one of no use.
    for (name, kind) in [("creds/app", None), ("creds/empty", Some(ErrorKind::Invalid))] {
        let provider = leased(&address, "token").build().unwrap();
        let asked = provider.fetch(&FetchRequest::new(key(name))).await;
        assert_eq!(asked.err().map(|error| error.kind()), kind);
        assert!(!provider.release(soon()).await, "{name}");
    }
    assert_eq!(lender.leases(), 2);
}
