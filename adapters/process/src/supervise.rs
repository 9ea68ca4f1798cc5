//! What happens when a child ends by itself.

use std::sync::{Arc, Weak};
use std::time::Duration;

use oneiric_core::telemetry::event;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::config::OnExit;
use crate::hook::Shared;
use crate::slot::{Content, Running};

/// The first pause before a child that has ended is started again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A child that has lived for so long has come up: the next pause is the first one again.
const CAME_UP: Duration = Duration::from_secs(10);

/// Watches the child in one slot for as long as the adapter is there.
pub(crate) async fn supervise(
    adapter: Weak<Shared>,
    index: usize,
    mut content: watch::Receiver<Content>,
) {
    let Some(closing) = adapter.upgrade().map(|shared| shared.closing.clone()) else { return };
    let mut pause = FIRST_PAUSE;
    loop {
        let child = match &*content.borrow_and_update() {
            Content::Child(child) => Some(Arc::clone(child)),
            Content::Nothing | Content::Left(_) => None,
        };
        let since = Instant::now();
        let ended = tokio::select! {
            () = closing.cancelled() => return,
            changed = content.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
            ending = ended(child.as_deref()) => Some(ending),
        };
        let (Some(ending), Some(child)) = (ended, child) else { continue };
        let Some(shared) = adapter.upgrade() else { return };
        let slot = &shared.slots[index];
        let (id, instance) = (&shared.id, slot.number);
        tracing::warn!(
            target: "oneiric",
            event = event::PROCESS_EXITED,
            adapter = %id,
            instance,
            generation = child.generation().number,
            "a child process {ending}"
        );
        // What it has started ends with it.
        shared.stop(&child, Instant::now() + shared.config.kill_timeout).await;
        if shared.on_exit == OnExit::Leave {
            slot.replace(&child, Content::Left(ending));
            shared.moved.send_replace(());
            continue;
        }
        if since.elapsed() >= CAME_UP {
            pause = FIRST_PAUSE;
        }
        drop(shared);
        if !start_again(&adapter, index, &child, &mut content, &mut pause).await {
            return;
        }
    }
}

/// Starts a child in the place of one that has ended, unless another takes its place meanwhile.
/// Says whether there is anything to go on with.
async fn start_again(
    adapter: &Weak<Shared>,
    index: usize,
    ended: &Arc<Running>,
    content: &mut watch::Receiver<Content>,
    pause: &mut Duration,
) -> bool {
    let Some(closing) = adapter.upgrade().map(|shared| shared.closing.clone()) else {
        return false;
    };
    loop {
        tokio::select! {
            () = closing.cancelled() => return false,
            changed = content.wait_for(|now| !is(now, ended)) => return changed.is_ok(),
            () = sleep(*pause) => {}
        }
        *pause = LONGEST_PAUSE.min(2 * *pause);
        let Some(shared) = adapter.upgrade() else { return false };
        let slot = &shared.slots[index];
        let generation = shared.generation_after(ended);
        match shared.start(&generation, slot.number).await {
            Ok(running) => {
                let next = Content::Child(Arc::clone(&running));
                if !slot.replace(ended, next) {
                    drop(crate::hook::Leaving::new(Arc::clone(&shared), running));
                }
                shared.moved.send_replace(());
                return true;
            }
            Err(error) => {
                let id = &shared.id;
                tracing::warn!(target: "oneiric", adapter = %id, %error, "a child was not started");
            }
        }
    }
}

fn is(content: &Content, child: &Arc<Running>) -> bool {
    matches!(content, Content::Child(now) if Arc::ptr_eq(now, child))
}

async fn ended(child: Option<&Running>) -> crate::Ending {
    match child {
        Some(running) => running.child.ended().await,
        None => std::future::pending().await,
    }
}
