//! One pool per generation: its login is proven first, and it is warm when it serves.

use std::sync::Arc;

use oneiric_core::{AdapterId, HookError, ManagedHook, SecretRef, SecretSet};
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use tokio::time::timeout;

use crate::config::PostgresPool;
use crate::error::{no_answer, refusal};

pub(crate) fn managed(id: AdapterId, config: PostgresPool) -> ManagedHook<PgPool> {
    let secrets = [config.user.clone(), config.password.clone()];
    let config = Arc::new(config);
    ManagedHook::new(id, secrets, move |secrets| {
        let config = Arc::clone(&config);
        async move { build(&config, &secrets).await }
    })
    .close(|pool| async move { pool.close().await })
}

/// The login is proven before there is a pool, since a pool with `min_connections` would go on
/// trying one that does not work.
async fn build(config: &PostgresPool, secrets: &SecretSet) -> Result<PgPool, HookError> {
    let login = config
        .server
        .clone()
        .username(text(secrets, &config.user)?)
        .password(text(secrets, &config.password)?);
    timeout(config.pool.get_acquire_timeout(), prove(&login, config.proof))
        .await
        .map_err(|_| no_answer())?
        .map_err(|error| refusal(&error))?;
    let pool = config.pool.clone().connect_lazy_with(login);
    // The first user finds a connection instead of waiting for one.
    pool.acquire().await.map_err(|error| refusal(&error))?;
    Ok(pool)
}

async fn prove(login: &PgConnectOptions, statement: &'static str) -> sqlx::Result<()> {
    let mut fresh = PgConnection::connect_with(login).await?;
    sqlx::raw_sql(statement).execute(&mut fresh).await?;
    // It has served its purpose; how it ends proves nothing.
    let _ = fresh.close().await;
    Ok(())
}

/// The protocol sends names and passwords as text that ends at the first NUL.
fn text<'a>(secrets: &'a SecretSet, reference: &SecretRef) -> Result<&'a str, HookError> {
    secrets
        .get(reference)
        .and_then(|value| value.expose_str())
        .filter(|text| !text.contains('\0'))
        .ok_or_else(|| HookError::failed(format!("`{reference}` is not a text without NUL")))
}
