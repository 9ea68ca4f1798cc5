//! Reads that find what they look for, ours beside the peers', by turns.

use std::collections::HashMap;
use std::sync::Barrier;
use std::time::Duration;

use crate::report::{Figure, Target};
use crate::variant::{Reads, VARIANTS};
use crate::workload::{ENTRIES, Order};

/// How many reads a pass has: enough to take milliseconds.
const PASS: usize = 1 << 19;

/// One comparison: the figure, ours, the peer, and the target.
struct Comparison {
    name: &'static str,
    ours: &'static str,
    peer: &'static str,
    target: Option<Target>,
    /// Which order stands for the figure; those of the others have their name at the end.
    chief: Order,
}

const fn compare(
    name: &'static str,
    ours: &'static str,
    peer: &'static str,
    target: Option<f64>,
    chief: Order,
) -> Comparison {
    let target = match target {
        Some(most) => Some(Target::AtMost(most)),
        None => None,
    };
    Comparison { name, ours, peer, target, chief }
}

const COMPARISONS: &[Comparison] = &[
    compare("handle_read", "handle", "arc_swap", Some(1.5), Order::Hot),
    compare("reader_read", "reader", "arc_swap_cache_coarse", Some(1.5), Order::Hot),
    compare("reader_read_vs_bare", "reader", "arc_swap_cache", Some(1.5), Order::Hot),
    compare("managed_guard", "managed", "arc_swap", Some(2.0), Order::Hot),
    compare("keyed_hit_vs_moka", "try_get", "moka", Some(0.2), Order::Zipf),
    compare("keyed_hit_vs_aws", "try_get", "aws", Some(0.1), Order::Zipf),
    compare("keyed_hit_vs_quick_cache", "try_get", "quick_cache", Some(0.8), Order::Zipf),
    compare("keyed_hit_vs_rwlock", "try_get", "rwlock", None, Order::Zipf),
    compare("keyed_get_vs_moka", "get", "moka", Some(0.2), Order::Zipf),
    compare("keyed_get_vs_aws", "get", "aws", Some(0.1), Order::Zipf),
    compare("keyed_get_vs_quick_cache", "get", "quick_cache", Some(0.8), Order::Zipf),
    compare("keyed_hit_fresh_ref", "get_fresh_ref", "quick_cache", None, Order::Zipf),
    compare("keyed_hit_fresh_ref_vs_moka", "get_fresh_ref", "moka", None, Order::Zipf),
    compare("floor_arc_swap", "arc_swap", "atomic", None, Order::Hot),
];

/// The comparisons that are made by instructions too: name, ours, the peer, and the target.
pub(crate) fn by_instructions()
-> impl Iterator<Item = (String, &'static str, &'static str, Option<Target>)> {
    let name = |one: &Comparison| format!("{}_instructions", one.name);
    COMPARISONS.iter().map(move |one| (name(one), one.ours, one.peer, one.target))
}

/// All figures of time per read: first those of the table of targets, then the other orders.
pub fn figures(rounds: usize) -> Vec<Figure> {
    let mut filled: Vec<(&str, Box<dyn Reads>)> =
        VARIANTS.iter().map(|(name, fill)| (*name, fill(ENTRIES))).collect();
    let (mut chief, mut others) = (Vec::new(), Vec::new());
    for order in Order::ALL {
        let drawn = order.draw(PASS, ENTRIES, 7);
        let times = by_turns(&filled, rounds, |reads| nanos(reads.pass(&drawn), PASS));
        for comparison in COMPARISONS {
            match comparison.chief == order {
                true => chief.extend(comparison.figure("", &times)),
                false => others.extend(comparison.figure(&format!("_{}", order.name()), &times)),
            }
        }
    }
    // A future of theirs that waits for a lock has no one to wake it here.
    filled.retain(|(name, _)| *name != "aws");
    let drawn = [Order::Zipf.draw(PASS, ENTRIES, 7), Order::Zipf.draw(PASS, ENTRIES, 8)];
    let times = by_turns(&filled, rounds, |reads| nanos(two_threads(reads, &drawn), PASS));
    others.extend(COMPARISONS.iter().filter_map(|one| one.figure("_2_threads", &times)));
    chief.extend(scaling(&filled, rounds, &drawn));
    chief.extend(others);
    chief
}

impl Comparison {
    /// The figure, if both sides are built in.
    fn figure(&self, last: &str, times: &HashMap<&str, Vec<f64>>) -> Option<Figure> {
        let (ours, peer) = (times.get(self.ours)?, times.get(self.peer)?);
        let figure = Figure::new(format!("{}{last}", self.name), "ns", ours.clone());
        Some(figure.against(self.peer, peer).maybe_target(self.target))
    }
}

/// Runs each by turns, beginning with another one each round, after a pass that does not count.
fn by_turns<'n>(
    variants: &[(&'n str, Box<dyn Reads>)],
    rounds: usize,
    measure: impl Fn(&dyn Reads) -> f64,
) -> HashMap<&'n str, Vec<f64>> {
    let mut runs: HashMap<&str, Vec<f64>> = HashMap::new();
    for (_, reads) in variants {
        measure(reads.as_ref());
    }
    for round in 0..rounds {
        for turn in 0..variants.len() {
            let (name, reads) = &variants[(round + turn) % variants.len()];
            runs.entry(name).or_default().push(measure(reads.as_ref()));
        }
    }
    runs
}

/// How long two threads take that read at once.
fn two_threads(reads: &dyn Reads, orders: &[Vec<u32>; 2]) -> Duration {
    let start = Barrier::new(orders.len());
    std::thread::scope(|scope| {
        let threads = orders.each_ref().map(|order| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                reads.pass(order)
            })
        });
        let times = threads.map(|thread| thread.join().expect("reads do not panic"));
        times.into_iter().max().expect("there are two")
    })
}

/// How much more two threads read than one, in alternating passes; and, by the floor, how much
/// more this machine does with two when they share nothing.
fn scaling(
    filled: &[(&str, Box<dyn Reads>)],
    rounds: usize,
    orders: &[Vec<u32>; 2],
) -> Vec<Figure> {
    let wanted = [
        ("try_get", "keyed_hit_scaling", Some(Target::AtLeast(1.8))),
        ("get", "keyed_get_scaling", Some(Target::AtLeast(1.8))),
        ("handle", "handle_read_scaling", None),
        ("quick_cache", "quick_cache_scaling", None),
        ("arc_swap", "floor_scaling", None),
    ];
    let mut runs = wanted.map(|_| (Vec::new(), Vec::new()));
    for _ in 0..rounds {
        for ((variant, _, _), (both, alone)) in wanted.iter().zip(&mut runs) {
            let (_, reads) = filled.iter().find(|(name, _)| name == variant).expect("all are");
            let rate = |threads: f64, time| threads * 1e3 / nanos(time, PASS);
            alone.push(rate(1.0, reads.pass(&orders[0])));
            both.push(rate(2.0, two_threads(reads.as_ref(), orders)));
        }
    }
    let pairs = wanted.into_iter().zip(runs);
    let figure = |((_, name, target), (both, alone)): (_, (Vec<f64>, Vec<f64>))| {
        Figure::new(name, "million/s", both).against("1 thread", &alone).maybe_target(target)
    };
    pairs.map(figure).collect()
}

fn nanos(time: Duration, reads: usize) -> f64 {
    time.as_secs_f64() * 1e9 / reads as f64
}
