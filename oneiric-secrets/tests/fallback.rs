//! Aliases: who answers for one, when another is asked, and that it is said.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneiric_core::{Clock, ErrorKind, ProviderId, Result, SecretRef};
use oneiric_secrets::{Mode, Resolver, ResolverOptions, Scope, Secret};
use oneiric_testkit::{Fault, MemoryProvider};
use tokio::time::Instant;

/// Two stores, an alias `db` for the secret `db` of both, and `user` and `password` likewise.
struct Rig {
    aws: Arc<MemoryProvider>,
    vault: Arc<MemoryProvider>,
    clock: Clock,
    resolver: Resolver,
}

fn rig() -> Rig {
    let (aws, vault, clock) = (MemoryProvider::new(), MemoryProvider::new(), Clock::held());
    let mut options = ResolverOptions::default();
    options.clock = clock.clone();
    options.seed = Some(1);
    let alias = |name: &str, candidates: &[&str]| {
        let candidates: Vec<_> = candidates.iter().map(|of| of.parse().unwrap()).collect();
        (name.parse().unwrap(), candidates.into())
    };
    options.aliases = [
        alias("db", &["aws:db", "vault:db"]),
        alias("user", &["aws:user", "vault:user"]),
        alias("password", &["aws:password", "vault:password"]),
        alias("lonely", &["aws:password"]),
        alias("json", &["aws:json#/a", "vault:json"]),
        alias("pinned", &["aws:db@1", "vault:db"]),
    ]
    .into();
    let providers = [
        ("aws".parse().unwrap(), Arc::clone(&aws) as _),
        ("vault".parse().unwrap(), Arc::clone(&vault) as _),
    ];
    let rig = Rig { resolver: Resolver::new(providers, options), aws, vault, clock };
    for key in ["db", "user", "password"] {
        rig.aws.put(key, format!("{key} of aws"));
        rig.vault.put(key, format!("{key} of vault"));
    }
    rig
}

fn name(text: &str) -> SecretRef {
    text.parse().unwrap()
}

fn text(secret: &Secret) -> String {
    secret.value().expose_str().unwrap().to_owned()
}

impl Rig {
    async fn read(&self, reference: &str) -> Result<Secret> {
        self.resolver.get(&name(reference)).await
    }

    /// The value, and the provider that answered in the place of another.
    async fn get(&self, reference: &str) -> (String, Option<String>) {
        let secret = self.read(reference).await.unwrap();
        (text(&secret), secret.fallback().map(ToString::to_string))
    }

    async fn kind(&self, reference: &str) -> ErrorKind {
        self.read(reference).await.unwrap_err().kind()
    }

    fn purge(&self, reference: &str) {
        let scope = Scope::Secrets(vec![name(reference)]);
        self.resolver.invalidate_secrets(&scope, Mode::Hard).unwrap();
    }

    /// Lets tasks run that nobody waits for.
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        tokio::time::sleep(time).await;
    }
}

fn own(value: &str) -> (String, Option<String>) {
    (value.to_owned(), None)
}

fn from_vault(value: &str) -> (String, Option<String>) {
    (value.to_owned(), Some("vault".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn an_alias_is_read_where_it_belongs() {
    let rig = rig();
    rig.aws.put("json", r#"{"a":{"b":"deep"},"b":"shallow"}"#);
    assert_eq!(rig.get("db").await, own("db of aws"));
    assert_eq!(rig.get("json#b").await, own("deep"), "a field is one within the candidate's");
    assert_eq!(rig.vault.fetches(), 0, "nobody asks a fallback who need not");
    let kept = name("db");
    for _ in 0..3 {
        assert_eq!(text(&rig.resolver.try_get(&kept).unwrap()), "db of aws");
    }
    assert_eq!(rig.aws.fetches(), 2, "an alias and what it stands for are one secret");
    assert!(rig.resolver.try_get(&name("aws:db")).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_alias_that_is_not_there_names_the_nearest() {
    let rig = rig();
    let error = rig.read("pasword").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.to_string(), "there is no alias `pasword`; did you mean `password`?");
    let scope = Scope::Secrets(vec![name("aws:db"), name("pasword")]);
    assert!(rig.resolver.invalidate_secrets(&scope, Mode::Soft).is_err());
    let other = Resolver::new([], ResolverOptions::default());
    let kept = name("db");
    rig.resolver.get(&kept).await.unwrap();
    let error = other.get(&kept).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no alias `db`; none is defined");
}

#[tokio::test(start_paused = true)]
async fn a_pinned_candidate_stays_at_its_version() {
    let rig = rig();
    rig.aws.put("db", "second");
    assert_eq!(rig.get("pinned").await, own("db of aws"));
    rig.aws.fail(Some(ErrorKind::Unavailable));
    rig.purge("pinned");
    assert_eq!(rig.get("pinned").await, from_vault("db of vault"));
}

/// An answer that is a no stays one, whatever others would say.
async fn a_no_is_no(kind: ErrorKind) {
    let rig = rig();
    rig.aws.fail(Some(kind));
    assert_eq!(rig.kind("db").await, kind);
    assert_eq!(rig.kind("db").await, kind);
    assert!(rig.resolver.try_get(&name("db")).is_none());
    assert!(rig.resolver.get_set(&[name("db")]).await.is_err());
    assert_eq!(rig.vault.fetches(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_found_is_not_looked_for_elsewhere() {
    a_no_is_no(ErrorKind::NotFound).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_denied_is_not_asked_for_elsewhere() {
    a_no_is_no(ErrorKind::Denied).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_unknown_does_not_ask_elsewhere() {
    a_no_is_no(ErrorKind::Unauthenticated).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_invalid_is_not_replaced_from_elsewhere() {
    a_no_is_no(ErrorKind::Invalid).await;
}

#[tokio::test(start_paused = true)]
async fn a_disabled_version_is_not_replaced_from_elsewhere() {
    a_no_is_no(ErrorKind::VersionDisabled).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_value_is_not_replaced_from_elsewhere() {
    let rig = rig();
    rig.aws.put("db", "changeme");
    assert_eq!(rig.kind("db").await, ErrorKind::Invalid);
    assert_eq!(rig.vault.fetches(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_next_is_asked_while_the_first_cannot_answer_and_it_is_said() {
    for kind in [
        ErrorKind::Unavailable,
        ErrorKind::DeadlineExceeded,
        ErrorKind::Throttled { retry_after: None },
        ErrorKind::Throttled { retry_after: Some(Duration::from_secs(5)) },
    ] {
        let rig = rig();
        rig.aws.fail(Some(kind));
        assert_eq!(rig.get("db").await, from_vault("db of vault"), "{kind}");
        let of_two = rig.resolver.get_many(&[name("db"), name("aws:db")]).await;
        assert_eq!(of_two[0].as_ref().unwrap().fallback().unwrap().as_str(), "vault");
        assert_eq!(of_two[1].as_ref().unwrap_err().kind(), kind, "the name says where");
        let set = rig.resolver.get_set(&[name("db")]).await.unwrap();
        assert_eq!(set.fallback(&name("db")).map(ProviderId::as_str), Some("vault"));
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_answers_the_error_is_that_of_the_first_and_names_all() {
    let rig = rig();
    rig.aws.fail(Some(ErrorKind::Unavailable));
    rig.vault.remove("db");
    let error = rig.read("db").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "that vault has none does not speak for aws");
    for part in ["nobody answers for `db`", "`aws:db`", "`vault:db`"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    rig.aws.fail(None);
    assert_eq!(rig.get("db").await, own("db of aws"), "with nobody else, the first is waited for");
}

#[tokio::test(start_paused = true)]
async fn the_last_good_value_of_the_first_is_better_than_that_of_another() {
    let rig = rig();
    rig.get("db").await;
    rig.aws.fail(Some(ErrorKind::Unavailable));
    rig.resolver.invalidate_secrets(&Scope::All, Mode::Soft).unwrap();
    for _ in 0..5 {
        let secret = rig.read("db").await.unwrap();
        assert_eq!((text(&secret).as_str(), secret.fallback()), ("db of aws", None));
        assert!(secret.stale_for().is_some());
        rig.pass(Duration::from_secs(60)).await;
    }
    assert_eq!(rig.vault.fetches(), 0);
    rig.clock.advance(Duration::from_secs(2 * 3600));
    assert_eq!(rig.get("db").await, from_vault("db of vault"), "its stale time is over");
}

#[tokio::test(start_paused = true)]
async fn a_purged_value_is_read_from_the_next() {
    let rig = rig();
    rig.get("db").await;
    rig.aws.fail(Some(ErrorKind::Unavailable));
    rig.purge("db");
    assert_eq!(rig.get("db").await, from_vault("db of vault"));
}

#[tokio::test(start_paused = true)]
async fn readers_do_not_wait_again_for_one_that_hangs() {
    let rig = rig();
    rig.aws.hang(true);
    let start = Instant::now();
    assert_eq!(rig.get("db").await, from_vault("db of vault"));
    assert_eq!(start.elapsed(), Duration::from_secs(10), "the time of one fetch, once");
    for _ in 0..100 {
        rig.pass(Duration::from_secs(1)).await;
        let before = Instant::now();
        assert_eq!(rig.get("db").await, from_vault("db of vault"));
        assert!(before.elapsed() < Duration::from_millis(2), "{:?}", before.elapsed());
    }
    let tries = rig.aws.fetches();
    assert!((3..20).contains(&tries), "{tries} tries behind the readers' backs");
}

#[tokio::test(start_paused = true)]
async fn what_a_fallback_has_is_a_hit() {
    let rig = rig();
    rig.aws.fail(Some(ErrorKind::Throttled { retry_after: Some(Duration::from_secs(30)) }));
    let kept = name("db");
    rig.resolver.get(&kept).await.unwrap();
    let (aws, vault) = (rig.aws.fetches(), rig.vault.fetches());
    for _ in 0..100 {
        let secret = rig.resolver.try_get(&kept).unwrap();
        assert_eq!(secret.fallback().map(ProviderId::as_str), Some("vault"));
    }
    assert_eq!((rig.aws.fetches(), rig.vault.fetches()), (aws, vault));
}

#[tokio::test(start_paused = true)]
async fn the_first_answers_again_as_soon_as_it_is_back() {
    let rig = rig();
    rig.aws.fail(Some(ErrorKind::Unavailable));
    let kept = name("db");
    assert_eq!(rig.resolver.get(&kept).await.unwrap().fallback().unwrap().as_str(), "vault");
    rig.aws.fail(None);
    rig.pass(Duration::from_secs(31)).await;
    // It is tried behind the back of this one, and answers the next.
    rig.resolver.get(&kept).await.unwrap();
    rig.settle().await;
    assert_eq!(rig.resolver.get(&kept).await.unwrap().fallback(), None);
    assert_eq!(rig.get("db").await, own("db of aws"));
    assert_eq!(rig.resolver.try_get(&kept).map(|of| text(&of)).as_deref(), Some("db of aws"));
}

#[tokio::test(start_paused = true)]
async fn an_invalidated_alias_is_invalidated_at_everybody_who_may_answer() {
    for mode in [Mode::Soft, Mode::Hard, Mode::Rollback] {
        let rig = rig();
        rig.get("aws:db").await;
        rig.get("vault:db").await;
        rig.aws.put("db", "new of aws");
        rig.vault.put("db", "new of vault");
        let scope = Scope::Secrets(vec![name("db"), name("db#x"), name("aws:user")]);
        rig.resolver.invalidate_secrets(&scope, mode).unwrap();
        assert_eq!(rig.get("aws:db").await, own("new of aws"), "{mode:?}");
        assert_eq!(rig.get("vault:db").await, own("new of vault"), "{mode:?}");
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn count(&self, what: &str) -> usize {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().matches(what).count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_who_answers_is_said_once() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let rig = rig();
    rig.get("db").await;
    assert_eq!(lines.count("secrets-fallback"), 0);
    rig.aws.fail(Some(ErrorKind::Unavailable));
    rig.purge("db");
    for _ in 0..10 {
        rig.get("db").await;
    }
    assert_eq!(lines.count("secrets-fallback-begun"), 1);
    rig.aws.fail(None);
    rig.purge("db");
    for _ in 0..10 {
        rig.get("db").await;
    }
    assert_eq!(
        (lines.count("secrets-fallback-begun"), lines.count("secrets-fallback-ended")),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_handle_of_an_alias_goes_to_the_next_and_comes_back() {
    let rig = rig();
    let handle = rig.resolver.handle(&name("db")).await.unwrap();
    let shows = || {
        let guard = handle.load().ok()?;
        let value = guard.expose_str().unwrap().to_owned();
        Some((value, guard.fallback().map(ToString::to_string)))
    };
    assert_eq!(shows(), Some(own("db of aws")));
    assert_eq!(handle.reference().to_string(), "db");
    rig.aws.put("db", "second of aws");
    rig.resolver.invalidate_secrets(&Scope::Secrets(vec![name("db")]), Mode::Soft).unwrap();
    rig.pass(Duration::from_secs(2)).await;
    assert_eq!(shows(), Some(own("second of aws")));
    assert_eq!(rig.vault.fetches(), 0, "a fallback is not kept fresh for nothing");

    rig.aws.fail(Some(ErrorKind::Unavailable));
    rig.pass(Duration::from_secs(1800)).await;
    assert_eq!(shows(), Some(own("second of aws")), "its last good value is better");
    assert_eq!(rig.vault.fetches(), 0);
    rig.clock.advance(Duration::from_secs(2 * 3600));
    rig.pass(Duration::from_secs(5)).await;
    assert_eq!(shows(), Some(from_vault("db of vault")));
    rig.vault.put("db", "second of vault");
    rig.resolver.invalidate_secrets(&Scope::Secrets(vec![name("db")]), Mode::Hard).unwrap();
    assert_eq!(shows(), None);
    rig.pass(Duration::from_secs(5)).await;
    assert_eq!(shows(), Some(from_vault("second of vault")));

    rig.aws.fail(None);
    for _ in 0..40 {
        rig.pass(Duration::from_secs(1)).await;
    }
    assert_eq!(shows(), Some(own("second of aws")));
    let fetches = rig.vault.fetches();
    rig.pass(Duration::from_secs(1200)).await;
    assert_eq!(rig.vault.fetches(), fetches, "nor when it is no longer needed");
}

#[tokio::test(start_paused = true)]
async fn a_handle_of_an_alias_can_begin_with_the_next() {
    let rig = rig();
    rig.aws.play(Fault::Unreachable);
    let mut handle = rig.resolver.handle(&name("db")).await.unwrap();
    assert_eq!(handle.load().unwrap().expose(), b"db of vault");
    // A handle of the fallback itself is kept fresh all the same.
    let plain = rig.resolver.handle(&name("vault:db")).await.unwrap();
    rig.vault.put("db", "second of vault");
    rig.pass(Duration::from_secs(601)).await;
    rig.pass(Duration::from_secs(3)).await;
    assert_eq!(plain.load().unwrap().expose(), b"second of vault");
    assert_eq!(handle.load().unwrap().expose(), b"second of vault");
    rig.aws.mend();
    let changed = tokio::time::timeout(Duration::from_secs(100), async {
        loop {
            handle.changed().await.unwrap();
            if handle.load().unwrap().fallback().is_none() {
                break;
            }
        }
    });
    let passing = async {
        loop {
            rig.pass(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        changed = changed => changed.unwrap(),
        () = passing => {}
    }
    assert_eq!(handle.load().unwrap().expose(), b"db of aws");
}

/// User and password of one set, and where they are from.
async fn pair(rig: &Rig, references: [&str; 2]) -> Result<[(String, Option<String>); 2]> {
    let references = references.map(name);
    let set = rig.resolver.get_set(&references).await?;
    Ok(references.map(|of| {
        let value = set.get(&of).unwrap().expose_str().unwrap().to_owned();
        (value, set.fallback(&of).map(ToString::to_string))
    }))
}

#[tokio::test(start_paused = true)]
async fn p5_two_secrets_of_one_store_are_read_from_their_fallbacks_together() {
    let rig = rig();
    // The cache has the user of aws, and cannot have the password.
    rig.get("user").await;
    rig.aws.fail(Some(ErrorKind::Unavailable));
    let set = pair(&rig, ["user", "password"]).await.unwrap();
    assert_eq!(set, [from_vault("user of vault"), from_vault("password of vault")]);
    assert_eq!(rig.get("user").await, own("user of aws"), "alone it is still good");
    rig.aws.fail(None);
    rig.pass(Duration::from_secs(31)).await;
    rig.get("password").await;
    rig.settle().await;
    let set = pair(&rig, ["user", "password"]).await.unwrap();
    assert_eq!(set, [own("user of aws"), own("password of aws")]);
}

#[tokio::test(start_paused = true)]
async fn p5_what_has_no_fallback_keeps_the_rest_of_its_store_from_theirs() {
    for other in ["aws:user", "lonely"] {
        let rig = rig();
        rig.get(other).await;
        rig.aws.fail(Some(ErrorKind::Unavailable));
        rig.purge("db");
        let error = pair(&rig, [other, "db"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(rig.get("db").await.1.is_some(), "alone it may");
    }
}

#[tokio::test(start_paused = true)]
async fn p5_secrets_of_two_stores_are_read_each_from_its_own() {
    let rig = rig();
    rig.aws.fail(Some(ErrorKind::Unavailable));
    let set = pair(&rig, ["vault:user", "password"]).await.unwrap();
    assert_eq!(set, [own("user of vault"), from_vault("password of vault")]);
}
