//! What children are started from: a folder, sockets, a thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::spawn_blocking;

use crate::child::Launch;
use crate::config::{Config, Orphans};
use crate::folder::Folder;
use crate::generation::Generation;
use crate::launcher::Launcher;
use crate::leader::Leader;
use crate::sockets::Sockets;
use crate::spawner::Spawner;

pub(crate) struct Ground {
    pub(crate) folder: Folder,
    sockets: Arc<Sockets>,
    spawner: Spawner,
    orphans: Orphans,
    launcher: Option<Launcher>,
    started: AtomicU64,
}

impl Ground {
    /// Makes it, after what a dead one has left was removed and its children have ended.
    pub(crate) async fn make(
        config: &Config,
        orphans: Orphans,
        launcher: Option<Launcher>,
    ) -> io::Result<Self> {
        let config = config.clone();
        spawn_blocking(move || {
            let (folder, ending) = Folder::create(&config, orphans)?;
            // They may hold what the new ones need, such as a port.
            ending.into_iter().for_each(|ending| _ = ending.join());
            Ok(Self {
                folder,
                sockets: Arc::new(Sockets::bind(&config.listen)?),
                spawner: Spawner::start()?,
                orphans,
                launcher,
                started: AtomicU64::new(0),
            })
        })
        .await
        .map_err(io::Error::other)?
    }

    /// Starts a child with the secrets of this generation.
    pub(crate) async fn start(
        &self,
        config: &Config,
        generation: &Arc<Generation>,
        instance: u32,
    ) -> io::Result<Leader> {
        let serial = self.started.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}{serial}/", self.folder.mark());
        let (config, generation) = (config.clone(), Arc::clone(generation));
        let (sockets, launcher) = (Arc::clone(&self.sockets), self.launcher.clone());
        let orphans = self.orphans;
        let leader = self.spawner.call(move || {
            let launch = Launch {
                config: &config,
                delivery: &generation.delivery,
                orphans,
                launcher: launcher.as_ref(),
                sockets: &sockets.listening,
                folder: Some(generation.told.as_deref().unwrap_or(generation.staged.path())),
                mark: Some(&mark),
                variables: generation.variables(Some(instance)),
                apart: true,
                attended: false,
            };
            let child = launch.start()?;
            io::Result::Ok(Leader::of(&child, mark.clone()))
        });
        leader.await?
    }
}
