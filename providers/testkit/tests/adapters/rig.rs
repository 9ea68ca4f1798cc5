//! The server in memory as a rig, for the adapter as it should be and for the broken ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use oneiric_core::{LifecycleHook, ManagedHook, SecretSet, SecretValue, Version};
use oneiric_testkit::{
    Ability, AdapterInUse, AdapterRig, Credential, Habit, LongWork, Manner, Minted, ServerFault,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::broken::{Broken, Defect, Held, Shared};
use crate::client::{Client, good, reference};
use crate::server::{ToyServer, Trouble};

/// What is in the secrets of a rig that leaves the suite's canary out.
const OWN_PART: &str = "q7f3a-b921-0c4d-55e8";

/// What of its secrets the rig lets the suite search for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    Canary,
    PartOfItsOwn,
    Nothing,
}

pub(crate) struct ToyRig {
    server: Arc<ToyServer>,
    /// The defect of its adapters, and what they share.
    defect: Option<(Defect, Arc<Shared>)>,
    marks: Marks,
    /// Whether its users have work that lasts.
    lasts: bool,
    /// After how many exchanges it can cut off or stall.
    exchanges: usize,
    count: AtomicU64,
}

impl ToyRig {
    pub(crate) fn new(defect: Option<Defect>) -> Self {
        Self::with_marks(defect, Marks::Canary)
    }

    pub(crate) fn with_marks(defect: Option<Defect>, marks: Marks) -> Self {
        let defect = defect.map(|defect| (defect, Arc::default()));
        let (server, count) = (ToyServer::new(), AtomicU64::new(0));
        Self { server, defect, marks, lasts: true, exchanges: usize::MAX, count }
    }

    pub(crate) fn without_long_work() -> Self {
        Self { lasts: false, ..Self::new(None) }
    }

    pub(crate) fn with_first_exchanges_only() -> Self {
        Self { exchanges: 1, ..Self::new(None) }
    }
}

#[async_trait]
impl AdapterRig for ToyRig {
    async fn adapter(&self) -> Box<dyn AdapterInUse> {
        let server = Arc::clone(&self.server);
        Box::new(match &self.defect {
            None => Toy::Good(Arc::new(good(server)), self.lasts),
            Some((defect, shared)) => {
                Toy::Broken(Arc::new(Broken::new(*defect, server, Arc::clone(shared))))
            }
        })
    }

    async fn mint(&self, kind: Credential, canary: &str) -> Result<Minted, String> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let line_break = if kind == Credential::Malformed { "\n" } else { "" };
        let mark = if self.marks == Marks::Canary { canary } else { OWN_PART };
        let secret = format!("{count}-{line_break}{mark}");
        let number = self.server.learn(&secret, kind == Credential::Accepted);
        let part = (reference(), SecretValue::from(secret), Version::numbered(number));
        let minted = Minted::new(number, SecretSet::new([part]));
        Ok(match self.marks {
            Marks::PartOfItsOwn => minted.with_secret_part(OWN_PART),
            Marks::Canary | Marks::Nothing => minted,
        })
    }

    async fn revoke(&self, number: u64) -> Ability {
        self.server.revoke(number);
        Ability::Done
    }

    async fn uses(&self, number: u64) -> Result<usize, String> {
        Ok(self.server.uses(number))
    }

    async fn shown(&self, number: u64) -> Result<u64, String> {
        Ok(self.server.shown(number))
    }

    async fn fault(&self, fault: ServerFault) -> Ability {
        if let ServerFault::CutOff { after } | ServerFault::Stalled { after } = fault
            && after > self.exchanges
        {
            return Ability::cannot("it counts no further");
        }
        self.server.play(Some(fault));
        Ability::Done
    }

    async fn mend(&self) {
        self.server.play(None);
    }

    fn has(&self, _habit: Habit) -> Ability {
        Ability::Done
    }
}

#[derive(Clone)]
enum Toy {
    /// With whether it has work that lasts.
    Good(Arc<ManagedHook<Client>>, bool),
    Broken(Arc<Broken>),
}

impl Toy {
    fn hold(&self) -> Result<Held, String> {
        match self {
            Self::Good(hook, _) => {
                let managed = hook.managed().ok_or("nothing serves")?;
                Ok(Held::Guard(managed.load()))
            }
            Self::Broken(hook) => hook.hold(),
        }
    }
}

#[async_trait]
impl AdapterInUse for Toy {
    fn hook(&self) -> Arc<dyn LifecycleHook> {
        match self {
            Self::Good(hook, _) => Arc::clone(hook) as _,
            Self::Broken(hook) => Arc::clone(hook) as _,
        }
    }

    async fn work(&self) -> Result<u64, String> {
        let held = self.hold()?;
        match self {
            Self::Good(..) => {
                let answer = held.ask().await;
                if answer == Err(Trouble::Refused) {
                    held.report_refused();
                }
                answer.map_err(|trouble| format!("{trouble:?}"))
            }
            Self::Broken(hook) => hook.ask(&held).await,
        }
    }

    async fn begin(&self, manner: Manner) -> Result<Box<dyn LongWork>, String> {
        if let Self::Good(_, false) = self {
            return Err("its work is done at once".to_owned());
        }
        let held = self.hold().unwrap();
        let mut session = held.server.connect(&held.secret).await.expect("it is in order");
        let (finish, finished) = oneshot::channel();
        let work = tokio::spawn(async move {
            let cut_off = async {
                match manner {
                    Manner::Yielding => held.closing().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = finished => session.ask().await.map_err(|trouble| format!("{trouble:?}")),
                () = cut_off => Err("it was cut off".to_owned()),
            }
        });
        Ok(Box::new(Long { finish: Some(finish), work }))
    }
}

struct Long {
    finish: Option<oneshot::Sender<()>>,
    work: JoinHandle<Result<u64, String>>,
}

#[async_trait]
impl LongWork for Long {
    async fn finish(mut self: Box<Self>) -> Result<u64, String> {
        // Where nobody hears it, it has ended before.
        let _ = self.finish.take().expect("it is finished once").send(());
        (&mut self.work).await.expect("a user does not panic")
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        self.work.abort();
    }
}
