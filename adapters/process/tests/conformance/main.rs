//! The suite for adapters, on a service that runs as a child process.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use oneiric_adapter_process::{Config, Launcher, OnChange, ProcessHook};
use oneiric_core::{LifecycleHook, SecretRef, SecretSet, SecretValue, Version};
use oneiric_testkit::{
    Ability, AdapterInUse, AdapterRig, Credential, Habit, LongWork, Manner, Minted, Report,
    ServerFault, adapter_conformance,
};

use server::{Server, Service, User};

/// The program whose roles are the service and the proof.
const RIG: &str = env!("CARGO_BIN_EXE_oneiric-process-rig");

fn token() -> SecretRef {
    "files:token".parse().unwrap()
}

struct ProcessRig {
    on_change: OnChange,
    server: Arc<Server>,
    count: AtomicU64,
}

#[async_trait]
impl AdapterRig for ProcessRig {
    async fn adapter(&self) -> Box<dyn AdapterInUse> {
        let service = self.server.service();
        let mut config = Config::new([RIG, "serve"].map(Into::into));
        config.on_change = Some(self.on_change);
        config.files.insert("token".to_owned(), token());
        config.ready = Some(toml::from_str("file = 'ready'\ninterval = '10ms'").unwrap());
        config.working_dir = Some(service.dir.clone());
        if self.on_change == OnChange::Signal {
            config.signal = Some("HUP".parse().unwrap());
            config.prove = Some([RIG, "prove"].map(str::to_owned).to_vec());
        }
        let launcher = Launcher::new(RIG, ["launch"]);
        let hook = ProcessHook::new("shop".parse().unwrap(), config).unwrap();
        Box::new(InUse { hook: Arc::new(hook.with_launcher(launcher)), service })
    }

    async fn mint(&self, kind: Credential, canary: &str) -> Result<Minted, String> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let token_of_it = format!("{count}.{canary}");
        let number = self.server.learn(&token_of_it, kind == Credential::Accepted);
        let mut value = token_of_it.into_bytes();
        if kind == Credential::Malformed {
            value.push(0xff);
        }
        let part = (token(), SecretValue::from(value), Version::numbered(number));
        Ok(Minted::new(number, SecretSet::new([part])))
    }

    async fn revoke(&self, number: u64) -> Ability {
        self.server.revoke(number);
        Ability::Done
    }

    async fn uses(&self, number: u64) -> Result<usize, String> {
        Ok(self.server.uses(number))
    }

    async fn shown(&self, number: u64) -> Result<u64, String> {
        Ok(self.server.shown(number))
    }

    async fn fault(&self, fault: ServerFault) -> Ability {
        self.server.play(Some(fault));
        Ability::Done
    }

    async fn mend(&self) {
        self.server.play(None);
    }

    fn has(&self, habit: Habit) -> Ability {
        match (self.on_change, habit) {
            (_, Habit::CountsUsers) => Ability::cannot("how many users a child has is not known"),
            (_, Habit::ReportsRefusals) => Ability::cannot("its users are in a child process"),
            (OnChange::Overlap, Habit::MovesAtCommit) => {
                Ability::cannot("both children serve until the old one is stopped, in the drain")
            }
            (OnChange::Signal, Habit::MovesAtCommit) => {
                Ability::cannot("the child is signalled after the commit, since that can fail")
            }
            (OnChange::Signal, Habit::DrainsApart) => {
                Ability::cannot("the child acknowledges for all of its users at once")
            }
            _ => Ability::Done,
        }
    }
}

struct InUse {
    hook: Arc<ProcessHook>,
    service: Arc<Service>,
}

#[async_trait]
impl AdapterInUse for InUse {
    fn hook(&self) -> Arc<dyn LifecycleHook> {
        Arc::clone(&self.hook) as _
    }

    async fn work(&self) -> Result<u64, String> {
        self.service.user().await?.ask().await
    }

    async fn begin(&self, manner: Manner) -> Result<Box<dyn LongWork>, String> {
        if manner == Manner::Stubborn && self.service.overlaps() {
            return Err("a child that is killed takes its users along".to_owned());
        }
        Ok(Box::new(Long(self.service.user().await?)))
    }
}

struct Long(User);

#[async_trait]
impl LongWork for Long {
    async fn finish(self: Box<Self>) -> Result<u64, String> {
        self.0.ask().await
    }
}

async fn suite(on_change: OnChange) -> Report {
    let server = Server::new(on_change == OnChange::Overlap);
    let rig = ProcessRig { on_change, server, count: AtomicU64::new(0) };
    let report = adapter_conformance(&rig).await;
    report.assert_passed();
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_where_children_overlap() {
    let skipped = [
        "l2_a_commit_serves_at_once",
        "l4_a_user_that_holds_on_is_leaked_until_it_ends",
        "l4_a_dropped_drain_leaves_users_alone",
        "l5_a_refusal_in_use_is_reported",
        "l5_an_outage_is_not_reported_as_a_refusal",
        "l6_users_that_were_cut_off_are_counted",
    ];
    assert_eq!(suite(OnChange::Overlap).await.skipped(), skipped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_where_a_child_is_signalled() {
    let skipped = [
        "l2_a_commit_serves_at_once",
        "l4_old_ones_drain_side_by_side",
        "l4_a_dropped_drain_leaves_users_alone",
        "l5_a_refusal_in_use_is_reported",
        "l5_an_outage_is_not_reported_as_a_refusal",
        "l6_users_that_were_cut_off_are_counted",
    ];
    assert_eq!(suite(OnChange::Signal).await.skipped(), skipped);
}
