//! What must not get slower when a million secrets are cached.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oneiric_secrets::{Mode, Scope};

use crate::ours::{Filled, provider_id, reference, secret_key};
use crate::report::{Figure, Target, median, quantile};

/// A million.
pub const MANY: usize = 1_000_000;
/// How many operations make one run.
const PART: usize = 64;
/// How often all is invalidated in one run, and how long one call has at least.
const CALLS: usize = 1000;
const CALL_EVERY: Duration = Duration::from_micros(20);

/// Rotation of one secret among few and many, writes, and the invalidation of all.
///
/// # Panics
/// If a read fails.
pub fn figures(rounds: usize, many: usize) -> Vec<Figure> {
    let sizes = [1_000, many / 10, many];
    let filled = sizes.map(Filled::without_references);
    let mut random = fastrand::Rng::with_seed(7);
    let mut rotate = sizes.map(|_| Vec::new());
    let mut write = sizes.map(|_| Vec::new());
    let mut batch = Vec::new();
    for round in 0..rounds {
        for ((filled, entries), (rotate, write)) in
            filled.iter().zip(sizes).zip(rotate.iter_mut().zip(&mut write))
        {
            let places: Vec<_> = (0..PART).map(|_| random.usize(..entries)).collect();
            rotate.push(rotation(filled, &places));
            let first = entries + round * PART;
            write.push(writes(filled, first..first + PART));
        }
        let first = 2 * many + round * 1024;
        batch.push(batch_of_writes(&filled[2], first..first + 1024));
    }
    let [few, some, most] = rotate;
    let [write_few, _, write_many] = write;
    let mut figures = vec![
        Figure::new("rotate_1m_vs_1k", "µs", most).against("1k", &few).target(Target::AtMost(2.0)),
        Figure::new("rotate_100k_vs_1k", "µs", some)
            .against("1k", &few)
            .target(Target::AtMost(2.0)),
        Figure::new("write_1m", "µs", write_many)
            .target(Target::AtMost(5.0))
            .note("one `get` of a secret that is not there yet, from the call to the value"),
        Figure::new("write_1m_batch", "µs", batch).note("each of 1,024 in one `get_many`"),
        Figure::new("write_1k", "µs", write_few),
    ];
    let [_, _, largest] = &filled;
    figures.extend(invalidate_all(largest, rounds));
    figures
}

/// Microseconds from the call of invalidate to the new value, per rotation.
fn rotation(filled: &Filled, places: &[usize]) -> f64 {
    let prepared: Vec<_> = places
        .iter()
        .map(|&at| (Scope::Keys(provider_id(), vec![secret_key(at)]), reference(at)))
        .collect();
    filled.runtime.block_on(async {
        let start = Instant::now();
        for (scope, reference) in &prepared {
            filled.resolver.invalidate_secrets(scope, Mode::Soft).expect("the provider is there");
            filled.resolver.get(reference).await.expect("the provider answers");
        }
        micros(start, prepared.len())
    })
}

fn writes(filled: &Filled, places: std::ops::Range<usize>) -> f64 {
    let references: Vec<_> = places.map(reference).collect();
    filled.runtime.block_on(async {
        let start = Instant::now();
        for reference in &references {
            filled.resolver.get(reference).await.expect("the provider answers");
        }
        micros(start, references.len())
    })
}

fn batch_of_writes(filled: &Filled, places: std::ops::Range<usize>) -> f64 {
    let references: Vec<_> = places.map(reference).collect();
    filled.runtime.block_on(async {
        let start = Instant::now();
        let answers = filled.resolver.get_many(&references).await;
        let took = micros(start, references.len());
        assert!(answers.iter().all(Result::is_ok), "the provider answers");
        took
    })
}

/// The time of the call, and what a reader of handles and of the cache's map sees meanwhile.
fn invalidate_all(filled: &Filled, rounds: usize) -> Vec<Figure> {
    let handle = filled.runtime.block_on(filled.resolver.handle(&reference(0)));
    let handle = handle.expect("the provider answers");
    let references: Vec<_> = (0..1024).map(reference).collect();
    // What a reader sees when nobody invalidates, to compare with.
    let read = |until: &AtomicBool| {
        let mut micros = Vec::new();
        for reference in references.iter().cycle() {
            if until.load(Ordering::Relaxed) {
                return micros;
            }
            let start = Instant::now();
            assert!(handle.load().is_ok(), "a soft invalidation leaves what handles show");
            assert!(filled.resolver.held_version(reference).is_some(), "and what is cached");
            micros.push(start.elapsed().as_secs_f64() * 1e6);
        }
        micros
    };
    let (mut call, mut quiet, mut disturbed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (invalidating, reader) in [(false, &mut quiet), (true, &mut disturbed)] {
            let (begun, done) = (Barrier::new(2), AtomicBool::new(false));
            let seen = std::thread::scope(|scope| {
                let reading = scope.spawn(|| {
                    begun.wait();
                    read(&done)
                });
                begun.wait();
                for _ in 0..CALLS {
                    let start = Instant::now();
                    if invalidating {
                        let all = filled.resolver.invalidate_secrets(&Scope::All, Mode::Soft);
                        all.expect("it always can");
                        call.push(micros(start, 1));
                    }
                    while start.elapsed() < CALL_EVERY {}
                }
                done.store(true, Ordering::Relaxed);
                reading.join().expect("the reader does not panic")
            });
            reader.push(quantile(&seen, 0.99));
        }
    }
    vec![
        Figure::new("invalidate_all_1m", "µs", call.chunks(CALLS).map(median).collect())
            .target(Target::AtMost(10.0))
            .note(format!("99 of 100 within {:.2} µs", quantile(&call, 0.99))),
        Figure::new("invalidate_all_1m_reader_p99", "µs", disturbed)
            .against("quiet", &quiet)
            .target(Target::AtMost(2.0))
            .note("a reader of a handle and of the map, while all is invalidated every 20 µs"),
    ]
}

fn micros(start: Instant, operations: usize) -> f64 {
    start.elapsed().as_secs_f64() * 1e6 / operations as f64
}
