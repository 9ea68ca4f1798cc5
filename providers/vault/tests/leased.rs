//! The conformance suite for leases. The engines that lease credentials make them up, so it runs
//! on a small server that leases what the suite sets; what a real engine does is in the tests of
//! behaviour.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use oneiric_core::{
    Change, ChangeStream, Descriptor, Error, ErrorKind, FetchRequest, Fetched, Result, SecretKey,
    SecretLister, SecretProvider, SecretValue, SecretWriter, Stamp,
};
use oneiric_provider_vault::{Config, Engine, VaultProvider};
use oneiric_testkit::{Ability, Fault, Outcome, Rig, conformance};
use tokio::time::Instant;

mod support;

use support::gate::{Gate, Mode};
use support::lender::Lender;

const TOKEN: &str = "token-of-the-suite";

/// What becomes of the events on their way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Straight,
    Lost,
    Doubled,
    /// They are held back, and come in the reverse order when all is well again.
    Turned,
}

#[derive(Debug, Default)]
struct Events {
    way: Way,
    back: Vec<Change>,
}

/// The provider, with a bad line for its events.
#[derive(Debug)]
struct Lined {
    provider: VaultProvider,
    events: Arc<Mutex<Events>>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl SecretProvider for Lined {
    fn descriptor(&self) -> &Descriptor {
        self.provider.descriptor()
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        self.provider.fetch(request).await
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        self.provider.fetch_many(requests).await
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        self.provider.stamps(keys).await
    }

    fn changes(&self) -> Option<ChangeStream> {
        let events = Arc::clone(&self.events);
        let held = Arc::clone(&self.events);
        // Looks now and then whether what was held back may go on.
        let late = stream::unfold(held, |held| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut events = held.lock().unwrap();
            let free = events.way != Way::Turned;
            let back = if free { std::mem::take(&mut events.back) } else { Vec::new() };
            drop(events);
            Some((stream::iter(back.into_iter().rev()), held))
        });
        let told = self.provider.changes()?.map(move |change| {
            let mut events = events.lock().unwrap();
            match events.way {
                Way::Straight => stream::iter(vec![change]),
                Way::Lost => stream::iter(Vec::new()),
                Way::Doubled => stream::iter(vec![change.clone(), change]),
                Way::Turned => {
                    events.back.push(change);
                    stream::iter(Vec::new())
                }
            }
        });
        Some(stream::select(told.flatten(), late.flatten()).boxed())
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        self.provider.writer()
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        self.provider.lister()
    }

    async fn release(&self, deadline: Instant) -> bool {
        self.provider.release(deadline).await
    }
}

struct LeaseRig {
    lender: Lender,
    gate: Gate,
    folder: tempfile::TempDir,
    events: Arc<Mutex<Events>>,
    provider: Arc<Lined>,
}

impl LeaseRig {
    async fn new() -> Self {
        let lender = Lender::start(TOKEN).await;
        let gate = Gate::before(lender.port()).await;
        let folder = tempfile::tempdir().unwrap();
        let file = support::write(folder.path(), "token", TOKEN);
        let mut config = Config::new(gate.address());
        config.engine = Engine::Leases;
        config.auth.token_file = Some(file);
        let events = Arc::<Mutex<Events>>::default();
        let provider = config.build().unwrap();
        let provider = Arc::new(Lined { provider, events: Arc::clone(&events) });
        Self { lender, gate, folder, events, provider }
    }

    fn path(key: &SecretKey) -> String {
        // As the client writes it.
        let mut url = reqwest::Url::parse("http://x").unwrap();
        url.path_segments_mut().unwrap().push("database").extend(key.as_str().split('/'));
        url.path().trim_start_matches('/').to_owned()
    }

    fn take(&self, way: Way) -> Ability {
        self.events.lock().unwrap().way = way;
        Ability::Done
    }
}

#[async_trait]
impl Rig for LeaseRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        Arc::clone(&self.provider) as _
    }

    fn stages(&self) -> bool {
        false
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        for (key, value) in secrets {
            let text = value.expose_str().ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "a credential is JSON, and JSON has no bytes")
            })?;
            self.lender.set(&Self::path(key), Some(text));
            // Nothing can become of a lease that nobody holds. Where it cannot be had, the suite
            // will see that by itself.
            let _ = self.provider.fetch(&FetchRequest::new(key.clone())).await;
        }
        // The ids of leases are the server's, and there are none before somebody takes one.
        Ok(Vec::new())
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        self.lender.set(&Self::path(key), None);
        Ok(())
    }

    async fn fault(&self, fault: Fault) -> Ability {
        match fault {
            Fault::Unreachable => self.gate.play(Mode::Closed),
            Fault::Hanging => self.gate.play(Mode::Hanging),
            Fault::Slow(latency) => self.gate.play(Mode::Slow(latency)),
            Fault::Denied => self.lender.deny(true),
            Fault::UnknownIdentity => self.lender.know("another token"),
            Fault::Throttled { retry_after: None } => self.lender.throttle(true),
            Fault::Throttled { retry_after: Some(wait) } => {
                let head = format!("429 Too Many Requests\r\nRetry-After: {}", wait.as_secs());
                self.gate.play(Mode::Answering(head, String::new()));
            }
            Fault::PushLost => return self.take(Way::Lost),
            Fault::PushDoubled => return self.take(Way::Doubled),
            Fault::PushReordered => return self.take(Way::Turned),
            Fault::Lagging => return Ability::cannot("a lease is had where it is made"),
            _ => return Ability::cannot("a lease has no such thing"),
        }
        Ability::Done
    }

    async fn mend(&self) -> Result<()> {
        self.gate.mend();
        self.lender.deny(false);
        self.lender.throttle(false);
        self.lender.know(TOKEN);
        self.events.lock().unwrap().way = Way::Straight;
        Ok(())
    }
}

/// What a lease does not have: bytes that are no text, versions and a list of them, lag, common
/// moments of several, and a writer.
const NONE: [&str; 16] = [
    "bytes_that_are_no_text_are_kept_or_refused",
    "keys_are_listed_sorted",
    "the_versions_of_a_secret_are_listed_newest_first",
    "a_disabled_current_version_is_said_so",
    "an_older_value_never_bears_a_newer_version",
    "a_set_is_of_one_moment",
    "a_token_makes_one_version",
    "a_value_over_the_limit_is_not_written",
    "a_new_version_waits_to_be_promoted",
    "a_promotion_compares_before_it_swaps",
    "of_two_promotions_one_is_a_conflict",
    "a_disabled_version_is_refused_until_it_is_enabled",
    "a_destroyed_version_is_gone_for_good",
    "a_write_to_nothing_is_not_found",
    "a_lost_reply_is_ambiguous_and_a_repeat_is_no_second_write",
    "a_write_may_be_dropped_at_any_await",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_hold_the_contract() {
    let rig = LeaseRig::new().await;
    let report = conformance(&rig).await;
    report.assert_passed();
    let skipped = report.cases().filter(|(_, outcome)| matches!(outcome, Outcome::Skipped(_)));
    let skipped: Vec<&str> = skipped.map(|(name, _)| name).collect();
    let mut expected: Vec<&str> = report.cases().map(|(name, _)| name).collect();
    expected.retain(|name| NONE.contains(name));
    assert_eq!(skipped, expected);
    assert_eq!(expected.len(), NONE.len(), "each of these is a case");
    // However reads were dropped, and whatever was out of order: nothing is left behind.
    assert!(rig.provider.release(Instant::now() + Duration::from_secs(5)).await);
    assert_eq!(rig.lender.leases(), 0);
    assert!(rig.folder.path().exists());
}
