//! Secrets that end by themselves: nobody is served one after its end, however long the cache
//! would keep it and however long the store is away.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use oneiric_core::{
    Capabilities, ChangeStream, Clock, Descriptor, Error, ErrorKind, FetchRequest, Fetched, Result,
    SecretKey, SecretLister, SecretProvider, SecretRef, SecretValue, SecretWriter, Stamp, Version,
};
use oneiric_secrets::{Resolver, ResolverOptions};
use tokio::time::Instant;

const LIFE: Duration = Duration::from_secs(60);

/// Hands out a value that ends after [`LIFE`], and can be away.
#[derive(Debug)]
struct Lender {
    descriptor: Descriptor,
    away: AtomicBool,
    fetches: AtomicU64,
    released: AtomicBool,
}

#[async_trait]
impl SecretProvider for Lender {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn fetch(&self, _: &FetchRequest) -> Result<Fetched> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "the lender is away"));
        }
        let mut fetched = Fetched::new(SecretValue::from("lent"), Version::opaque("one"));
        fetched.expires_at = Some(SystemTime::now() + LIFE);
        Ok(fetched)
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        oneiric_core::fetch_each(self, requests).await
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        let none = Error::new(ErrorKind::Unsupported, "there are no stamps");
        keys.iter().map(|_| Err(none.clone())).collect()
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

    async fn release(&self, _: Instant) -> bool {
        if self.away.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        // What was given back once is not there a second time.
        !self.released.swap(true, Ordering::SeqCst)
    }
}

fn lender() -> Arc<Lender> {
    let descriptor = Descriptor::new("lender", "lender:", Capabilities::default());
    Arc::new(Lender { descriptor, away: false.into(), fetches: 0.into(), released: false.into() })
}

fn rig() -> (Arc<Lender>, Resolver, Clock, SecretRef) {
    let lender = lender();
    let clock = Clock::held();
    let mut options = ResolverOptions::default();
    options.clock = clock.clone();
    let providers = [("lent".parse().unwrap(), Arc::clone(&lender) as _)];
    (lender, Resolver::new(providers, options), clock, "lent:a".parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_ends_by_itself_is_fetched_again_ahead_of_its_end() {
    let (lender, resolver, clock, reference) = rig();
    resolver.get(&reference).await.unwrap();
    clock.advance(LIFE.mul_f64(0.7));
    resolver.get(&reference).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(lender.fetches.load(Ordering::SeqCst), 1);
    clock.advance(LIFE.mul_f64(0.2));
    resolver.get(&reference).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(lender.fetches.load(Ordering::SeqCst), 2, "behind the reader's back");
    // It was lent anew, so the first end means nothing any more.
    clock.advance(LIFE.mul_f64(0.5));
    assert!(resolver.get(&reference).await.unwrap().stale_for().is_none());
    assert_eq!(lender.fetches.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_is_not_served_for_want_of_something_better() {
    let (lender, resolver, clock, reference) = rig();
    let handle = resolver.handle(&reference).await.unwrap();
    lender.away.store(true, Ordering::SeqCst);
    clock.advance(LIFE - Duration::from_secs(1));
    assert!(resolver.get(&reference).await.is_ok());
    assert!(handle.load().is_ok());
    clock.advance(Duration::from_secs(2));
    let error = resolver.get(&reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // The keeper looks once a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(handle.load().is_err());
    lender.away.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_secs(60));
    assert!(resolver.get(&reference).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_is_not_shown_of_a_fallback_either() {
    let (first, next, clock) = (lender(), lender(), Clock::held());
    first.away.store(true, Ordering::SeqCst);
    let mut options = ResolverOptions::default();
    options.clock = clock.clone();
    let candidates = ["first:a", "next:a"].map(|of| of.parse().unwrap());
    options.aliases = [("db".parse().unwrap(), candidates.to_vec().into())].into();
    let providers = [("first", &first), ("next", &next)];
    let providers = providers.map(|(id, of)| (id.parse().unwrap(), Arc::clone(of) as _));
    let resolver = Resolver::new(providers, options);
    let handle = resolver.handle(&"db".parse().unwrap()).await.unwrap();
    assert_eq!(handle.load().unwrap().fallback().unwrap().as_str(), "next");
    next.away.store(true, Ordering::SeqCst);
    clock.advance(LIFE + Duration::from_secs(1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(handle.load().is_err());
}

#[tokio::test(start_paused = true)]
async fn every_provider_is_asked_to_give_back_and_none_is_waited_for_past_the_deadline() {
    let (lender, resolver, _, reference) = rig();
    resolver.get(&reference).await.unwrap();
    assert!(resolver.release(Instant::now() + LIFE).await);
    assert!(lender.released.load(Ordering::SeqCst));
    assert!(
        !resolver.release(Instant::now() + LIFE).await,
        "a provider says that something is left"
    );
    lender.away.store(true, Ordering::SeqCst);
    let started = Instant::now();
    assert!(!resolver.release(started + LIFE).await);
    assert_eq!(started.elapsed(), LIFE);
}
