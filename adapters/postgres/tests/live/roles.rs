//! Two roles that alternate, as the server sees it.

use std::path::PathBuf;
use std::time::Duration;

use oneiric_adapter_postgres::{Administrator, NewLogin, PgDeadpool, RoleError, TwoRoles};
use oneiric_testkit::live::Postgres;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use tokio::time::sleep;

use crate::kinds::{Kind as _, Make};
use crate::server::{server, sql, until_gone};

async fn connect(server: &Postgres, login: &NewLogin) -> sqlx::Result<PgConnection> {
    let address = PgConnectOptions::new().host("127.0.0.1").port(server.port());
    let address = address.database("postgres").username(login.user());
    PgConnection::connect_with(&address.password(login.password().expose_str().unwrap())).await
}

/// What the server has written down, statements included.
fn log(server: &Postgres) -> String {
    let data = PathBuf::from(sql(server, "SHOW data_directory"));
    std::fs::read_to_string(data.parent().unwrap().join("log")).unwrap()
}

async fn alternate(server: &Postgres, admin: &impl Administrator) {
    sql(server, "CREATE ROLE \"app a\" NOLOGIN; CREATE ROLE app_b NOLOGIN");
    sql(server, "ALTER SYSTEM SET log_statement = 'all'; SELECT pg_reload_conf()");
    let roles = TwoRoles::new("app a", "app_b");
    let mut serving = roles.open(admin, "app_b").await.unwrap();
    assert_eq!(serving.user(), "app a");
    for _ in 0..3 {
        let old_session = connect(server, &serving).await.unwrap();
        let next = roles.open(admin, serving.user()).await.unwrap();
        assert_ne!(next.user(), serving.user());
        // Both are good now.
        connect(server, &serving).await.unwrap().close().await.unwrap();
        connect(server, &next).await.unwrap().close().await.unwrap();
        until_gone(server, next.user()).await;

        while roles.sessions(admin, serving.user()).await.unwrap() > 1 {
            sleep(Duration::from_millis(5)).await;
        }
        let in_use = RoleError::InUse { role: serving.user().to_owned(), sessions: 1 };
        assert_eq!(roles.close(admin, serving.user()).await, Err(in_use.clone()));
        assert_eq!(roles.open(admin, next.user()).await.unwrap_err(), in_use);
        connect(server, &serving).await.unwrap().close().await.unwrap();
        old_session.close().await.unwrap();
        until_gone(server, serving.user()).await;

        roles.close(admin, serving.user()).await.unwrap();
        let refused = connect(server, &serving).await.unwrap_err();
        let refused = refused.into_database_error().unwrap();
        assert_eq!(refused.code().as_deref(), Some("28000"));
        let log = log(server);
        assert!(log.contains("LOGIN PASSWORD 'SCRAM-SHA-256$"), "{log}");
        for login in [&serving, &next] {
            assert!(!log.contains(login.password().expose_str().unwrap()), "{log}");
        }
        serving = next;
    }
    let unknown = roles.close(admin, "admin").await.unwrap_err();
    assert_eq!(unknown, RoleError::Unknown { role: "admin".into() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_roles_alternate_by_a_pool_of_sqlx() {
    let Some(server) = server() else { return };
    let make = Make::at(server.port());
    alternate(&server, &PgPool::plain(make, "admin", server.admin_password())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_roles_alternate_by_a_pool_of_deadpool() {
    let Some(server) = server() else { return };
    let make = Make::at(server.port());
    alternate(&server, &PgDeadpool::plain(make, "admin", server.admin_password())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_change_roles_is_told_so_without_the_statement() {
    let Some(server) = server() else { return };
    sql(&server, "CREATE ROLE app_a NOLOGIN; CREATE ROLE app_b NOLOGIN");
    sql(&server, "CREATE ROLE nobody LOGIN PASSWORD 'n'");
    let admin = PgPool::plain(Make::at(server.port()), "nobody", "n");
    let error = TwoRoles::new("app_a", "app_b").open(&admin, "app_a").await.unwrap_err();
    let RoleError::Server(said) = error else { panic!("{error}") };
    assert_eq!(said, "it answered with SQLSTATE 42501");
}
