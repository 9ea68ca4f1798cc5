//! The suite on the double, which passes, and on doubles that are broken on purpose, each of
//! which must be caught by the case that is there for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use oneiric_core::{
    Capabilities, Change, ChangeStream, Descriptor, Error, ErrorKind, FetchRequest, Fetched,
    Result, SecretKey, SecretLister, SecretProvider, SecretValue, SecretWriter, Snapshot, Stamp,
    Version, VersionInfo, fetch_each,
};
use oneiric_testkit::{Ability, Fault, MemoryProvider, Outcome, Report, Rig, conformance};

struct MemoryRig {
    store: Arc<MemoryProvider>,
    provider: Arc<dyn SecretProvider>,
}

#[async_trait]
impl Rig for MemoryRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        Arc::clone(&self.provider)
    }

    fn stages(&self) -> bool {
        false
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        self.store.put_all(secrets.iter().map(|(key, value)| (key.as_str(), value.clone())));
        for (key, _) in secrets {
            self.store.announce(Change::Secret { key: key.clone(), version: None });
        }
        Ok(Vec::new())
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        self.store.remove(key.as_str());
        Ok(())
    }

    async fn fault(&self, fault: Fault) -> Ability {
        match fault {
            Fault::Unreachable => self.store.fail(Some(ErrorKind::Unavailable)),
            _ => return Ability::cannot("the double cannot play that"),
        }
        Ability::Done
    }

    async fn mend(&self) -> Result<()> {
        self.store.fail(None);
        Ok(())
    }
}

const EVERYTHING: Capabilities = Capabilities {
    versions: true,
    stamps: true,
    push: true,
    snapshots: true,
    binary: true,
    max_value: None,
};

async fn report(capabilities: Capabilities) -> Report {
    let store = MemoryProvider::with_capabilities(capabilities);
    conformance(&MemoryRig { provider: Arc::clone(&store) as _, store }).await
}

#[tokio::test(start_paused = true)]
async fn the_double_passes_with_every_ability() {
    let report = report(EVERYTHING).await;
    report.assert_passed();
    let skipped = report.cases().filter(|(_, outcome)| matches!(outcome, Outcome::Skipped(_)));
    assert_eq!(
        skipped.map(|(name, _)| name).collect::<Vec<_>>(),
        ["the_largest_value_is_served_and_no_larger_one"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_double_passes_with_none() {
    report(Capabilities { binary: true, ..Capabilities::default() }).await.assert_passed();
}

/// The ways in which a provider is broken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    LeaksInDebug,
    LeaksInLog,
    LeaksInError,
    WrongOrder,
    CommonError,
    StampOfNothing,
    StampOfTime,
    OneVersion,
    LatestForExact,
    Mixture,
    TornSet,
    ServesEmpty,
    Deaf,
    AbsentInOutage,
    Panics,
    Mangles,
    Unsorted,
}

struct Broken {
    defect: Defect,
    store: Arc<MemoryProvider>,
    /// What it read last, to leak it.
    seen: std::sync::Mutex<String>,
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.defect {
            Defect::LeaksInDebug => f.debug_tuple("Broken").field(&self.seen).finish(),
            _ => f.write_str("Broken"),
        }
    }
}

impl Broken {
    async fn broken_fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let mut request = request.clone();
        if self.defect == Defect::LatestForExact {
            request.version = None;
        }
        let mut fetched = match self.store.fetch(&request).await {
            Err(error) if error.kind() == ErrorKind::Invalid => {
                assert!(self.defect != Defect::Panics, "an empty value");
                match self.defect {
                    Defect::ServesEmpty => {
                        return Ok(Fetched::new(SecretValue::from(""), Version::numbered(1)));
                    }
                    _ => return Err(error),
                }
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                return match self.defect {
                    Defect::AbsentInOutage => Err(Error::new(ErrorKind::NotFound, "not there")),
                    _ => Err(error),
                };
            }
            answer => answer?,
        };
        let text = String::from_utf8_lossy(fetched.value.expose()).into_owned();
        match self.defect {
            Defect::LeaksInLog if text.len() < 100 => tracing::trace!(?text, "read"),
            Defect::LeaksInError if request.key.as_str().ends_with("large") => {
                return Err(Error::new(ErrorKind::Invalid, format!("{text:?} is too long")));
            }
            Defect::LeaksInError => {
                let source = format!("cannot parse {text:?}");
                if request.key.as_str().ends_with("unicode") {
                    return Err(Error::with_source(ErrorKind::Invalid, "it is damaged", source));
                }
            }
            Defect::Mixture => {
                let first = fetched.value.expose().to_vec();
                tokio::task::yield_now().await;
                let second = self.store.fetch(&request).await?.value.expose().to_vec();
                let half = first.len() / 2;
                let mixed = [&first[..half], &second[half.min(second.len())..]].concat();
                fetched.value = SecretValue::from(mixed);
            }
            Defect::OneVersion => fetched.version = Version::opaque("current"),
            Defect::StampOfNothing => fetched.stamp = Some(Stamp::from("same")),
            Defect::Mangles => {
                fetched.value = SecretValue::from(text.trim_end_matches('é'));
            }
            _ => {}
        }
        *self.seen.lock().expect("nobody panics while holding it") = text;
        Ok(fetched)
    }
}

#[async_trait]
impl SecretProvider for Broken {
    fn descriptor(&self) -> &Descriptor {
        self.store.descriptor()
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        self.broken_fetch(request).await
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        match self.defect {
            Defect::WrongOrder => {
                let mut requests = requests.to_vec();
                requests.sort_by(|a, b| a.key.cmp(&b.key));
                fetch_each(self, &requests).await
            }
            Defect::CommonError => {
                let answers = fetch_each(self, requests).await;
                match answers.iter().find_map(|answer| answer.as_ref().err()) {
                    Some(error) => requests.iter().map(|_| Err(error.clone())).collect(),
                    None => answers,
                }
            }
            Defect::TornSet => {
                let mut answers = Vec::new();
                for request in requests {
                    tokio::task::yield_now().await;
                    let mut answer = self.fetch(request).await;
                    if let Ok(fetched) = &mut answer {
                        fetched.snapshot = Some(Snapshot::from("now"));
                    }
                    answers.push(answer);
                }
                answers
            }
            _ => {
                let answers = self.store.fetch_many(requests).await;
                if self.defect == Defect::Mixture {
                    fetch_each(self, requests).await
                } else {
                    answers
                }
            }
        }
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        let stamps = self.store.stamps(keys).await;
        match self.defect {
            Defect::StampOfNothing => {
                stamps.into_iter().map(|stamp| stamp.map(|_| Stamp::from("same"))).collect()
            }
            Defect::StampOfTime => {
                let now = || Stamp::from(format!("{:?}", std::time::Instant::now()));
                stamps.into_iter().map(|stamp| stamp.map(|_| now())).collect()
            }
            _ => stamps,
        }
    }

    fn changes(&self) -> Option<ChangeStream> {
        match self.defect {
            Defect::Deaf => {
                // It hears the first change and no other, as a watch on a replaced file does.
                let first = self.store.changes()?.take(1);
                Some(first.chain(futures_util::stream::pending()).boxed())
            }
            _ => self.store.changes(),
        }
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        None
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        Some(self)
    }
}

#[async_trait]
impl SecretLister for Broken {
    async fn list(&self) -> Result<Vec<SecretKey>> {
        let mut keys = self.store.lister().expect("the double lists").list().await?;
        if self.defect == Defect::Unsorted {
            keys.reverse();
        }
        Ok(keys)
    }

    async fn versions(&self, key: &SecretKey) -> Result<Vec<VersionInfo>> {
        self.store.lister().expect("the double lists").versions(key).await
    }
}

async fn caught(defect: Defect) -> Vec<&'static str> {
    let store = MemoryProvider::with_capabilities(EVERYTHING);
    let seen = std::sync::Mutex::default();
    let provider = Arc::new(Broken { defect, store: Arc::clone(&store), seen });
    conformance(&MemoryRig { store, provider }).await.failed()
}

macro_rules! catches {
    ($($test:ident: $defect:ident => $case:literal;)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $test() {
            let failed = caught(Defect::$defect).await;
            assert!(failed.contains(&$case), "{failed:?}");
        })*
    };
}

catches! {
    a_leak_in_debug: LeaksInDebug => "nothing_printed_shows_a_value";
    a_leak_in_the_log: LeaksInLog => "nothing_logged_shows_a_value";
    a_leak_in_an_error: LeaksInError => "nothing_printed_shows_a_value";
    a_wrong_order: WrongOrder => "answers_stand_in_order_and_for_themselves";
    one_error_for_all: CommonError => "answers_stand_in_order_and_for_themselves";
    a_stamp_that_never_changes: StampOfNothing => "a_stamp_changes_with_the_value_alone";
    a_stamp_that_always_changes: StampOfTime => "a_stamp_changes_with_the_value_alone";
    a_version_that_never_changes: OneVersion => "a_version_changes_with_the_value_alone";
    the_latest_for_an_exact_version: LatestForExact => "an_exact_version_is_served_or_refused";
    a_mixture_of_old_and_new: Mixture => "a_value_is_never_half_old_and_half_new";
    a_torn_set: TornSet => "a_set_is_of_one_moment";
    an_empty_value: ServesEmpty => "an_empty_value_is_refused";
    an_outage_taken_for_absence: AbsentInOutage => "an_outage_is_no_absence_and_passes";
    a_panic: Panics => "an_empty_value_is_refused";
    a_damaged_value: Mangles => "unicode_is_kept";
    an_unsorted_list: Unsorted => "keys_are_listed_sorted";
}

/// It takes a long while to find out, which is why the time of these tests is paused.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_goes_deaf() {
    let started = tokio::time::Instant::now();
    assert_eq!(caught(Defect::Deaf).await, ["a_change_is_announced"]);
    assert!(started.elapsed() > Duration::from_secs(10));
}
