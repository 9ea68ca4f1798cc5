//! Secrets that need not be there: how they reach adapters when they come, and that nobody loses
//! them when they go.

use std::sync::Arc;
use std::time::Duration;

use oneiric_core::settings::SecretSettings;
use oneiric_core::{
    AliasId, Capabilities, Change, Clock, ErrorKind, InstanceId, LifecycleHook, Managed,
    ManagedHook, SecretRef, SecretValue,
};
use oneiric_runtime::report::Outcome;
use oneiric_runtime::{RotateRequest, Runtime, RuntimeOptions};
use oneiric_secrets::{Mode, Resolver, ResolverOptions, Scope};
use oneiric_testkit::MemoryProvider;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

struct Rig {
    store: Arc<MemoryProvider>,
    runtime: Runtime,
    clock: Clock,
    _stop: DropGuard,
}

fn settings(key: &str, required: bool, default: Option<&str>) -> SecretSettings {
    let mut settings =
        SecretSettings::from(vec![format!("mem:{key}").parse::<SecretRef>().unwrap()]);
    settings.required = required;
    settings.default = default.map(SecretValue::from);
    settings
}

/// A store of this sort, and aliases: `must`, `extra` that need not be there, `level` with a default.
fn start(capabilities: Capabilities, watch_interval: Duration) -> Rig {
    let store = MemoryProvider::with_capabilities(capabilities);
    let mut options = ResolverOptions::default();
    let clock = Clock::held();
    options.clock = clock.clone();
    let mut must = settings("must", true, None);
    must.description = Some("what nothing goes without".into());
    let aliases = [
        ("must", must),
        ("extra", settings("extra", false, None)),
        ("level", settings("level", false, Some("info"))),
    ];
    options.aliases =
        aliases.into_iter().map(|(id, of)| (id.parse::<AliasId>().unwrap(), of)).collect();
    let providers = [("mem".parse().unwrap(), Arc::clone(&store) as _)];
    let resolver = Resolver::new(providers, options);
    let mut options = RuntimeOptions::new("test".parse::<InstanceId>().unwrap());
    options.watch_interval = watch_interval;
    let (runtime, task) = options.build(resolver).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(task.run(stop.clone()));
    Rig { store, runtime, clock, _stop: stop.drop_guard() }
}

/// What an adapter of all three was built from.
fn hook(id: &str) -> ManagedHook<String> {
    let secrets = ["must", "extra", "level"].map(|alias| alias.parse::<SecretRef>().unwrap());
    ManagedHook::new(id.parse().unwrap(), secrets, |secrets| async move {
        let of = |(reference, version)| {
            let value = secrets.get(reference).and_then(SecretValue::expose_str).unwrap_or("?");
            format!("{reference}={value} ({version})")
        };
        Ok(secrets.versions().map(of).collect::<Vec<_>>().join(" "))
    })
}

impl Rig {
    async fn pass(&self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.clock.advance(Duration::from_secs(1));
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn becomes(&self, served: &Managed<String>, wanted: &str) {
        for _ in 0..1500 {
            if served.load().as_str() == wanted {
                return;
            }
            self.pass(Duration::from_secs(1)).await;
        }
        panic!("{} is served, not {wanted}", served.load().as_str());
    }

    async fn rotate(&self, mode: Mode) -> Outcome {
        let mut request = RotateRequest::new(Scope::All);
        request.mode = mode;
        let report = self.runtime.rotate(request).await;
        assert_eq!(report.outcome, Outcome::Done, "{report:?}");
        report.outcome
    }
}

const NEVER: Duration = Duration::ZERO;
const WATCH: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn what_need_not_be_there_is_left_out_and_comes_with_a_rotation() {
    let rig = start(Capabilities::default(), NEVER);
    rig.store.put("must", "m");
    let served = rig.runtime.manage(hook("a")).await.unwrap();
    assert_eq!(served.load().as_str(), "must=m (1) level=info (default)");
    rig.store.put("extra", "e");
    rig.store.put("level", "debug");
    rig.rotate(Mode::Soft).await;
    assert_eq!(served.load().as_str(), "must=m (1) extra=e (1) level=debug (1)");
}

#[tokio::test(start_paused = true)]
async fn what_is_required_and_missing_is_said_with_what_it_is_for() {
    let rig = start(Capabilities::default(), NEVER);
    let hooks = [hook("a"), hook("b")].map(|hook| Arc::new(hook) as Arc<dyn LifecycleHook>);
    let error = rig.runtime.register_all(hooks).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for adapter in ["a", "b"] {
        let wanted =
            format!("adapter `{adapter}` needs `must` (`mem:must`, what nothing goes without): ");
        assert!(error.to_string().contains(&wanted), "{error}");
    }
    assert!(!error.to_string().contains("extra"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_comes_is_noticed_by_the_sweep() {
    let rig = start(Capabilities { stamps: true, ..Default::default() }, WATCH);
    rig.store.put("must", "m");
    let served = rig.runtime.manage(hook("a")).await.unwrap();
    let fetches = rig.store.fetches();
    rig.pass(Duration::from_secs(120)).await;
    assert_eq!(rig.store.fetches(), fetches, "what is not there costs stamps, no reads");
    rig.store.put("extra", "e");
    rig.store.put("level", "debug");
    for _ in 0..120 {
        rig.pass(Duration::from_secs(1)).await;
        if served.load().as_str() == "must=m (1) extra=e (1) level=debug (1)" {
            return;
        }
    }
    panic!("{} is served", served.load().as_str());
}

#[tokio::test(start_paused = true)]
async fn what_comes_is_noticed_by_an_event() {
    let rig = start(Capabilities { push: true, ..Default::default() }, WATCH);
    rig.store.put("must", "m");
    let served = rig.runtime.manage(hook("a")).await.unwrap();
    rig.pass(Duration::from_secs(2)).await;
    rig.store.put("extra", "e");
    rig.store.announce(Change::Secret { key: "extra".parse().unwrap(), version: None });
    rig.pass(Duration::from_secs(5)).await;
    assert_eq!(served.load().as_str(), "must=m (1) extra=e (1) level=info (default)");
}

#[tokio::test(start_paused = true)]
async fn what_comes_is_noticed_where_a_store_shows_no_stamps() {
    let rig = start(Capabilities::default(), WATCH);
    rig.store.put("must", "m");
    let served = rig.runtime.manage(hook("a")).await.unwrap();
    rig.store.put("extra", "e");
    rig.becomes(&served, "must=m (1) extra=e (1) level=info (default)").await;
}

#[tokio::test(start_paused = true)]
async fn what_goes_is_taken_from_nobody_but_by_a_hard_rotation() {
    let rig = start(Capabilities { stamps: true, ..Default::default() }, WATCH);
    for key in ["must", "extra", "level"] {
        rig.store.put(key, "1");
    }
    const ALL: &str = "must=1 (1) extra=1 (1) level=1 (1)";
    let served = rig.runtime.manage(hook("a")).await.unwrap();
    assert_eq!(served.load().as_str(), ALL);
    rig.store.remove("extra");
    rig.store.remove("level");
    rig.pass(Duration::from_secs(1200)).await;
    assert_eq!(served.load().as_str(), ALL, "an absence is no change");
    rig.rotate(Mode::Soft).await;
    assert_eq!(served.load().as_str(), ALL, "not even when everything is read anew");
    rig.store.put("must", "2");
    rig.rotate(Mode::Soft).await;
    assert_eq!(served.load().as_str(), "must=2 (2) extra=1 (1) level=1 (1)");
    rig.rotate(Mode::Hard).await;
    assert_eq!(served.load().as_str(), "must=2 (2) level=info (default)");
}
