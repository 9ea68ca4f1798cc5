//! The suite for adapters, on a service that reads its token from a rendered file.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

// The service is that of the adapter of commands: here the commands find the token in a file.
#[path = "../../../command/tests/suite/server.rs"]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use oneiric_adapter_template::{Config, FileConfig, TemplateHook};
use oneiric_core::{LifecycleHook, SecretRef, SecretSet, SecretValue, Version};
use oneiric_testkit::{
    Ability, AdapterInUse, AdapterRig, Credential, Habit, LongWork, Manner, Minted, ServerFault,
    adapter_conformance,
};

use server::{APPLY, DRAIN, PROVE, Server, Service, User};

fn token() -> SecretRef {
    "files:token".parse().unwrap()
}

fn script(input: &str, body: &str) -> Option<Vec<String>> {
    let body = format!("exec < {input}\n{body}");
    Some(["sh", "-c", &body].map(str::to_owned).to_vec())
}

struct TemplateRig {
    server: Arc<Server>,
    count: AtomicU64,
}

#[async_trait]
impl AdapterRig for TemplateRig {
    async fn adapter(&self) -> Box<dyn AdapterInUse> {
        let service = self.server.service();
        let mut config = Config::new([("token".to_owned(), token())]);
        let target = service.dir.join("rendered");
        config.files.push(FileConfig::new("{\"token\":{{ token | json }}}", target));
        config.check = script("\"$ONEIRIC_STAGED_DIR/rendered\"", PROVE);
        config.reload = script("rendered", APPLY);
        config.acknowledge = script("/dev/null", DRAIN);
        config.working_dir = Some(service.dir.clone());
        let hook = Arc::new(TemplateHook::new("shop".parse().unwrap(), config).unwrap());
        Box::new(InUse { hook, service })
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
        match habit {
            Habit::MovesAtCommit => {
                Ability::cannot("files are put in place after the commit, since that can fail")
            }
            Habit::CountsUsers => Ability::cannot("the exit code of `acknowledge` is no number"),
            Habit::ReportsRefusals => Ability::cannot("its users are behind a file"),
            Habit::DrainsApart => Ability::cannot("`acknowledge` asks about the newest content"),
            _ => Ability::Done,
        }
    }
}

struct InUse {
    hook: Arc<TemplateHook>,
    service: Arc<Service>,
}

#[async_trait]
impl AdapterInUse for InUse {
    fn hook(&self) -> Arc<dyn LifecycleHook> {
        Arc::clone(&self.hook) as _
    }

    async fn work(&self) -> Result<u64, String> {
        self.service.user().ask().await
    }

    /// Both kinds of users are the same: no command cuts one off.
    async fn begin(&self, _manner: Manner) -> Result<Box<dyn LongWork>, String> {
        Ok(Box::new(Long(self.service.user())))
    }
}

struct Long(User);

#[async_trait]
impl LongWork for Long {
    async fn finish(self: Box<Self>) -> Result<u64, String> {
        self.0.ask().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes() {
    let rig = TemplateRig { server: Server::new(), count: AtomicU64::new(0) };
    let report = adapter_conformance(&rig).await;
    report.assert_passed();
    assert_eq!(
        report.skipped(),
        [
            "l2_a_commit_serves_at_once",
            "l4_old_ones_drain_side_by_side",
            "l4_a_dropped_drain_leaves_users_alone",
            "l5_a_refusal_in_use_is_reported",
            "l5_an_outage_is_not_reported_as_a_refusal",
            "l6_users_that_were_cut_off_are_counted",
        ]
    );
}
