//! In which order hooks are called.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mockall::{Sequence, mock};
use oneiric_core::{
    AdapterId, DrainReport, HookError, LifecycleHook, Prepared, RefusalStream, Retired, SecretRef,
    SecretSet,
};
use oneiric_runtime::report::Outcome;
use tokio::time::Instant;

use crate::support::Rig;

mock! {
    Steps {
        fn prepare(&self) -> Result<(), HookError>;
        fn commit(&self);
        fn drain(&self);
    }
}

/// An adapter that tells the mock of each step.
#[derive(Clone)]
struct Told {
    id: AdapterId,
    secrets: Vec<SecretRef>,
    steps: Arc<Mutex<MockSteps>>,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Told({})", self.id)
    }
}

#[async_trait]
impl LifecycleHook for Told {
    fn id(&self) -> &AdapterId {
        &self.id
    }

    fn secrets(&self) -> &[SecretRef] {
        &self.secrets
    }

    async fn prepare(&self, _: &SecretSet) -> Result<Box<dyn Prepared>, HookError> {
        self.steps.lock().unwrap().prepare()?;
        Ok(Box::new(self.clone()))
    }

    fn refusals(&self) -> Option<RefusalStream> {
        None
    }

    async fn release(&self, _deadline: Instant) {}
}

impl Prepared for Told {
    fn commit(self: Box<Self>) -> Box<dyn Retired> {
        self.steps.lock().unwrap().commit();
        self
    }
}

#[async_trait]
impl Retired for Told {
    async fn drain(self: Box<Self>, _: Instant) -> DrainReport {
        self.steps.lock().unwrap().drain();
        DrainReport::drained()
    }
}

fn adapter(id: &str) -> Told {
    Told {
        id: id.parse().unwrap(),
        secrets: vec!["mem:a".parse().unwrap()],
        steps: Arc::new(Mutex::new(MockSteps::new())),
    }
}

#[tokio::test(start_paused = true)]
async fn l2_nothing_is_committed_before_everything_is_prepared() {
    let rig = Rig::start(Duration::ZERO);
    rig.store.put("a", "one");
    let adapters = [adapter("first"), adapter("second")];
    for told in &adapters {
        {
            let mut steps = told.steps.lock().unwrap();
            steps.expect_prepare().times(1).returning(|| Ok(()));
            steps.expect_commit().times(1).return_const(());
            steps.expect_drain().times(1).return_const(());
        }
        rig.runtime.register(Arc::new(told.clone())).await.unwrap();
        told.steps.lock().unwrap().checkpoint();
    }
    let (mut first, mut second) = (Sequence::new(), Sequence::new());
    for (at, told) in adapters.iter().enumerate() {
        let mut steps = told.steps.lock().unwrap();
        // Both are prepared, in any order; after each of them, both are committed, in order.
        let prepare = steps.expect_prepare().times(1);
        let order = if at == 0 { &mut first } else { &mut second };
        prepare.in_sequence(order).returning(|| Ok(()));
    }
    for told in &adapters {
        let mut steps = told.steps.lock().unwrap();
        let commit = steps.expect_commit().times(1);
        commit.in_sequence(&mut first).in_sequence(&mut second).return_const(());
        steps.expect_drain().times(1).return_const(());
    }
    rig.store.put("a", "two");
    assert_eq!(rig.rotate(&["a"]).await.outcome, Outcome::Done);

    // One that refuses keeps all from being committed.
    for (at, told) in adapters.iter().enumerate() {
        let mut steps = told.steps.lock().unwrap();
        steps.checkpoint();
        let refuses = at == 1;
        steps
            .expect_prepare()
            .returning(move || if refuses { Err(HookError::refused("no")) } else { Ok(()) });
        steps.expect_commit().never();
        steps.expect_drain().never();
    }
    rig.store.put("a", "three");
    assert_eq!(rig.rotate(&["a"]).await.outcome, Outcome::RolledBack);
    rig.stop().await;
}
