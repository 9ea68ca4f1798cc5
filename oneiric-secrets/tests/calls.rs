//! What exactly a provider is asked, call by call.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use async_trait::async_trait;
use mockall::{Sequence, automock};
use oneiric_core::{
    Capabilities, ChangeStream, Clock, Descriptor, Error, ErrorKind, FetchRequest, Fetched, Result,
    SecretKey, SecretLister, SecretProvider, SecretRef, SecretValue, SecretWriter, Stamp, Version,
    fetch_each,
};
use oneiric_secrets::{Mode, Resolver, ResolverOptions, Scope};

#[automock]
trait Calls: std::fmt::Debug + Send + Sync {
    fn fetch(&self, request: &FetchRequest) -> Result<Fetched>;
    fn fetch_many(&self, keys: usize) -> bool;
}

/// A provider that asks the mock.
#[derive(Debug)]
struct Store {
    descriptor: Descriptor,
    calls: MockCalls,
}

#[async_trait]
impl SecretProvider for Store {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        self.calls.fetch(request)
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        assert!(self.calls.fetch_many(requests.len()));
        fetch_each(self, requests).await
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        keys.iter().map(|_| Err(Error::new(ErrorKind::Unsupported, "no stamps"))).collect()
    }

    fn changes(&self) -> Option<ChangeStream> {
        None
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        None
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        None
    }
}

fn resolver(calls: MockCalls, clock: &Clock) -> Resolver {
    let capabilities = Capabilities { versions: true, stamps: true, ..Capabilities::default() };
    let store = Store { descriptor: Descriptor::new("mock", "mock:", capabilities), calls };
    let mut options = ResolverOptions::default();
    options.clock = clock.clone();
    Resolver::new([("mock".parse().unwrap(), Arc::new(store) as _)], options)
}

fn reference(text: &str) -> SecretRef {
    format!("mock:{text}").parse().unwrap()
}

fn answer(version: u64) -> Fetched {
    let mut fetched = Fetched::new(SecretValue::from("v"), Version::numbered(version));
    fetched.stamp = Some(Stamp::from(format!("stamp {version}")));
    fetched
}

#[tokio::test(start_paused = true)]
async fn a_refresh_asks_with_the_stamp_that_is_held_and_is_renewed_by_not_modified() {
    let (mut calls, mut order) = (MockCalls::new(), Sequence::new());
    let first = |request: &FetchRequest| request.if_none_match.is_none();
    let with_stamp = |request: &FetchRequest| request.if_none_match == Some("stamp 1".into());
    let once = calls.expect_fetch().withf(first).times(1).in_sequence(&mut order);
    once.returning(|_| Ok(answer(1)));
    let not_modified = || Error::new(ErrorKind::NotModified, "the stamp still holds");
    let again = calls.expect_fetch().withf(with_stamp).times(2).in_sequence(&mut order);
    again.returning(move |_| Err(not_modified()));
    let clock = Clock::held();
    let resolver = resolver(calls, &clock);
    for _ in 0..3 {
        let secret = resolver.get(&reference("a")).await.unwrap();
        assert_eq!((secret.version().to_string(), secret.stale_for()), ("1".to_owned(), None));
        // Read twice: the second one is a hit.
        resolver.get(&reference("a")).await.unwrap();
        clock.advance(std::time::Duration::from_secs(601));
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_an_event_named_is_asked_for_by_its_number() {
    let (mut calls, mut order) = (MockCalls::new(), Sequence::new());
    let current = |request: &FetchRequest| request.version.is_none();
    let exact = |request: &FetchRequest| {
        request.version.as_deref() == Some("2") && request.if_none_match.is_none()
    };
    let once = calls.expect_fetch().withf(current).times(1).in_sequence(&mut order);
    once.returning(|_| Ok(answer(1)));
    let once = calls.expect_fetch().withf(exact).times(1).in_sequence(&mut order);
    once.returning(|_| Ok(answer(2)));
    let resolver = resolver(calls, &Clock::held());
    resolver.get(&reference("a")).await.unwrap();
    let (mock, key) = ("mock".parse().unwrap(), "a".parse().unwrap());
    resolver.expect_version(&mock, &key, Version::numbered(2)).unwrap();
    resolver.invalidate_secrets(&Scope::Keys(mock, vec![key]), Mode::Soft).unwrap();
    assert_eq!(resolver.get(&reference("a")).await.unwrap().version().id(), "2");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_an_event_named_and_that_is_not_served_gives_way_to_the_current_one() {
    let (mut calls, mut order) = (MockCalls::new(), Sequence::new());
    let current = |request: &FetchRequest| request.version.is_none();
    let exact = |request: &FetchRequest| request.version.as_deref() == Some("2");
    let once = calls.expect_fetch().withf(current).times(1).in_sequence(&mut order);
    once.returning(|_| Ok(answer(1)));
    let once = calls.expect_fetch().withf(exact).times(1).in_sequence(&mut order);
    once.returning(|_| Err(Error::new(ErrorKind::VersionDisabled, "it was taken back")));
    let once = calls.expect_fetch().withf(current).times(1).in_sequence(&mut order);
    once.returning(|_| Ok(answer(1)));
    let resolver = resolver(calls, &Clock::held());
    resolver.get(&reference("a")).await.unwrap();
    let (mock, key) = ("mock".parse().unwrap(), "a".parse().unwrap());
    resolver.expect_version(&mock, &key, Version::numbered(2)).unwrap();
    resolver.invalidate_secrets(&Scope::Keys(mock, vec![key]), Mode::Soft).unwrap();
    let secret = resolver.get(&reference("a")).await.unwrap();
    assert_eq!((secret.version().to_string(), secret.stale_for()), ("1".to_owned(), None));
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_of_several_is_asked_for_in_one_call() {
    let mut calls = MockCalls::new();
    calls.expect_fetch_many().withf(|keys| *keys == 3).times(1).return_const(true);
    calls.expect_fetch().times(4).returning(|_| Ok(answer(1)));
    let resolver = resolver(calls, &Clock::held());
    resolver.get(&reference("a")).await.unwrap();
    let four = ["a", "b", "c", "d"].map(reference);
    assert!(resolver.get_many(&four).await.iter().all(Result::is_ok));
    assert!(resolver.get_set(&four).await.is_ok());
}
