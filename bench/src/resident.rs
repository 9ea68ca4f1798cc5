//! How much memory an entry takes, seen from outside: what a process grows by when it is filled.

use std::any::Any;
use std::sync::Arc;

use crate::ours::Filled;
use crate::peers::{self, Entry, Key};

/// A variant: its name, and how it is filled. What is returned is kept until it was measured.
pub type Variant = (&'static str, fn(usize) -> Box<dyn Any>);

/// All of them.
pub const VARIANTS: &[Variant] = &[
    ("ours", |entries| Box::new(Filled::without_references(entries))),
    ("quick_cache", |entries| Box::new(peers::quick_cache(entries))),
    ("moka", |entries| Box::new(peers::moka(entries))),
    ("payload", |entries| {
        let pairs: Vec<(Key, Arc<Entry>)> =
            (0..entries).map(|at| (Key::at(at), Entry::at(at))).collect();
        Box::new(pairs)
    }),
    #[cfg(feature = "aws")]
    ("aws", |entries| Box::new(crate::aws::store(entries))),
];

/// Bytes per entry of a variant, in this process, which should be fresh.
///
/// # Panics
/// If there is no variant of this name, or the system does not tell the size of a process.
pub fn measure(name: &str, entries: usize) -> f64 {
    let (_, fill) = VARIANTS.iter().find(|(known, _)| *known == name).expect("it is a variant");
    // What the first use of anything takes is not the entries'.
    drop(fill(1000));
    let before = resident();
    let filled = fill(entries);
    let after = resident();
    drop(filled);
    (after - before) / entries as f64
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the system tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.expect("the system tells the resident size") * 1024.0
}
