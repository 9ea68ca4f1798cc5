//! Logins by AppRole, JWT and Kubernetes: renewed, made anew, and made once for all who wait.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use oneiric_core::{ErrorKind, FetchRequest, SecretProvider};
use oneiric_provider_vault::VaultProvider;
use oneiric_testkit::live::OpenBao;
use reqwest::Method;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::gate::{Gate, Mode};
use crate::support::{ALL, Admin, openbao, with_auth, write};
use crate::{key, read, refused};

/// A secret, a policy that may read it, and the method AppRole with a role.
async fn approle(bao: &OpenBao, role: Value) -> (Admin, String, String) {
    let admin = Admin::new(bao);
    admin.put("a", json!({ "value": "v" })).await;
    admin.policy("reads", "secret/*", &ALL).await;
    admin.post("sys/auth/approle", json!({ "type": "approle" })).await;
    let mut body = json!({ "token_policies": "reads" });
    body.as_object_mut().unwrap().extend(role.as_object().unwrap().clone());
    admin.post("auth/approle/role/app", body).await;
    let answer = admin.get("auth/approle/role/app/role-id").await;
    let role_id = answer["data"]["role_id"].as_str().unwrap().to_owned();
    let answer = admin.post("auth/approle/role/app/secret-id", json!({})).await;
    let secret_id = answer["data"]["secret_id"].as_str().unwrap().to_owned();
    (admin, role_id, secret_id)
}

/// How many tokens there are, that of the administrator among them.
async fn tokens(admin: &Admin) -> usize {
    let method = Method::from_bytes(b"LIST").unwrap();
    let (_, answer) = admin.send(method, "auth/token/accessors", json!({})).await;
    answer["data"]["keys"].as_array().unwrap().len()
}

/// Reads over and over for so long; every read must succeed.
async fn reads_for(provider: &VaultProvider, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert_eq!(read(provider, "a").await, "v");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_renewed_and_survives_what_lasts_longer_than_its_token() {
    let Some(bao) = openbao("vault-approle") else { return };
    let (admin, role_id, secret_id) = approle(&bao, json!({ "token_ttl": "3s" })).await;
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "secret-id", &format!("{secret_id}\n"));
    let gate = Gate::before(bao.port()).await;
    let auth = format!("[approle]\nrole_id = '{role_id}'\nsecret_id_file = '{}'", file.display());
    let provider = with_auth(&gate.address(), &auth).build().unwrap();
    assert_eq!(tokens(&admin).await, 1, "nothing is done before it is needed");
    reads_for(&provider, Duration::from_secs(7)).await;
    assert_eq!(tokens(&admin).await, 2, "one login, which is renewed");

    gate.play(Mode::Closed);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(refused(&provider, "a").await, ErrorKind::Unavailable);
    gate.mend();
    sleep(Duration::from_millis(500)).await;
    reads_for(&provider, Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_at_its_utmost_end_is_replaced_before_it() {
    let Some(bao) = openbao("vault-max-ttl") else { return };
    let role = json!({ "token_ttl": "3s", "token_max_ttl": "4s" });
    let (admin, role_id, secret_id) = approle(&bao, role).await;
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "secret-id", &secret_id);
    let auth = format!("[approle]\nrole_id = '{role_id}'\nsecret_id_file = '{}'", file.display());
    let provider = with_auth(&bao.address(), &auth).build().unwrap();
    assert_eq!(read(&provider, "a").await, "v");
    let first = tokens(&admin).await;
    reads_for(&provider, Duration::from_secs(9)).await;
    let few = async {
        while tokens(&admin).await > first + 2 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), few).await.expect("and old ones end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_is_replaced_once_for_all_who_wait() {
    let Some(bao) = openbao("vault-relogin") else { return };
    let (admin, role_id, secret_id) = approle(&bao, json!({ "token_ttl": "1h" })).await;
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "secret-id", &secret_id);
    let auth = format!("[approle]\nrole_id = '{role_id}'\nsecret_id_file = '{}'", file.display());
    let provider = with_auth(&bao.address(), &auth).build().unwrap();
    let all = || join_all((0..50).map(|_| read(&provider, "a")));
    assert!(all().await.iter().all(|value| value == "v"));
    assert_eq!(tokens(&admin).await, 2);
    for round in 0..3 {
        let body = json!({ "prefix": true });
        admin.post("sys/leases/revoke-prefix/auth/approle/login", body).await;
        assert_eq!(tokens(&admin).await, 1);
        assert!(all().await.iter().all(|value| value == "v"), "round {round}");
        assert_eq!(tokens(&admin).await, 2, "one login for fifty in round {round}");
    }
    // A refusal is no reason for a login.
    admin.policy("reads", "secret/*", &["deny"]).await;
    assert_eq!(refused(&provider, "a").await, ErrorKind::Denied);
    assert_eq!(tokens(&admin).await, 2);
    // A login that is refused says whose fault it is.
    write(dir.path(), "secret-id", "canary-of-a-secret-id");
    admin.post("sys/leases/revoke-prefix/auth/approle/login", json!({ "prefix": true })).await;
    let error = provider.fetch(&FetchRequest::new(key("a"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(error.chain().contains("auth/approle/login"), "{}", error.chain());
    assert!(!format!("{error:?} {provider:?}").contains("canary"));
}

#[tokio::test]
async fn who_may_not_look_at_his_own_token_does_not_log_in_for_each_refusal() {
    let Some(bao) = openbao("vault-blind") else { return };
    let role = json!({ "token_no_default_policy": true });
    let (admin, role_id, secret_id) = approle(&bao, role).await;
    admin.policy("reads", "secret/data/a", &ALL).await;
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "secret-id", &secret_id);
    let auth = format!("[approle]\nrole_id = '{role_id}'\nsecret_id_file = '{}'", file.display());
    let provider = with_auth(&bao.address(), &auth).build().unwrap();
    assert_eq!(read(&provider, "a").await, "v");
    for _ in 0..5 {
        assert_eq!(refused(&provider, "b").await, ErrorKind::Denied);
    }
    assert_eq!(read(&provider, "a").await, "v");
    assert!(tokens(&admin).await <= 3, "one look at whether another token helps");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrapped_secret_id_is_opened_once_and_used_again() {
    let Some(bao) = openbao("vault-wrapped") else { return };
    let (admin, role_id, _) = approle(&bao, json!({ "token_ttl": "1h" })).await;
    let wrap = || {
        let arguments = ["write", "-f", "-wrap-ttl=60s", "-field=wrapping_token"];
        bao.bao(&[&arguments[..], &["auth/approle/role/app/secret-id"]].concat()).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "wrapped", &wrap());
    let auth = format!(
        "[approle]\nrole_id = '{role_id}'\nsecret_id_file = '{}'\nsecret_id_wrapped = true",
        file.display()
    );
    let provider = with_auth(&bao.address(), &auth).build().unwrap();
    let revoke = async || {
        let body = json!({ "prefix": true });
        admin.post("sys/leases/revoke-prefix/auth/approle/login", body).await;
    };
    for _ in 0..2 {
        assert_eq!(read(&provider, "a").await, "v");
        revoke().await;
    }
    // Another wrapping, another secret id.
    write(dir.path(), "wrapped", &wrap());
    assert_eq!(read(&provider, "a").await, "v");
    // Whoever comes second finds it open, and that is said.
    let second = with_auth(&bao.address(), &auth).build().unwrap();
    let error = second.fetch(&FetchRequest::new(key("a"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(error.chain().contains("somebody else"), "{}", error.chain());

    // An answer that is lost is not looked for at another node, where it would look like that.
    write(dir.path(), "wrapped", &wrap());
    let gate = Gate::before(bao.port()).await;
    gate.play(Mode::Hanging);
    let mut config = with_auth("", &auth);
    config.addresses = vec![gate.address(), bao.address()];
    config.timeout = Duration::from_secs(2);
    assert_eq!(refused(&config.build().unwrap(), "a").await, ErrorKind::DeadlineExceeded);
}

/// A party that signs tokens.
struct Issuer {
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Issuer {
    fn new() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        Self { key, random }
    }

    /// The public key as PEM: what says that it is one of P-256, and the point.
    fn pem(&self) -> String {
        let mut der = vec![0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02];
        der.extend([0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03]);
        der.extend([0x42, 0x00]);
        der.extend(self.key.public_key().as_ref());
        let text = STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    fn sign(&self, mut claims: Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        claims["iat"] = now.into();
        claims["exp"] = (now + 600).into();
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let text = format!("{}.{}", part(&json!({ "alg": "ES256", "typ": "JWT" })), part(&claims));
        let signature = self.key.sign(&self.random, text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[tokio::test]
async fn a_signed_token_logs_in_and_is_read_anew_for_each_login() {
    let Some(bao) = openbao("vault-jwt") else { return };
    let admin = Admin::new(&bao);
    admin.put("a", json!({ "value": "v" })).await;
    admin.policy("reads", "secret/*", &ALL).await;
    let issuer = Issuer::new();
    admin.post("sys/auth/ci%2Fjwt", json!({ "type": "jwt" })).await;
    let config =
        json!({ "jwt_validation_pubkeys": [issuer.pem()], "jwt_supported_algs": ["ES256"] });
    admin.post("auth/ci/jwt/config", config).await;
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["bao"],
        "token_policies": ["reads"], "token_ttl": "1h",
    });
    admin.post("auth/ci/jwt/role/app", role).await;
    let dir = tempfile::tempdir().unwrap();
    let jwt = |audience: &str| issuer.sign(json!({ "sub": "app", "aud": audience }));
    let file = write(dir.path(), "jwt", &jwt("bao"));
    let auth = format!("[jwt]\nmount = 'ci/jwt'\nrole = 'app'\njwt_file = '{}'", file.display());
    let provider = with_auth(&bao.address(), &auth).build().unwrap();
    assert_eq!(read(&provider, "a").await, "v");
    write(dir.path(), "jwt", &jwt("another"));
    assert_eq!(read(&provider, "a").await, "v", "the login of before holds");
    admin.post("sys/leases/revoke-prefix/auth/ci/jwt/login", json!({ "prefix": true })).await;
    assert_eq!(refused(&provider, "a").await, ErrorKind::Unauthenticated);
    write(dir.path(), "jwt", &jwt("bao"));
    assert_eq!(read(&provider, "a").await, "v");
}

/// The cluster is a stand-in that approves of every token; the login itself is OpenBao's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_logs_in() {
    let Some(bao) = openbao("vault-kubernetes") else { return };
    let admin = Admin::new(&bao);
    admin.put("a", json!({ "value": "v" })).await;
    admin.policy("reads", "secret/*", &ALL).await;
    let account = json!({ "username": "system:serviceaccount:ns:app", "uid": "u-1" });
    let review = json!({
        "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
        "status": { "authenticated": true, "user": account },
    });
    let cluster = Gate::before(bao.port()).await;
    let head = "201 Created\r\nContent-Type: application/json";
    cluster.play(Mode::Answering(head.into(), review.to_string()));
    admin.post("sys/auth/kubernetes", json!({ "type": "kubernetes" })).await;
    let issuer = Issuer::new();
    let claims = json!({
        "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:ns:app",
        "kubernetes.io": { "namespace": "ns", "serviceaccount": { "name": "app", "uid": "u-1" } },
    });
    let jwt = issuer.sign(claims);
    // It wants a certificate even for a cluster without TLS.
    bao.bao(&["secrets", "enable", "pki"]).unwrap();
    let root = ["write", "-field=certificate", "pki/root/generate/internal", "common_name=x"];
    let config = json!({
        "kubernetes_host": cluster.address(), "disable_local_ca_jwt": true,
        "kubernetes_ca_cert": bao.bao(&root).unwrap(), "token_reviewer_jwt": jwt,
    });
    admin.post("auth/kubernetes/config", config).await;
    let role = json!({
        "bound_service_account_names": ["app"], "bound_service_account_namespaces": ["ns"],
        "token_policies": ["reads"], "token_ttl": "1h",
    });
    admin.post("auth/kubernetes/role/app", role).await;
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "jwt", &jwt);
    let auth = format!("[kubernetes]\nrole = 'app'\njwt_file = '{}'", file.display());
    let provider = with_auth(&bao.address(), &auth).build().unwrap();
    assert_eq!(read(&provider, "a").await, "v");
    assert!(cluster.requests() > 0, "the cluster was asked");
}
