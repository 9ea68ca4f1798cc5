//! What is done when the users of an adapter report that its credential was refused.
//!
//! First the store is asked for a newer version, which is rotated to like any other. Where it has
//! none, or cannot be asked, the adapter goes back to the generation before, if that is not long
//! ago: once, since what it goes back to has nothing before it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use oneiric_core::telemetry::event;
use oneiric_core::{AdapterId, ProviderId, Refusal, SecretKey};
use oneiric_secrets::{Mode, Scope};
use tokio::time::{Instant, sleep};

use super::{Event, LifecycleManager, Waiter};
use crate::gate::Ask;
use crate::slot::Heard;

/// How often a secret is read anew at most because it was refused, whoever reports it: what
/// requests of strangers bring about must not make us hammer the store.
const ANEW_EVERY: Duration = Duration::from_secs(10);
/// How often the reports of one adapter are listened to.
const LISTEN_EVERY: Duration = Duration::from_millis(50);

impl LifecycleManager {
    /// Hears what an adapter's users report from now on.
    pub(super) fn listen(&mut self, adapter: &AdapterId) {
        let Some(mut refusals) = self.slots.get(adapter).and_then(|slot| slot.hook.refusals())
        else {
            return;
        };
        let (back, adapter) = (self.back.clone(), adapter.clone());
        self.timers.spawn(async move {
            while let Some(refusal) = refusals.next().await {
                let _ = back.send(Event::Refused { adapter: adapter.clone(), refusal });
                sleep(LISTEN_EVERY).await;
            }
        });
    }

    pub(super) fn refused(&mut self, adapter: &AdapterId, refusal: &Refusal) {
        let Some(slot) = self.slots.get_mut(adapter) else { return };
        let heard = slot.hear(refusal);
        if heard == Heard::Late {
            return;
        }
        if heard == Heard::First {
            self.tally.refused(adapter);
            let versions = slot.refused_versions();
            tracing::warn!(
                target: "oneiric",
                event = event::CREDENTIAL_REFUSED,
                %adapter,
                versions,
                "a credential that serves was refused where it is used; the store is asked anew"
            );
        }
        let mut secrets: BTreeMap<ProviderId, Vec<SecretKey>> = BTreeMap::new();
        // An alias is asked for where its value is from.
        let secrets_of = slot.hook.secrets().iter();
        for reference in secrets_of.filter_map(|of| self.resolver.answering(of)) {
            let keys = secrets.entry(reference.provider().clone()).or_default();
            keys.push(reference.key().clone());
        }
        let now = Instant::now();
        self.asked_anew.retain(|_, at| now < *at + ANEW_EVERY);
        for (provider, keys) in secrets {
            let mut due = false;
            for key in &keys {
                self.asked_anew.entry((provider.clone(), key.clone())).or_insert_with(|| {
                    due = true;
                    now
                });
            }
            // What was read a moment ago, for whomever, is looked at once by each adapter.
            let invalidate = due.then_some(Mode::Soft);
            if due || heard == Heard::First {
                self.submit(Ask::new(Scope::Keys(provider, keys), invalidate), Waiter::Nobody);
            }
        }
    }

    /// After a rotation that brought nothing newer to an adapter whose credential is refused.
    pub(super) fn go_back_where_refused(&mut self, ask: &Ask) {
        let mut going = Vec::new();
        for (adapter, slot) in &mut self.slots {
            let Some(versions) = slot.refused_versions().filter(|_| slot.is_meant(ask)) else {
                continue;
            };
            // Another look at the store is on its way, and is followed by another look here.
            if self.gate.awaits(slot.needs.iter()) {
                continue;
            }
            if ask.back {
                slot.forget_previous(true);
            }
            if slot.previous().is_some() {
                going.push(adapter.clone());
            } else {
                let why = "was refused where it is used, the store has nothing newer, and there \
                           is nothing to go back to";
                slot.error = Some(format!("{versions} {why}"));
            }
        }
        for adapter in going {
            self.submit(Ask::back(adapter), Waiter::Nobody);
        }
    }
}
