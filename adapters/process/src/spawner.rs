//! The thread that children are started from.
//!
//! The system tells a child of the death of the *thread* that has started it. Those of a runtime
//! come and go, so each adapter has one that lives as long as it does.

use std::io;
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Spawner(mpsc::Sender<Job>);

impl Spawner {
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let work = move || jobs.into_iter().for_each(|job| job());
        thread::Builder::new().name("oneiric-spawner".to_owned()).spawn(work)?;
        Ok(Self(sender))
    }

    /// Does this on the thread. If nobody waits for it any more, what it returns is dropped.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (done, told) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts children is gone");
        let job = Box::new(move || {
            let _ = done.send(job());
        });
        self.0.send(job).map_err(|_| gone())?;
        told.await.map_err(|_| gone())
    }
}
