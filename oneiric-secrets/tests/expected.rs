//! What is expected of the secret of an alias: that it is there, what stands in its place if not,
//! and what form it has.

#![expect(clippy::unwrap_used, reason = "a helper that fails has failed its test")]

use std::sync::Arc;
use std::time::Duration;

use oneiric_core::settings::SecretSettings;
use oneiric_core::{AliasId, Clock, ErrorKind, SecretKind, SecretRef, SecretValue};
use oneiric_secrets::{Mode, Resolver, ResolverOptions, Scope};
use oneiric_testkit::MemoryProvider;

struct Rig {
    resolver: Resolver,
    first: Arc<MemoryProvider>,
    next: Arc<MemoryProvider>,
    clock: Clock,
}

/// Two stores, and these aliases.
fn rig(aliases: impl IntoIterator<Item = (&'static str, SecretSettings)>) -> Rig {
    let (first, next, clock) = (MemoryProvider::new(), MemoryProvider::new(), Clock::held());
    let mut options = ResolverOptions::default();
    options.clock = clock.clone();
    options.seed = Some(1);
    let alias = |(name, of): (&str, _)| (name.parse::<AliasId>().unwrap(), of);
    options.aliases = aliases.into_iter().map(alias).collect();
    let providers = [
        ("first".parse().unwrap(), Arc::clone(&first) as _),
        ("next".parse().unwrap(), Arc::clone(&next) as _),
    ];
    Rig { resolver: Resolver::new(providers, options), first, next, clock }
}

fn name(text: &str) -> SecretRef {
    text.parse().unwrap()
}

fn alias(candidates: &[&str]) -> SecretSettings {
    candidates.iter().map(|of| name(of)).collect::<Vec<_>>().into()
}

fn optional(candidates: &[&str]) -> SecretSettings {
    let mut settings = alias(candidates);
    settings.required = false;
    settings
}

fn or(candidates: &[&str], default: &str) -> SecretSettings {
    let mut settings = optional(candidates);
    settings.default = Some(SecretValue::from(default));
    settings
}

fn of_kind(candidates: &[&str], kind: SecretKind) -> SecretSettings {
    let mut settings = alias(candidates);
    settings.kind = Some(kind);
    settings
}

impl Rig {
    /// The value, and whether it is a default.
    async fn get(&self, reference: &str) -> (String, bool) {
        let secret = self.resolver.get(&name(reference)).await.unwrap();
        (secret.value().expose_str().unwrap().to_owned(), secret.is_default())
    }

    async fn kind(&self, reference: &str) -> ErrorKind {
        self.resolver.get(&name(reference)).await.unwrap_err().kind()
    }

    fn invalidate(&self, reference: &str, mode: Mode) {
        let scope = Scope::Secrets(vec![name(reference)]);
        self.resolver.invalidate_secrets(&scope, mode).unwrap();
    }

    async fn pass(&self, time: Duration) {
        // In steps, as the keeper looks.
        for _ in 0..time.as_secs() {
            self.clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn stored(value: &str) -> (String, bool) {
    (value.to_owned(), false)
}

fn default(value: &str) -> (String, bool) {
    (value.to_owned(), true)
}

#[tokio::test(start_paused = true)]
async fn a_default_stands_for_what_nobody_has() {
    let rig = rig([("level", or(&["first:level", "next:level"], "info"))]);
    assert_eq!(rig.get("level").await, default("info"));
    assert_eq!((rig.first.fetches(), rig.next.fetches()), (1, 1));
    assert_eq!(rig.get("level").await, default("info"));
    assert_eq!((rig.first.fetches(), rig.next.fetches()), (1, 1), "an absence is believed shortly");
    rig.first.put("level", "debug");
    rig.pass(Duration::from_secs(6)).await;
    assert_eq!(rig.get("level").await, stored("debug"));
    let secret = rig.resolver.get(&name("level")).await.unwrap();
    assert_eq!(secret.version().id(), "1");
}

#[tokio::test(start_paused = true)]
async fn a_default_is_not_used_while_somebody_may_have_the_secret() {
    let rig = rig([("level", or(&["first:level", "next:level"], "info"))]);
    for kind in [
        ErrorKind::Unavailable,
        ErrorKind::Denied,
        ErrorKind::Unauthenticated,
        ErrorKind::Invalid,
        ErrorKind::VersionDisabled,
    ] {
        rig.first.fail(Some(kind));
        rig.invalidate("level", Mode::Hard);
        assert_eq!(rig.kind("level").await, kind, "the first may have it");
        rig.first.fail(None);
        rig.next.fail(Some(kind));
        rig.invalidate("level", Mode::Hard);
        assert_eq!(rig.kind("level").await, ErrorKind::NotFound, "the other may have it: {kind:?}");
        rig.next.fail(None);
    }
    rig.next.put("level", "standby");
    rig.invalidate("level", Mode::Hard);
    assert_eq!(rig.kind("level").await, ErrorKind::NotFound, "the other has it, and is not asked");
    rig.next.remove("level");
    rig.invalidate("level", Mode::Hard);
    assert_eq!(rig.get("level").await, default("info"));
}

#[tokio::test(start_paused = true)]
async fn a_default_stands_for_a_field_that_is_not_there() {
    let rig = rig([("port", or(&["first:db#/port"], "5432"))]);
    rig.first.put("db", r#"{"host":"a"}"#);
    assert_eq!(rig.get("port").await, default("5432"));
    let set = rig.resolver.get_set(&[name("port"), name("first:db#/host")]).await.unwrap();
    assert_eq!(set.get(&name("port")).unwrap().expose(), b"5432");
    assert!(set.is_default(&name("port")) && !set.is_default(&name("first:db#/host")));
    rig.first.fail(Some(ErrorKind::Unavailable));
    rig.invalidate("port", Mode::Soft);
    assert_eq!(rig.kind("port").await, ErrorKind::NotFound, "what was before an outage is not now");
    assert!(rig.resolver.get_set(&[name("port")]).await.is_err());
    rig.first.fail(None);
    rig.first.put("db", r#"{"host":"a","port":"6432"}"#);
    rig.invalidate("port", Mode::Soft);
    assert_eq!(rig.get("port").await, stored("6432"));
}

#[tokio::test(start_paused = true)]
async fn a_set_does_without_what_need_not_be_there() {
    let rig = rig([
        ("extra", optional(&["first:extra"])),
        ("level", or(&["first:level"], "info")),
        ("must", alias(&["first:must"])),
    ]);
    rig.first.put("plain", "p");
    let (extra, level, plain) = (name("extra"), name("level"), name("first:plain"));
    let all = [extra.clone(), level.clone(), plain.clone()];
    let set = rig.resolver.get_set(&all).await.unwrap();
    let there: Vec<_> =
        set.versions().map(|(of, version)| (of.to_string(), version.to_string())).collect();
    let wanted = [("level", "default"), ("first:plain", "1")];
    assert_eq!(there, wanted.map(|(of, version)| (of.to_owned(), version.to_owned())));
    assert_eq!(rig.kind("extra").await, ErrorKind::NotFound);
    for required in ["must", "first:extra"] {
        let error = rig.resolver.get_set(&[plain.clone(), name(required)]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{required}");
    }
    rig.first.put("extra", "e");
    rig.invalidate("extra", Mode::Soft);
    let set = rig.resolver.get_set(&all).await.unwrap();
    assert_eq!(set.get(&extra).unwrap().expose(), b"e");
    rig.first.fail(Some(ErrorKind::Denied));
    rig.invalidate("extra", Mode::Soft);
    let error = rig.resolver.get_set(&all).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "what may not be read is not what is not there");
}

#[tokio::test(start_paused = true)]
async fn a_set_with_a_default_is_of_one_moment() {
    let rig = rig([("level", or(&["first:level"], "info"))]);
    rig.first.put("level", "debug");
    let level = name("level");
    rig.resolver.get(&level).await.unwrap();
    // It is gone, while the cache still holds what it was.
    rig.first.remove("level");
    rig.invalidate("level", Mode::Soft);
    let set = rig.resolver.get_set(std::slice::from_ref(&level)).await.unwrap();
    assert!(set.is_default(&level));
    rig.first.put("level", "trace");
    rig.invalidate("level", Mode::Soft);
    let set = rig.resolver.get_set(std::slice::from_ref(&level)).await.unwrap();
    assert_eq!(set.get(&level).unwrap().expose(), b"trace");
}

#[tokio::test(start_paused = true)]
async fn a_handle_waits_for_what_is_not_there_without_pestering_the_store() {
    let rig = rig([("extra", optional(&["first:extra"])), ("level", or(&["first:level"], "info"))]);
    let mut extra = rig.resolver.handle(&name("extra")).await.unwrap();
    let mut level = rig.resolver.handle(&name("level")).await.unwrap();
    assert_eq!(extra.load().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(level.load().unwrap().expose(), b"info");
    assert_eq!(rig.resolver.awaited(&"first".parse().unwrap()).len(), 2);
    let before = rig.first.fetches();
    rig.pass(Duration::from_secs(590)).await;
    assert_eq!(rig.first.fetches(), before, "no more often than what is there");
    rig.first.put("extra", "e");
    rig.first.put("level", "debug");
    rig.pass(Duration::from_secs(30)).await;
    extra.changed().await.unwrap();
    level.changed().await.unwrap();
    assert_eq!(extra.load().unwrap().expose(), b"e");
    assert_eq!(level.load().unwrap().expose(), b"debug");
    assert!(rig.resolver.awaited(&"first".parse().unwrap()).is_empty());

    // What is gone is shown for as long as a last good value may be, and not after it was purged.
    rig.first.remove("level");
    rig.first.remove("extra");
    rig.invalidate("level", Mode::Soft);
    rig.pass(Duration::from_secs(10)).await;
    assert_eq!(level.load().unwrap().expose(), b"debug");
    rig.invalidate("level", Mode::Hard);
    rig.invalidate("extra", Mode::Hard);
    level.changed().await.unwrap();
    assert_eq!(level.load().unwrap().expose(), b"info");
    extra.load().unwrap_err();
    rig.first.put("level", "trace");
    rig.invalidate("level", Mode::Soft);
    level.changed().await.unwrap();
    assert_eq!(level.load().unwrap().expose(), b"trace");
    // Only who has said that it is not there is believed.
    rig.first.fail(Some(ErrorKind::Unavailable));
    rig.invalidate("level", Mode::Hard);
    rig.pass(Duration::from_secs(10)).await;
    assert_eq!(level.load().unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn p9_a_value_that_is_not_of_its_kind_is_refused_and_the_last_good_one_serves() {
    let rig = rig([
        ("url", of_kind(&["first:url", "next:db#/url"], SecretKind::Url)),
        ("pinned", of_kind(&["first:old@1"], SecretKind::Json)),
    ]);
    rig.first.put("url", "postgres://u:one@db/app");
    assert_eq!(rig.get("url").await, stored("postgres://u:one@db/app"));
    rig.first.put("url", "hunter2");
    rig.invalidate("url", Mode::Soft);
    let secret = rig.resolver.get(&name("url")).await.unwrap();
    assert_eq!(secret.value().expose(), b"postgres://u:one@db/app", "the last good one serves on");
    assert!(secret.stale_for().is_some());
    let error = rig.resolver.last_failure(&name("url")).unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(text.contains("`first:url`") && text.contains("kind `url`"), "{text}");
    assert!(text.contains("alias `url`") && !text.contains("hunter2"), "{text}");
    // It is refused for everybody, whatever name they use.
    assert!(rig.resolver.get(&name("first:url")).await.unwrap().stale_for().is_some());
    // Of a fallback it is the field that is meant.
    rig.next.put("db", r#"{"url":"no url"}"#);
    assert_eq!(rig.kind("next:db").await, ErrorKind::Invalid);
    rig.next.put("db", r#"{"url":"http://a"}"#);
    rig.invalidate("next:db", Mode::Hard);
    assert_eq!(rig.get("next:db#/url").await, stored("http://a"));
    // What another version is, is no matter of this one.
    rig.first.put("old", "no json");
    assert_eq!(rig.get("first:old").await, stored("no json"));
    assert_eq!(rig.kind("pinned").await, ErrorKind::Invalid);
}

#[test]
fn who_writes_a_secret_is_told_what_an_alias_wants_it_to_be() {
    let mut options = ResolverOptions::default();
    let kind = of_kind(&["first:key"], SecretKind::Password);
    options.aliases = [("key".parse().unwrap(), kind)].into();
    let value = SecretValue::from("s3cr3t\n");
    let error = options.check(&value, &name("first:key")).unwrap_err();
    assert!(error.to_string().contains("--trim"), "{error}");
    options.check(&value, &name("first:other")).unwrap();
}
