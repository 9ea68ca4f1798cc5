//! The end of a program that uses secrets: what adapters keep running ends, and then what stores keep
//! for it is given back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use oneiric_core::LifecycleHook;
use oneiric_secrets::Resolver;
use tokio::time::{Instant, timeout_at};

/// How long an exit may be held up by what is given back to the stores.
const GIVING_BACK: Duration = Duration::from_secs(5);
/// How long after the deadline an adapter may take to do what it does at the deadline.
const GRACE: Duration = Duration::from_secs(1);

/// Ends what adapters keep running, side by side, whatever one of them does. It uses its secrets to
/// the end, so those are given back after it.
pub(super) async fn release_adapters(adapters: &[Arc<dyn LifecycleHook>], within: Duration) {
    let deadline = Instant::now() + within;
    join_all(adapters.iter().map(|adapter| async move {
        let released = AssertUnwindSafe(adapter.release(deadline)).catch_unwind();
        let why = match timeout_at(deadline + GRACE, released).await {
            Ok(Ok(())) => return,
            Ok(Err(_)) => "a panic",
            Err(_) => "it took too long",
        };
        let id = adapter.id();
        tracing::warn!(target: "oneiric", adapter = %id, why, "an adapter has not ended well");
    }))
    .await;
}

/// Gives back what stores keep for this process, after a runtime has ended the resolver.
pub(super) async fn give_back(resolver: &Resolver) {
    resolver.release(Instant::now() + GIVING_BACK).await;
}

/// The same where there is no runtime.
pub(super) async fn close(resolver: &Resolver) {
    resolver.shutdown(Instant::now() + GIVING_BACK).await;
    give_back(resolver).await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use oneiric_core::{AdapterId, HookError, Prepared, RefusalStream, SecretRef, SecretSet};

    use super::*;

    #[derive(Debug)]
    struct Ending(AdapterId, &'static str, AtomicBool);

    #[async_trait]
    impl LifecycleHook for Ending {
        fn id(&self) -> &AdapterId {
            &self.0
        }

        fn secrets(&self) -> &[SecretRef] {
            &[]
        }

        async fn prepare(&self, _: &SecretSet) -> Result<Box<dyn Prepared>, HookError> {
            Err(HookError::failed("this test prepares nothing"))
        }

        fn refusals(&self) -> Option<RefusalStream> {
            None
        }

        async fn release(&self, _: Instant) {
            match self.1 {
                "panics" => panic!("a defect of an adapter"),
                "hangs" => std::future::pending().await,
                _ => self.2.store(true, Ordering::Relaxed),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_adapter_keeps_another_from_its_end() {
        let ending = |how| Arc::new(Ending("a".parse().unwrap(), how, AtomicBool::new(false)));
        let good = ending("ends");
        let adapters: Vec<Arc<dyn LifecycleHook>> =
            vec![ending("panics"), ending("hangs"), Arc::clone(&good) as _];
        let start = Instant::now();
        release_adapters(&adapters, Duration::from_secs(30)).await;
        assert!(good.2.load(Ordering::Relaxed));
        assert_eq!(start.elapsed(), Duration::from_secs(31));
    }
}
