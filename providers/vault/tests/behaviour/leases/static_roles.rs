//! Static roles: a password that the server changes by itself.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_role_that_an_operator_changes_is_noticed_by_a_look() {
    let Some(engines) = Engines::start("vault-static-role-early").await else { return };
    engines.postgres.psql("CREATE ROLE fixed LOGIN PASSWORD 'first'").unwrap();
    let role = json!({ "db_name": "pg", "username": "fixed", "rotation_period": "1h" });
    engines.admin.post("database/static-roles/app", role).await;
    engines.admin.policy("all", "*", &["read"]).await;
    engines.admin.policy("credential", "database/static-creds/*", &["read"]).await;
    let address = engines.bao.address();
    for (policy, noticed) in [("all", true), ("credential", false)] {
        let token = engines.admin.token(policy, "1h").await;
        let provider = leased(&address, &token).build().unwrap();
        let look = async || provider.stamps(&[key("static-creds/app")]).await.pop().unwrap().ok();
        let first = fetched(&provider, "static-creds/app").await;
        assert_eq!(look().await, first.stamp, "{policy}");
        engines.admin.post("database/rotate-role/app", json!({})).await;
        assert_eq!(look().await != first.stamp, noticed, "{policy}");
        let second = fetched(&provider, "static-creds/app").await;
        assert_ne!(first.version, second.version);
        assert_eq!(look().await, second.stamp, "{policy}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_role_is_read_after_its_change_and_told() {
    let Some(engines) = Engines::start("vault-static-role").await else { return };
    engines.postgres.psql("CREATE ROLE fixed LOGIN PASSWORD 'first'").unwrap();
    let role = json!({ "db_name": "pg", "username": "fixed", "rotation_period": "5s" });
    engines.admin.post("database/static-roles/app", role).await;
    let provider = leased(&engines.bao.address(), engines.bao.root_token()).build().unwrap();
    let mut changes = provider.changes().unwrap();
    let mut last = fetched(&provider, "static-creds/app").await;
    for _ in 0..2 {
        assert!(last.expires_at.is_none(), "it is changed in place, when the server does it");
        assert_eq!(user(&last), "fixed");
        let told = timeout(Duration::from_secs(25), changes.next()).await.unwrap().unwrap();
        let next = fetched(&provider, "static-creds/app").await;
        assert_ne!(next.version, last.version);
        assert!(!next.value.same_as(&last.value));
        let named =
            Change::Secret { key: key("static-creds/app"), version: Some(next.version.clone()) };
        assert_eq!(told, named);
        let stamps: Vec<Stamp> =
            provider.stamps(&[key("static-creds/app")]).await.into_iter().flatten().collect();
        assert_eq!(next.stamp.as_ref(), stamps.first());
        last = next;
    }
}
