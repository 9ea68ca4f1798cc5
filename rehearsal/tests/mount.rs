//! A mount whose `..data` link is swapped, from the swap to the adapter.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oneiric_core::{ManagedHook, SecretRef, SecretSet};
use oneiric_runtime::RuntimeOptions;
use oneiric_secrets::{Resolver, ResolverOptions};
use tokio_util::sync::CancellationToken;

const SWAPS: u32 = 50;

/// Writes as a kubelet does: a new directory, a new link beside, a rename over the old link, and
/// then the old directory goes.
struct Mount {
    root: PathBuf,
    current: Option<PathBuf>,
}

impl Mount {
    fn new(root: &Path) -> Self {
        let mut mount = Self { root: root.to_owned(), current: None };
        mount.swap(0);
        for name in ["user", "password"] {
            symlink(Path::new("..data").join(name), root.join(name)).unwrap();
        }
        mount
    }

    fn swap(&mut self, n: u32) {
        let target = format!("..generation-{n}");
        let dir = self.root.join(&target);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("user"), format!("user-{n}")).unwrap();
        fs::write(dir.join("password"), format!("password-{n}")).unwrap();
        symlink(&target, self.root.join("..data_tmp")).unwrap();
        fs::rename(self.root.join("..data_tmp"), self.root.join("..data")).unwrap();
        if let Some(old) = self.current.replace(dir) {
            fs::remove_dir_all(old).unwrap();
        }
    }
}

/// The number that both halves of a pair carry; panics if they carry different ones.
fn number(set: &SecretSet) -> u32 {
    let mut values = set.values().map(|value| value.expose_str().unwrap().to_owned());
    let user = values.next().unwrap();
    let password = values.next().unwrap();
    let number = user.strip_prefix("user-").unwrap();
    assert_eq!(Some(number), password.strip_prefix("password-"), "a mixed pair");
    number.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_swap_reaches_the_adapter_and_no_reader_sees_a_mixed_pair() {
    let dir = tempfile::tempdir().unwrap();
    let mut mount = Mount::new(dir.path());
    let provider = oneiric_provider_file::Config::new(dir.path()).build().unwrap();
    let resolver = Resolver::new(
        [("mount".parse().unwrap(), Arc::new(provider) as _)],
        ResolverOptions::default(),
    );
    let (runtime, task) =
        RuntimeOptions::new("test".parse().unwrap()).build(resolver.clone()).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(task.run(stop.clone()));

    let pair: [SecretRef; 2] = ["mount:user", "mount:password"].map(|text| text.parse().unwrap());
    let hook =
        ManagedHook::new("pair".parse().unwrap(), pair.clone(), |set: SecretSet| async move {
            Ok(number(&set))
        });
    let managed = runtime.manage(hook).await.unwrap();

    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (resolver, pair, done) = (resolver.clone(), pair.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let (mut reads, mut last) = (0_u64, 0);
                while !done.load(Ordering::Relaxed) {
                    let seen = number(&resolver.get_set(&pair).await.unwrap());
                    assert!(seen >= last, "{seen} after {last}");
                    last = seen;
                    reads += 1;
                    tokio::task::yield_now().await;
                }
                reads
            })
        })
        .collect();

    for n in 1..=SWAPS {
        mount.swap(n);
        let noticed = async {
            while *managed.load() != n {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        // Noticed by push: the sweep would take half a minute.
        let in_time = tokio::time::timeout(Duration::from_secs(20), noticed).await;
        assert!(in_time.is_ok(), "swap {n} was not noticed; the adapter has {}", *managed.load());
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > u64::from(SWAPS));
    }
    stop.cancel();
    task.await.unwrap();
}
