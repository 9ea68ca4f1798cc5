//! A secret of OpenBao that is rotated with its own command line under load, from the new version
//! in the store to a service that uses it: noticed by the sweep, with no failed request, also when
//! the store is sealed in between and when the login of the service is revoked.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oneiric_provider_vault::{AppRole, Config};
use oneiric_testkit::live::{OpenBao, require};
use tokio::time::sleep;

mod service;

use service::Service;

const SWEEP: Duration = Duration::from_millis(300);
const ROTATIONS: u64 = 20;
/// What the service may do: look at the secret and read it.
const POLICY: &str = r#"path "secret/*" { capabilities = ["read"] }"#;

/// A service that logs in by AppRole, under load from the start.
struct Stand {
    bao: Arc<OpenBao>,
    service: Service,
    number: u64,
}

impl Stand {
    async fn start(bao: OpenBao, folder: &Path) -> Self {
        let run = |arguments: &[&str]| bao.bao(arguments).unwrap();
        let policy = folder.join("policy.hcl");
        std::fs::write(&policy, POLICY).unwrap();
        run(&["policy", "write", "service", policy.to_str().unwrap()]);
        run(&["auth", "enable", "approle"]);
        run(&["write", "auth/approle/role/service", "token_policies=service", "token_ttl=5s"]);
        let role_id = run(&["read", "-field=role_id", "auth/approle/role/service/role-id"]);
        let secret_id = ["write", "-f", "-field=secret_id", "auth/approle/role/service/secret-id"];
        std::fs::write(folder.join("secret-id"), run(&secret_id)).unwrap();
        let bao = Arc::new(bao);
        put(&bao, 1).await;

        let mut config = Config::new(bao.address());
        config.auth.approle = Some(AppRole::new(role_id, folder.join("secret-id")));
        let provider = Arc::new(config.build().unwrap());
        let credential = ["vault:app/db#user", "vault:app/db#password"];
        let service = Service::over(provider, SWEEP, &credential, &[]).await;
        Self { bao, service, number: 1 }
    }

    /// A new credential; answers with how long the service took to use it.
    async fn rotate(&mut self) -> Duration {
        self.number += 1;
        self.service.take(self.number);
        put(&self.bao, self.number).await;
        self.service.uses(self.number).await
    }

    /// Runs the command line of OpenBao while the load goes on.
    async fn bao(&self, arguments: &'static [&'static str]) {
        let bao = Arc::clone(&self.bao);
        tokio::task::spawn_blocking(move || bao.bao(arguments).unwrap()).await.unwrap();
    }

    async fn seal(&self, sealed: bool) {
        let bao = Arc::clone(&self.bao);
        let turn = move || if sealed { bao.seal() } else { bao.unseal() };
        tokio::task::spawn_blocking(turn).await.unwrap().unwrap();
    }
}

/// Sets the secret with OpenBao's own command line.
async fn put(bao: &Arc<OpenBao>, number: u64) {
    let bao = Arc::clone(bao);
    let put = move || {
        let (user, password) =
            (format!("user=user-{number}"), format!("password=password-{number}"));
        bao.bao(&["kv", "put", "-mount=secret", "app/db", &user, &password]).unwrap()
    };
    tokio::task::spawn_blocking(put).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_by_the_command_line_reach_a_running_service() {
    let bao = match OpenBao::start() {
        Ok(bao) => bao,
        Err(why) => return require("rehearsal-vault", &why),
    };
    let folder = tempfile::tempdir().unwrap();
    let mut stand = Stand::start(bao, folder.path()).await;
    let mut took = Vec::new();
    for _ in 0..ROTATIONS {
        took.push(stand.rotate().await);
    }
    // The token of the service is revoked: it logs in again and goes on.
    stand.bao(&["lease", "revoke", "-prefix", "auth/approle/login"]).await;
    for _ in 0..3 {
        took.push(stand.rotate().await);
    }
    // The store is sealed for longer than the service's token lives, which it cannot renew.
    stand.seal(true).await;
    sleep(Duration::from_secs(6)).await;
    stand.seal(false).await;
    for _ in 0..3 {
        took.push(stand.rotate().await);
    }
    stand.service.end("vault", took).await;
}
