//! The suite for adapters, on a private Redis behind a gate.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

mod gate;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use oneiric_adapter_redis::{Lease, Redis, RedisConnection, acquire};
use oneiric_core::{
    LifecycleHook, Managed, ManagedHook, SecretRef, SecretSet, SecretValue, Version,
};
use oneiric_testkit::live::{Redis as Server, require};
use oneiric_testkit::{
    Ability, AdapterInUse, AdapterRig, Credential, Habit, LongWork, Manner, Minted, ServerFault,
    adapter_conformance,
};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, IntoConnectionInfo as _};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, block_in_place};

use gate::Gate;

/// The refused ones have another password than their user.
const OTHER: &str = "another";
/// Longer than any wait of the suite.
const PATIENT: Option<Duration> = Some(Duration::from_secs(60));

fn user() -> SecretRef {
    "files:redis#user".parse().unwrap()
}

fn password() -> SecretRef {
    "files:redis#password".parse().unwrap()
}

struct Rig {
    gate: Arc<Gate>,
    admin: MultiplexedConnection,
    count: AtomicU64,
    _server: Server,
}

impl Rig {
    async fn ask<T: redis::FromRedisValue>(&self, command: &Cmd) -> T {
        command.query_async(&mut self.admin.clone()).await.unwrap()
    }
}

#[async_trait]
impl AdapterRig for Rig {
    async fn adapter(&self) -> Box<dyn AdapterInUse> {
        let server = ("127.0.0.1", self.gate.port).into_connection_info().unwrap();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(PATIENT)
            .set_response_timeout(PATIENT);
        let hook = RedisConnection::new(server, password())
            .user(user())
            .connection_config(config)
            .into_hook("redis".parse().unwrap());
        Box::new(InUse { hook: Arc::new(hook) })
    }

    async fn mint(&self, kind: Credential, canary: &str) -> Result<Minted, String> {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("app_{number}");
        let secret = format!("{number}.{canary}");
        let accepted = if kind == Credential::Accepted { &secret } else { OTHER };
        let rules = [format!(">{accepted}"), "on".into(), "~*".into(), "+@all".into()];
        self.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg(&name).arg(&rules)).await;
        let mut secret = secret.into_bytes();
        if kind == Credential::Malformed {
            secret.push(0xff);
        }
        let version = || Version::numbered(number);
        let parts = [
            (user(), SecretValue::from(name), version()),
            (password(), SecretValue::from(secret), version()),
        ];
        Ok(Minted::new(number, SecretSet::new(parts)))
    }

    async fn revoke(&self, number: u64) -> Ability {
        let command = &mut redis::cmd("ACL");
        self.ask::<()>(command.arg("SETUSER").arg(format!("app_{number}")).arg("resetpass")).await;
        Ability::Done
    }

    async fn uses(&self, number: u64) -> Result<usize, String> {
        let list: String = self.ask(redis::cmd("CLIENT").arg("LIST")).await;
        let user = format!(" user=app_{number} ");
        Ok(list.lines().filter(|line| line.contains(&user)).count())
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

struct InUse {
    hook: Arc<ManagedHook<Redis>>,
}

impl InUse {
    fn managed(&self) -> Managed<Redis> {
        self.hook.managed().expect("the suite works with what was committed")
    }
}

/// The number of the user that the server knows a connection by.
async fn number(lease: &mut Lease) -> Result<u64, String> {
    let name = redis::cmd("ACL").arg("WHOAMI").query_async::<String>(lease).await;
    let name = name.map_err(|error| format!("{error:?}"))?;
    Ok(name.strip_prefix("app_").unwrap().parse().unwrap())
}

#[async_trait]
impl AdapterInUse for InUse {
    fn hook(&self) -> Arc<dyn LifecycleHook> {
        Arc::clone(&self.hook) as _
    }

    async fn work(&self) -> Result<u64, String> {
        let mut lease = acquire(&self.managed()).await.map_err(|error| format!("{error:?}"))?;
        number(&mut lease).await
    }

    async fn begin(&self, manner: Manner) -> Result<Box<dyn LongWork>, String> {
        if manner == Manner::Stubborn {
            return Err("its connection is ended whatever a user does".into());
        }
        let mut lease = acquire(&self.managed()).await.map_err(|error| format!("{error:?}"))?;
        number(&mut lease).await?;
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
                _ = finished => number(&mut lease).await,
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_but_for_users_that_are_ended() {
    let server = match block_in_place(Server::start) {
        Ok(server) => server,
        Err(why) => return require("redis", &why),
    };
    let gate = Gate::open(server.port()).await;
    let admin = format!("redis://admin:{}@127.0.0.1:{}", server.admin_password(), server.port());
    let config = AsyncConnectionConfig::new().set_response_timeout(PATIENT);
    let admin = redis::Client::open(admin).unwrap();
    let admin = admin.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    let rig = Rig { gate, admin, count: AtomicU64::new(0), _server: server };
    let report = adapter_conformance(&rig).await;
    report.assert_passed();
    assert_eq!(report.skipped(), ["l4_a_user_that_holds_on_is_leaked_until_it_ends"]);
}
