//! The conformance suite on moto and on ministack. What each of them gets wrong is in the manual,
//! and which cases it can therefore not judge is asserted here.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use oneiric_core::{Error, ErrorKind, Result, SecretKey, SecretProvider, SecretValue};
use oneiric_testkit::live::{Aws, AwsKind};
use oneiric_testkit::{Ability, Fault, Outcome, Rig, conformance};

mod support;

use support::Admin;
use support::gate::{Gate, Mode, READS};

/// A server behind a gate, with a queue.
struct AwsRig {
    aws: Aws,
    admin: Admin,
    gate: Gate,
    queue: String,
    push: Mutex<Push>,
}

/// What becomes of events. Neither server sends any, so the rig does.
#[derive(Default)]
enum Push {
    #[default]
    Sent,
    Lost,
    Doubled,
    /// They wait, and are sent in another order when it is mended.
    Held(Vec<String>),
}

impl AwsRig {
    async fn new(aws: Aws) -> Self {
        let admin = Admin::new(aws.port());
        let (queue, gate) = (admin.queue().await, Gate::before(aws.port()).await);
        Self { aws, admin, gate, queue, push: Mutex::default() }
    }

    async fn announce(&self, event: String) {
        let times = match &mut *self.push.lock().unwrap() {
            Push::Sent => 1,
            Push::Lost => 0,
            Push::Doubled => 2,
            Push::Held(events) => {
                events.push(event);
                return;
            }
        };
        for _ in 0..times {
            self.admin.send(&self.queue, &event).await;
        }
    }

    fn play(&self, push: Push) -> Ability {
        *self.push.lock().unwrap() = push;
        Ability::Done
    }
}

#[async_trait]
impl Rig for AwsRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        let mut config = support::config(&self.aws, &self.gate.address());
        config.push = Some(support::push(&self.queue, &self.gate.address()));
        Arc::new(config.build().expect("the settings are valid"))
    }

    fn stages(&self) -> bool {
        true
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for (key, value) in secrets {
            let put = self.admin.put(key.as_str(), value).await;
            let id = put.map_err(|code| Error::new(ErrorKind::Invalid, code))?;
            self.announce(support::event(key.as_str(), &id, "AWSCURRENT")).await;
            ids.push(id);
        }
        Ok(ids)
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        self.admin.remove(key.as_str()).await;
        Ok(())
    }

    async fn fault(&self, fault: Fault) -> Ability {
        match fault {
            Fault::Unreachable => self.gate.play(Mode::Closed),
            Fault::Hanging => self.gate.play(Mode::Hanging),
            Fault::Slow(latency) => self.gate.play(Mode::Slow(latency)),
            Fault::LostReply => self.gate.lose_a_reply(),
            // The servers take any credential, so the gate says what AWS would say.
            Fault::Denied => self.gate.play(Mode::Refusing(400, "AccessDeniedException", None)),
            Fault::UnknownIdentity => {
                self.gate.play(Mode::Refusing(400, "UnrecognizedClientException", None));
            }
            Fault::Throttled { retry_after } => {
                self.gate.play(Mode::Refusing(400, "ThrottlingException", retry_after));
            }
            Fault::Lagging => self.gate.freeze(&READS),
            Fault::PushLost => return self.play(Push::Lost),
            Fault::PushDoubled => return self.play(Push::Doubled),
            Fault::PushReordered => return self.play(Push::Held(Vec::new())),
            Fault::Disabled(_) => return Ability::cannot("AWS cannot disable a version"),
            _ => return Ability::cannot("the servers have no such thing"),
        }
        Ability::Done
    }

    async fn mend(&self) -> Result<()> {
        self.gate.mend();
        let push = std::mem::take(&mut *self.push.lock().unwrap());
        if let Push::Held(events) = push {
            for event in events.iter().rev() {
                self.admin.send(&self.queue, event).await;
            }
        }
        Ok(())
    }
}

/// What AWS does not have: a version that is disabled or destroyed, and common moments of several
/// secrets.
const SKIPPED: [&str; 4] = [
    "a_destroyed_version_is_gone_for_good",
    "a_disabled_current_version_is_said_so",
    "a_disabled_version_is_refused_until_it_is_enabled",
    "a_set_is_of_one_moment",
];

/// Runs the suite. Nothing but those and what the server does not take may be skipped, and nothing
/// may fail but the cases that the server cannot judge, since it does not do as AWS does.
async fn holds_the_contract(kind: AwsKind, not_taken: &[&str], cannot_judge: &[&str]) {
    let Some(aws) = support::server(&format!("aws-{}", kind.name()), kind) else { return };
    let report = conformance(&AwsRig::new(aws).await).await;
    let skipped = report.cases().filter(|(_, outcome)| matches!(outcome, Outcome::Skipped(_)));
    let mut skipped: Vec<&str> = skipped.map(|(name, _)| name).collect();
    let mut expected = [&SKIPPED, not_taken].concat();
    let mut failed = report.failed();
    for names in [&mut skipped, &mut expected, &mut failed] {
        names.sort_unstable();
    }
    assert_eq!(failed, cannot_judge, "{report}");
    assert_eq!(skipped, expected);
}

/// The versions of a secret that is not there are an internal error of moto's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_moto_it_holds_the_contract() {
    let not_taken = ["an_empty_value_is_refused"];
    let cannot_judge = ["the_versions_of_a_secret_are_listed_newest_first"];
    holds_the_contract(AwsKind::Moto, &not_taken, &cannot_judge).await;
}

/// A secret that is made without a value has a version there, so the count of versions is not that
/// of AWS; and a version is deleted with its last label, as AWS does only some time later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_ministack_it_holds_the_contract() {
    let cannot_judge = [
        "a_lost_reply_is_ambiguous_and_a_repeat_is_no_second_write",
        "a_token_makes_one_version",
        "a_value_over_the_limit_is_not_written",
        "a_write_may_be_dropped_at_any_await",
        "the_versions_of_a_secret_are_listed_newest_first",
    ];
    holds_the_contract(AwsKind::Ministack, &[], &cannot_judge).await;
}
