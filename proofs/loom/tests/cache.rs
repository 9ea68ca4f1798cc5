//! Every schedule of fetches, reads and invalidations, up to a number of preemptions.
//! `ONEIRIC_DEEP=1` allows more of them.

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;
use oneiric_proof_loom::protocol::{Mode, World};

fn check(model: impl Fn() + Sync + Send + 'static) {
    let deep = std::env::var_os("ONEIRIC_DEEP").is_some_and(|deep| deep == "1");
    let mut builder = Builder::new();
    builder.preemption_bound = Some(if deep { 5 } else { 3 });
    builder.check(model);
}

fn spawn<T: 'static>(
    world: &Arc<World>,
    run: impl FnOnce(&World) -> T + 'static,
) -> thread::JoinHandle<T> {
    let world = Arc::clone(world);
    thread::spawn(move || run(&world))
}

/// P1, R1: what a read that begins after the invalidation takes for fresh began after it.
#[test]
fn no_value_from_before_an_invalidation_is_fresh_after_it() {
    for all in [false, true] {
        check(move || {
            let world = World::new(&[1]);
            let fetch = spawn(&world, |world| {
                world.get(0);
            });
            let reader = spawn(&world, |world| {
                world.fresh(0);
            });
            world.put(0, 2);
            if all {
                world.invalidate_all(Mode::Soft)
            } else {
                world.invalidate(&[0], Mode::Soft)
            }
            if let Some(entry) = world.get(0) {
                assert_eq!(entry.version, 2);
            }
            fetch.join().unwrap();
            reader.join().unwrap();
            assert!(world.fresh(0).is_none_or(|entry| entry.version == 2));
        });
    }
}

/// P1, hard: what was purged is neither usable nor shown, and no longer in memory, in any race
/// with the flight that brings it.
#[test]
fn what_is_purged_is_gone_in_any_race_with_its_landing() {
    check(|| {
        let world = World::new(&[1]);
        let fetch = spawn(&world, |world| {
            world.get(0);
        });
        world.put(0, 2);
        world.invalidate(&[0], Mode::Hard);
        for entry in [world.usable(0), world.shown(0), world.held(0)].into_iter().flatten() {
            assert_eq!(entry.version, 2);
        }
        fetch.join().unwrap();
        for entry in [world.usable(0), world.shown(0), world.held(0)].into_iter().flatten() {
            assert_eq!(entry.version, 2);
        }
    });
}

/// P3, R2: whatever a store that wavers between versions answers, a newer one is never replaced
/// by an older one.
#[test]
fn an_older_version_never_replaces_a_newer_one() {
    check(|| {
        let world = World::new(&[2]);
        let fetch = spawn(&world, |world| {
            world.get(0);
        });
        let watch = spawn(&world, |world| {
            let first = world.usable(0).map(|entry| entry.version);
            (first, world.usable(0).map(|entry| entry.version))
        });
        world.put(0, 1);
        world.invalidate(&[0], Mode::Soft);
        world.get(0);
        fetch.join().unwrap();
        let (first, second) = watch.join().unwrap();
        assert!(first <= second, "{first:?} was followed by {second:?}");
    });
}

/// P3: a roll-back that was asked for is carried out, once.
#[test]
fn a_roll_back_is_carried_out() {
    check(|| {
        let world = World::new(&[2]);
        world.get(0);
        let fetch = spawn(&world, |world| {
            world.get(0);
        });
        world.put(0, 1);
        world.invalidate(&[0], Mode::Rollback);
        if let Some(entry) = world.get(0) {
            assert_eq!(entry.version, 1);
        }
        fetch.join().unwrap();
        assert!(world.fresh(0).is_none_or(|entry| entry.version == 1));
    });
}

/// P2: whoever looks sees either the flight or what it brought, so that any number of readers of
/// a cold secret cause one fetch.
#[test]
fn readers_of_a_cold_secret_cause_one_fetch() {
    check(|| {
        let world = World::new(&[1]);
        let readers = [0, 1].map(|_| {
            spawn(&world, |world| {
                world.get(0);
            })
        });
        world.get(0);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert_eq!(world.fetches(), 1);
    });
}

/// P5, R11: a pair that is rotated and invalidated key by key is read as a whole.
#[test]
fn a_pair_is_never_torn() {
    check(|| {
        let world = World::new(&[1, 1]);
        world.get_set(&[0, 1]);
        let reader = spawn(&world, |world| {
            if let Some(set) = world.get_set(&[0, 1]) {
                assert_eq!(set[0].version, set[1].version, "{set:?}");
            }
        });
        world.put(0, 2);
        world.put(1, 2);
        world.invalidate(&[0, 1], Mode::Soft);
        reader.join().unwrap();
    });
}
