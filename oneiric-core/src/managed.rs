//! The everyday adapter: a value built from secrets that is replaced under its running users.

mod generation;
mod hook;

use std::fmt;
use std::ops::Deref;
#[cfg(debug_assertions)]
use std::panic::Location;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;

use self::generation::{Generation, Phase};
pub use self::hook::{ManagedAdapter, ManagedHook};

/// A reader of the current generation of something built from secrets.
///
/// There always is one: a `Managed` exists only after the first generation was built, proven and
/// committed. Clones are cheap and follow the same generations.
pub struct Managed<T>(Arc<ArcSwap<Generation<T>>>);

impl<T> Managed<T> {
    /// The current generation. It serves for as long as the guard lives, so take one per request
    /// and let go of it after: the old generation ends when its last guard is gone, or at the
    /// drain deadline. A build with debug assertions remembers where each guard was taken, and
    /// names the place of those that were not let go of.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn load(&self) -> ManagedGuard<T> {
        ManagedGuard::new(self.0.load())
    }
}

impl<T> Clone for Managed<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Managed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Managed").field("generation", &self.0.load().number).finish()
    }
}

/// The use of one generation. While it lives, the generation is not released, except by force at
/// the drain deadline.
pub struct ManagedGuard<T> {
    generation: arc_swap::Guard<Arc<Generation<T>>>,
    #[cfg(debug_assertions)]
    taken: u64,
}

impl<T> ManagedGuard<T> {
    #[cfg_attr(debug_assertions, track_caller)]
    fn new(generation: arc_swap::Guard<Arc<Generation<T>>>) -> Self {
        Self {
            #[cfg(debug_assertions)]
            taken: generation.holders.enter(Location::caller()),
            generation,
        }
    }

    /// Which generation this is, counted from 1.
    pub fn generation(&self) -> u64 {
        self.generation.number
    }

    /// Resolves when a newer generation serves: the time for a long user, such as a stream or a
    /// connection, to end by itself. It may be dropped at any time, and does not hold the guard.
    pub fn retired(&self) -> BoxFuture<'static, ()> {
        self.generation.reaches(Phase::Retired)
    }

    /// Resolves when the drain deadline has passed while this generation was still in use: whoever
    /// has it ends now, or is reported as leaked. Like [`retired`](Self::retired) otherwise.
    pub fn cut_off(&self) -> BoxFuture<'static, ()> {
        self.generation.reaches(Phase::CutOff)
    }

    /// Reports that the other end did not accept the credential of this generation: the server
    /// said so itself; a time-out is no refusal. The runtime asks the store for a newer one, once
    /// however many report it, and, if there is none, may go back to the generation before. It
    /// costs no call of anybody, and what is reported of an old generation has no effect.
    pub fn report_refused(&self) {
        self.generation.report_refused();
    }
}

impl<T> Deref for ManagedGuard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.generation.value
    }
}

#[cfg(debug_assertions)]
impl<T> Drop for ManagedGuard<T> {
    fn drop(&mut self) {
        self.generation.holders.leave(self.taken);
    }
}

impl<T> fmt::Debug for ManagedGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagedGuard").field("generation", &self.generation()).finish()
    }
}

#[cfg(test)]
mod tests;
