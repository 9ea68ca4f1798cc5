//! What is read from: ours and the peers, each under a name by which a child process finds it.

use std::future::ready;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use oneiric_core::{
    HookError, LifecycleHook as _, Managed, ManagedHook, SecretSet, SecretValue, Version,
};
use oneiric_secrets::{Handle, HandleReader};

use crate::ours::{Filled, reference};
use crate::peers;
use crate::workload::value;

/// Something that secrets can be read from, by number.
pub trait Reads: Send + Sync {
    /// Reads these one after the other. What it takes to begin is not part of the time.
    fn pass(&self, order: &[u32]) -> Duration;
}

/// One read as a closure. Each closure is a loop of its own after compilation.
pub struct Each<F>(pub F);

impl<F: Fn(usize) + Send + Sync> Reads for Each<F> {
    fn pass(&self, order: &[u32]) -> Duration {
        let start = Instant::now();
        for &at in order {
            (self.0)(at as usize);
        }
        start.elapsed()
    }
}

/// A variant: its name, and how it is filled.
pub type Variant = (&'static str, fn(usize) -> Box<dyn Reads>);

/// All of them, ours first.
pub const VARIANTS: &[Variant] = &[
    ("handle", handle_reads),
    ("reader", reader_reads),
    ("managed", managed_reads),
    ("try_get", try_get_reads),
    ("get", get_reads),
    ("get_fresh_ref", fresh_ref_reads),
    ("moka", peers::moka_reads),
    ("quick_cache", peers::quick_cache_reads),
    ("rwlock", peers::rwlock_reads),
    ("arc_swap", peers::arc_swap_reads),
    ("arc_swap_cache", peers::arc_swap_cache_reads),
    ("arc_swap_cache_coarse", peers::arc_swap_cache_coarse_reads),
    ("atomic", peers::atomic_reads),
    #[cfg(feature = "aws")]
    ("aws", crate::aws::reads),
];

/// Whether a variant of this name is built in.
pub fn exists(name: &str) -> bool {
    VARIANTS.iter().any(|(known, _)| *known == name)
}

/// The variant of this name, filled.
///
/// # Panics
/// If there is none.
pub fn fill(name: &str, entries: usize) -> Box<dyn Reads> {
    let (_, fill) = VARIANTS.iter().find(|(known, _)| *known == name).expect("it is a variant");
    fill(entries)
}

/// What is done with each value: its place and its first byte are wanted.
#[inline(always)]
pub fn use_bytes(bytes: &[u8]) {
    black_box(bytes[0]);
}

/// What a future answers that waits for nothing. It is polled where it stands, as `.await` would.
///
/// # Panics
/// If it waits.
#[inline(always)]
pub fn at_once<F: Future>(future: Pin<&mut F>) -> F::Output {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a hit waits for nothing"),
    }
}

fn handle_reads(entries: usize) -> Box<dyn Reads> {
    let filled = Filled::with_references(entries);
    let handles = filled.handles();
    Box::new(Each(move |at: usize| {
        // The resolver lives as long as what is read from it.
        let _ = &filled;
        use_bytes(handles[at].load().expect("it is there").expose());
    }))
}

fn reader_reads(entries: usize) -> Box<dyn Reads> {
    let filled = Filled::with_references(entries);
    let handles = filled.handles();
    Box::new(ReaderReads { handles, _filled: filled })
}

struct ReaderReads {
    handles: Vec<Handle>,
    _filled: Filled,
}

impl Reads for ReaderReads {
    fn pass(&self, order: &[u32]) -> Duration {
        let mut readers: Vec<HandleReader> = self.handles.iter().map(Handle::reader).collect();
        let start = Instant::now();
        for &at in order {
            use_bytes(readers[at as usize].load().expect("it is there").expose());
        }
        start.elapsed()
    }
}

/// A guard on the current generation of an adapter, as for each request.
fn managed_reads(entries: usize) -> Box<dyn Reads> {
    let managed: Vec<_> = (0..entries).map(managed).collect();
    Box::new(Each(move |at: usize| use_bytes(managed[at].load().expose())))
}

/// An adapter whose generation is its secret.
fn managed(at: usize) -> Managed<SecretValue> {
    let id = "bench".parse().expect("it is an id");
    let hook = ManagedHook::new(id, [reference(at)], move |secrets| {
        ready(secrets.get(&reference(at)).cloned().ok_or(HookError::failed("it was given")))
    });
    let secrets = SecretSet::new([(reference(at), value(at)[..].into(), Version::numbered(1))]);
    let prepared = at_once(pin!(hook.prepare(&secrets))).expect("it can be prepared");
    prepared.commit();
    hook.managed().expect("it was committed")
}

fn try_get_reads(entries: usize) -> Box<dyn Reads> {
    let filled = Filled::with_references(entries);
    Box::new(Each(move |at: usize| {
        let secret = filled.resolver.try_get(&filled.kept[at]).expect("it is fresh");
        use_bytes(secret.value().expose());
    }))
}

fn get_reads(entries: usize) -> Box<dyn Reads> {
    let filled = Filled::with_references(entries);
    Box::new(Each(move |at: usize| {
        let read = pin!(filled.resolver.get(&filled.kept[at]));
        let secret = at_once(read).expect("it is there");
        use_bytes(secret.value().expose());
    }))
}

fn fresh_ref_reads(entries: usize) -> Box<dyn Reads> {
    let filled = Filled::with_references(entries);
    Box::new(Each(move |at: usize| {
        let unused = filled.fresh[at].clone();
        let read = pin!(filled.resolver.get(&unused));
        let secret = at_once(read).expect("it is there");
        use_bytes(secret.value().expose());
    }))
}
