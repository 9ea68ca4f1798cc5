//! The gate: however many triggers there are for the same secrets, one rotation of them runs and
//! at most one more waits.
//!
//! A trigger that comes while a rotation of its secrets runs may know of a newer version, so it
//! is not answered by that one; all that come meanwhile are answered by the next one together.

use std::collections::{BTreeSet, HashSet};

use oneiric_core::{AdapterId, ProviderId, SecretKey, SecretRef};
use oneiric_secrets::{Mode, Scope};

/// What is asked for. Triggers with equal asks are served together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) scope: Scope,
    /// How to invalidate first; `None` to carry through what the cache has learned already.
    pub(crate) invalidate: Option<Mode>,
    /// The one adapter that it is about, when it gets its first generation or goes back to the
    /// one before.
    pub(crate) only: Option<AdapterId>,
    /// Whether it goes back.
    pub(crate) back: bool,
    /// Who may answer for the aliases of the scope.
    candidates: Vec<SecretRef>,
}

impl Ask {
    /// An ask in a form in which equal ones compare equal.
    pub(crate) fn new(scope: Scope, invalidate: Option<Mode>) -> Self {
        let scope = match scope {
            Scope::Keys(provider, mut keys) => {
                keys.sort();
                keys.dedup();
                Scope::Keys(provider, keys)
            }
            Scope::Secrets(references) => {
                let mut references: Vec<_> = references.iter().map(whole).collect();
                references.sort();
                references.dedup();
                Scope::Secrets(references)
            }
            scope => scope,
        };
        Self { scope, invalidate, only: None, back: false, candidates: Vec::new() }
    }

    /// The same, knowing who may answer for a reference.
    pub(crate) fn knowing(mut self, who: impl Fn(&SecretRef) -> Vec<SecretRef>) -> Self {
        if let Scope::Secrets(references) = &self.scope {
            let candidates = references.iter().filter(|of| of.alias().is_some()).flat_map(who);
            self.candidates = candidates.collect();
        }
        self
    }

    /// The same with another invalidation.
    pub(crate) fn with(self, invalidate: Option<Mode>) -> Self {
        Self { invalidate, ..self }
    }

    /// The first generation of an adapter, which needs nothing but its own secrets.
    pub(crate) fn first_generation(adapter: AdapterId) -> Self {
        let none = Scope::Keys("none".parse().expect("it is a valid id"), Vec::new());
        Self { only: Some(adapter), ..Self::new(none, None) }
    }

    /// The return of an adapter to the secrets of the generation before.
    pub(crate) fn back(adapter: AdapterId) -> Self {
        Self { back: true, ..Self::first_generation(adapter) }
    }

    /// Whether the two have a secret in common.
    pub(crate) fn touches(&self, other: &Self) -> bool {
        self.reach([]).overlaps(&other.reach([]))
    }

    /// The secrets that a rotation for it touches, with those of these adapters.
    pub(crate) fn reach<'a>(&'a self, adapters: impl IntoIterator<Item = &'a SecretRef>) -> Reach {
        Reach::new(&self.scope, self.candidates.iter().chain(adapters))
    }

    /// Whether everything that `other` asks for is asked for here. What is about one adapter is part
    /// of nothing else.
    pub(crate) fn includes(&self, other: &Self) -> bool {
        if self.only.is_some() || other.only.is_some() {
            return false;
        }
        match (&self.scope, &other.scope) {
            (Scope::All, _) => true,
            (Scope::Provider(ours), Scope::Provider(theirs)) => ours == theirs,
            (_, Scope::Keys(id, keys)) => {
                keys.iter().all(|key| self.covers(&SecretRef::new(id.clone(), key.clone())))
            }
            // An alias is all who may answer for it.
            (_, Scope::Secrets(of)) => {
                let plain = of.iter().filter(|of| of.alias().is_none());
                plain.chain(&other.candidates).all(|of| self.covers(of))
            }
            _ => false,
        }
    }

    /// The part of it that is about these, without an invalidation.
    pub(crate) fn part(&self, about: impl Fn(&SecretRef) -> bool) -> Self {
        let scope = match &self.scope {
            Scope::Keys(id, keys) => {
                let is_meant =
                    |key: &&SecretKey| about(&SecretRef::new(id.clone(), (*key).clone()));
                Scope::Keys(id.clone(), keys.iter().filter(is_meant).cloned().collect())
            }
            Scope::Secrets(of) => {
                Scope::Secrets(of.iter().filter(|of| about(of)).cloned().collect())
            }
            scope => scope.clone(),
        };
        Self { candidates: self.candidates.clone(), ..Self::new(scope, None) }
    }

    /// Whether this secret is asked for.
    pub(crate) fn covers(&self, reference: &SecretRef) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Provider(provider) => reference.provider() == provider,
            Scope::Keys(provider, keys) => {
                reference.provider() == provider && keys.contains(reference.key())
            }
            Scope::Secrets(references) => {
                references.iter().chain(&self.candidates).any(|of| is_same(of, reference))
            }
        }
    }
}

/// The secrets that a rotation touches: those asked for, and all others of its adapters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reach {
    all: bool,
    providers: BTreeSet<ProviderId>,
    secrets: HashSet<(ProviderId, SecretKey)>,
}

impl Reach {
    fn new<'a>(scope: &Scope, adapters: impl IntoIterator<Item = &'a SecretRef>) -> Self {
        let mut reach = Self::default();
        match scope {
            Scope::All => reach.all = true,
            Scope::Provider(provider) => _ = reach.providers.insert(provider.clone()),
            Scope::Keys(provider, keys) => {
                reach.secrets.extend(keys.iter().map(|key| (provider.clone(), key.clone())));
            }
            Scope::Secrets(references) => reach.secrets.extend(references.iter().map(secret)),
        }
        reach.secrets.extend(adapters.into_iter().map(secret));
        reach
    }

    fn overlaps(&self, other: &Self) -> bool {
        let one_way = |a: &Self, b: &Self| {
            a.all
                || a.providers.iter().any(|provider| {
                    b.providers.contains(provider) || b.secrets.iter().any(|(of, _)| of == provider)
                })
                || a.secrets.iter().any(|secret| b.secrets.contains(secret))
        };
        one_way(self, other) || one_way(other, self)
    }
}

/// Whether both are of one secret, or are one alias, in any version and field.
pub(crate) fn is_same(one: &SecretRef, other: &SecretRef) -> bool {
    one.provider() == other.provider() && one.key() == other.key()
}

/// The secret, or the alias, without a version and a field.
pub(crate) fn whole(reference: &SecretRef) -> SecretRef {
    SecretRef::new(reference.provider().clone(), reference.key().clone())
}

fn secret(of: &SecretRef) -> (ProviderId, SecretKey) {
    (of.provider().clone(), of.key().clone())
}

/// Which job is meant when it is over.
pub(crate) type JobId = u64;

/// What runs, what waits, and who waits for it.
#[derive(Debug)]
pub(crate) struct Gate<W> {
    running: Vec<(JobId, Reach)>,
    waiting: Vec<(Ask, Vec<W>)>,
    last: JobId,
}

impl<W> Default for Gate<W> {
    fn default() -> Self {
        Self { running: Vec::new(), waiting: Vec::new(), last: 0 }
    }
}

impl<W> Gate<W> {
    /// Queues a trigger, or joins it to one that waits for the same.
    pub(crate) fn submit(&mut self, ask: Ask, waiter: W) {
        match self.waiting.iter_mut().find(|(waiting, _)| *waiting == ask) {
            Some((_, waiters)) => waiters.push(waiter),
            None => self.waiting.push((ask, vec![waiter])),
        }
    }

    /// The next ask that touches nothing that runs, nor anything that waits before it.
    pub(crate) fn admit(&mut self, reach: impl Fn(&Ask) -> Reach) -> Option<(JobId, Ask, Vec<W>)> {
        let mut before: Vec<Reach> = Vec::new();
        for at in 0..self.waiting.len() {
            let reach = reach(&self.waiting[at].0);
            let blocked = self.running.iter().any(|(_, running)| running.overlaps(&reach))
                || before.iter().any(|earlier| earlier.overlaps(&reach));
            if !blocked {
                let (ask, waiters) = self.waiting.remove(at);
                return Some((self.enter(reach), ask, waiters));
            }
            before.push(reach);
        }
        None
    }

    /// Lets the job's secrets go.
    pub(crate) fn leave(&mut self, job: JobId) {
        self.running.retain(|(running, _)| *running != job);
    }

    /// The jobs that stand in the way of this.
    pub(crate) fn in_the_way(&self, reach: &Reach) -> impl Iterator<Item = JobId> {
        let in_the_way = |(_, running): &&(JobId, Reach)| running.overlaps(reach);
        self.running.iter().filter(in_the_way).map(|(job, _)| *job)
    }

    /// Whether something waits that asks for one of these.
    pub(crate) fn awaits<'a>(&self, mut secrets: impl Iterator<Item = &'a SecretRef>) -> bool {
        secrets.any(|secret| self.waiting.iter().any(|(ask, _)| ask.covers(secret)))
    }

    /// Takes out what waits and asks for no more than this ask, which is about to read anew.
    pub(crate) fn absorb(&mut self, ask: &Ask) -> Vec<(Ask, Vec<W>)> {
        let included = |(waiting, _): &mut (Ask, Vec<W>)| {
            let mode = waiting.invalidate;
            let no_harder = matches!(mode, None | Some(Mode::Soft)) || mode == ask.invalidate;
            no_harder && ask.includes(waiting)
        };
        self.waiting.extract_if(.., included).collect()
    }

    /// Takes back what waits and is, with each of its waiters, no longer to be admitted.
    pub(crate) fn withdraw(&mut self, no_longer: impl Fn(&Ask, &W) -> bool) -> Vec<Ask> {
        let gone = |(ask, waiters): &mut (Ask, Vec<W>)| {
            waiters.iter().all(|waiter| no_longer(ask, waiter))
        };
        self.waiting.extract_if(.., gone).map(|(ask, _)| ask).collect()
    }

    /// The waiters of what has not been admitted, when nothing more will be.
    pub(crate) fn dismiss(&mut self) -> Vec<W> {
        self.waiting.drain(..).flat_map(|(_, waiters)| waiters).collect()
    }

    fn enter(&mut self, reach: Reach) -> JobId {
        self.last += 1;
        self.running.push((self.last, reach));
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(keys: &[&str]) -> Ask {
        let keys = keys.iter().map(|key| key.parse().unwrap()).collect();
        Ask::new(Scope::Keys("p".parse().unwrap(), keys), Some(Mode::Soft))
    }

    fn reach(ask: &Ask) -> Reach {
        ask.reach([])
    }

    #[test]
    fn one_runs_and_one_waits_however_many_ask() {
        let mut gate = Gate::default();
        gate.submit(ask(&["a", "b"]), 0);
        let (job, _, waiters) = gate.admit(reach).unwrap();
        assert_eq!(waiters, [0]);
        for n in 1..1000 {
            gate.submit(ask(if n % 2 == 0 { &["a", "b"] } else { &["b", "a", "a"] }), n);
        }
        assert!(gate.admit(reach).is_none(), "the running one is in the way");
        gate.leave(job);
        let (_, _, waiters) = gate.admit(reach).unwrap();
        assert_eq!(waiters.len(), 999);
        assert!(gate.admit(reach).is_none());
    }

    #[test]
    fn what_touches_nothing_in_common_runs_side_by_side() {
        let mut gate = Gate::default();
        gate.submit(ask(&["a"]), ());
        gate.submit(ask(&["b"]), ());
        assert!(gate.admit(reach).is_some() && gate.admit(reach).is_some());
    }

    #[test]
    fn two_secrets_of_one_adapter_are_not_rotated_side_by_side() {
        let both: [SecretRef; 2] = ["p:a".parse().unwrap(), "p:b".parse().unwrap()];
        let mut gate = Gate::default();
        gate.submit(ask(&["a"]), ());
        gate.submit(ask(&["b"]), ());
        let of_one_adapter = |ask: &Ask| ask.reach(&both);
        assert!(gate.admit(of_one_adapter).is_some());
        assert!(gate.admit(of_one_adapter).is_none());
    }

    #[test]
    fn what_is_about_one_adapter_is_part_of_nothing_else() {
        let adapter: AdapterId = "pool".parse().unwrap();
        let all = Ask::new(Scope::All, Some(Mode::Soft));
        for own in [Ask::first_generation(adapter.clone()), Ask::back(adapter.clone())] {
            assert!(!ask(&["a"]).includes(&own) && !all.includes(&own) && !own.includes(&all));
            let mut gate = Gate::default();
            gate.submit(own, ());
            assert!(gate.absorb(&all).is_empty());
            assert!(gate.withdraw(|waiting, ()| all.includes(waiting)).is_empty());
        }
    }

    #[test]
    fn a_wide_ask_is_not_starved_by_narrow_ones() {
        let mut gate = Gate::default();
        gate.submit(ask(&["a"]), "first");
        let (job, ..) = gate.admit(reach).unwrap();
        gate.submit(Ask::new(Scope::All, Some(Mode::Soft)), "all");
        gate.submit(ask(&["b"]), "after");
        assert!(gate.admit(reach).is_none());
        gate.leave(job);
        assert_eq!(gate.admit(reach).unwrap().2, ["all"]);
        assert!(gate.admit(reach).is_none());
    }
}
