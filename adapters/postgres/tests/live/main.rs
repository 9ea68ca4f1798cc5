//! Against a private PostgreSQL, with both pools: what users of them notice of a rotation, and what
//! the server sees of it.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

mod kinds;
mod server;
mod rotations;
mod proofs;
mod drains;
mod reconnects;
mod refusals;
mod roles;

/// Runs each of these tests with both pools.
macro_rules! with_both_pools {
    ($($test:ident),* $(,)?) => {
        mod sqlx {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test::<sqlx::PgPool>().await;
            })*
        }
        mod deadpool {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test::<oneiric_adapter_postgres::PgDeadpool>().await;
            })*
        }
    };
}
pub(crate) use with_both_pools;
