//! The suite for adapters, with both pools, on a private PostgreSQL behind a gate.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

mod gate;

use std::future::pending;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use deadpool_postgres::{Object, PoolConfig};
use oneiric_adapter_postgres::{
    PgDeadpool, Pooled, PostgresDeadpool, PostgresHook, PostgresPool, acquire,
};
use oneiric_core::{LifecycleHook, Managed, SecretRef, SecretSet, SecretValue, Version};
use oneiric_testkit::live::{Postgres, require};
use oneiric_testkit::{
    Ability, AdapterInUse, AdapterRig, Credential, Habit, LongWork, Manner, Minted, Report,
    ServerFault, adapter_conformance,
};
use sqlx::Postgres as Sqlx;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, block_in_place};

use gate::Gate;

const SIZE: u32 = 8;
/// The refused ones have another password than their role.
const OTHER: &str = "another";

fn user() -> SecretRef {
    "files:db#user".parse().unwrap()
}

fn password() -> SecretRef {
    "files:db#password".parse().unwrap()
}

/// A pool, as its users use it.
#[async_trait]
trait Kind: Pooled {
    fn hook(port: u16) -> PostgresHook<Self>;
    /// Whether a user can hold on to a connection, whatever is done.
    const HOLDS_ON: bool;
    /// Runs a statement, and answers with what it says.
    async fn ask(
        connection: &mut Self::Connection,
        statement: &'static str,
    ) -> Result<String, String>;
}

#[async_trait]
impl Kind for PgPool {
    const HOLDS_ON: bool = true;

    fn hook(port: u16) -> PostgresHook<Self> {
        let server = PgConnectOptions::new().host("127.0.0.1").port(port).database("postgres");
        PostgresPool::new(server, user(), password())
            .pool_options(PgPoolOptions::new().max_connections(SIZE))
            .into_hook("db".parse().unwrap())
    }

    async fn ask(
        connection: &mut PoolConnection<Sqlx>,
        statement: &'static str,
    ) -> Result<String, String> {
        let answer = sqlx::query_scalar(statement).fetch_one(&mut **connection).await;
        answer.map_err(|error| format!("{error:?}"))
    }
}

#[async_trait]
impl Kind for PgDeadpool {
    const HOLDS_ON: bool = false;

    fn hook(port: u16) -> PostgresHook<Self> {
        let mut server = tokio_postgres::Config::new();
        server.host("127.0.0.1").port(port).dbname("postgres");
        PostgresDeadpool::new(server, user(), password())
            .pool_config(PoolConfig::new(SIZE as usize))
            .into_hook("db".parse().unwrap())
    }

    async fn ask(connection: &mut Object, statement: &'static str) -> Result<String, String> {
        let row = connection.query_one(statement, &[]).await;
        row.map(|row| row.get(0)).map_err(|error| format!("{error:?}"))
    }
}

struct Rig<K> {
    server: Postgres,
    gate: Arc<Gate>,
    count: AtomicU64,
    kind: PhantomData<fn() -> K>,
}

impl<K> Rig<K> {
    fn sql(&self, statement: &str) -> String {
        block_in_place(|| self.server.psql(statement)).unwrap()
    }
}

#[async_trait]
impl<K: Kind> AdapterRig for Rig<K> {
    async fn adapter(&self) -> Box<dyn AdapterInUse> {
        Box::new(InUse { hook: Arc::new(K::hook(self.gate.port)) })
    }

    async fn mint(&self, kind: Credential, canary: &str) -> Result<Minted, String> {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let role = format!("app_{number}");
        let secret = format!("{number}.{canary}");
        let accepted = if kind == Credential::Accepted { &secret } else { OTHER };
        self.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD '{accepted}'"));
        let nul = if kind == Credential::Malformed { "\0" } else { "" };
        let part = |of, value: String| (of, SecretValue::from(value), Version::numbered(number));
        let parts = [part(user(), role), part(password(), format!("{secret}{nul}"))];
        Ok(Minted::new(number, SecretSet::new(parts)))
    }

    async fn revoke(&self, number: u64) -> Ability {
        self.sql(&format!("ALTER ROLE app_{number} NOLOGIN"));
        Ability::Done
    }

    async fn uses(&self, number: u64) -> Result<usize, String> {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE usename";
        Ok(self.sql(&format!("{count} = 'app_{number}'")).parse().unwrap())
    }

    async fn shown(&self, number: u64) -> Result<u64, String> {
        Ok(self.gate.shown(&format!("app_{number}")))
    }

    async fn fault(&self, fault: ServerFault) -> Ability {
        self.gate.play(Some(fault));
        Ability::Done
    }

    async fn mend(&self) {
        self.gate.play(None);
    }

    fn has(&self, _habit: Habit) -> Ability {
        Ability::Done
    }
}

struct InUse<K: Pooled> {
    hook: Arc<PostgresHook<K>>,
}

impl<K: Kind> InUse<K> {
    fn managed(&self) -> Managed<K> {
        self.hook.managed().expect("the suite works with what was committed")
    }
}

/// The number of the role that a connection is logged in as.
async fn number<K: Kind>(connection: &mut K::Connection) -> Result<u64, String> {
    let role = K::ask(connection, "SELECT current_user::text").await?;
    Ok(role.strip_prefix("app_").unwrap().parse().unwrap())
}

#[async_trait]
impl<K: Kind> AdapterInUse for InUse<K> {
    fn hook(&self) -> Arc<dyn LifecycleHook> {
        Arc::clone(&self.hook) as _
    }

    async fn work(&self) -> Result<u64, String> {
        let mut lease = acquire(&self.managed()).await.map_err(|error| format!("{error:?}"))?;
        number::<K>(&mut lease).await
    }

    async fn begin(&self, manner: Manner) -> Result<Box<dyn LongWork>, String> {
        if manner == Manner::Stubborn && !K::HOLDS_ON {
            return Err("its connection is ended whatever a user does".into());
        }
        let mut lease = acquire(&self.managed()).await.expect("the server is in order");
        number::<K>(&mut lease).await.expect("the server is in order");
        let (finish, finished) = oneshot::channel();
        let work = tokio::spawn(async move {
            let cut_off = lease.cut_off();
            let cut_off = async {
                match manner {
                    Manner::Yielding => cut_off.await,
                    _ => pending().await,
                }
            };
            tokio::select! {
                _ = finished => number::<K>(&mut lease).await,
                () = cut_off => Err("it was cut off".to_owned()),
            }
        });
        Ok(Box::new(Long { work, finish: Some(finish) }))
    }
}

struct Long {
    work: JoinHandle<Result<u64, String>>,
    finish: Option<oneshot::Sender<()>>,
}

#[async_trait]
impl LongWork for Long {
    async fn finish(mut self: Box<Self>) -> Result<u64, String> {
        // It may have been cut off.
        let _ = self.finish.take().expect("it is finished once").send(());
        (&mut self.work).await.expect("a user does not panic")
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        self.work.abort();
    }
}

async fn report<K: Kind>() -> Option<Report> {
    let server = match block_in_place(Postgres::start) {
        Ok(server) => server,
        Err(why) => {
            require("postgres", &why);
            return None;
        }
    };
    let gate = Gate::open(server.port()).await;
    let rig = Rig::<K> { server, gate, count: AtomicU64::new(0), kind: PhantomData };
    Some(adapter_conformance(&rig).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_sqlx_passes_with_nothing_left_out() {
    let Some(report) = report::<PgPool>().await else { return };
    report.assert_passed();
    assert_eq!(report.skipped(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_deadpool_passes_but_for_users_that_it_ends() {
    let Some(report) = report::<PgDeadpool>().await else { return };
    report.assert_passed();
    assert_eq!(report.skipped(), ["l4_a_user_that_holds_on_is_leaked_until_it_ends"]);
}
