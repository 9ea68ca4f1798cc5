//! The outlook on its own: the figures of known stores, and what must hold of any.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A store with stamps and push, at the pace of the default settings.
fn watching(keys: usize, live: bool, detection: Detection) -> Watching {
    let capabilities = Capabilities { stamps: true, push: true, ..Capabilities::default() };
    let pace = Pace { interval: 30 * SECOND, behind_push: 600 * SECOND, ttl: 600 * SECOND };
    Watching { capabilities, detection, keys, pace, live }
}

/// A paid store that looks at so many keys a call and promises nothing.
fn cloud(keys_a_call: Option<u32>, calls_a_minute: Option<u32>, usd: Option<f64>) -> Detection {
    Detection {
        keys_a_call: keys_a_call.and_then(NonZeroU32::new),
        calls_a_minute: calls_a_minute.and_then(NonZeroU32::new),
        settles_within: None,
        usd_a_million: usd,
    }
}

fn round(calls: f64) -> u64 {
    format!("{calls:.0}").parse().unwrap()
}

#[test]
fn a_local_store_has_a_bound_and_is_swept_as_often_behind_push() {
    for live in [false, true] {
        let local = watching(10, live, Detection::default());
        assert_eq!(local.interval(), 30 * SECOND);
        let outlook = local.outlook();
        assert_eq!(outlook.noticed, Some(Bound::Within(33 * SECOND)));
        assert_eq!((round(outlook.calls_a_day), outlook.usd_a_month), (28_800, Some(0.0)));
        assert_eq!(outlook.mode, if live { Mode::PushAndSweep } else { Mode::Sweep });
    }
}

#[test]
fn a_store_that_promises_nothing_has_no_bound_however_often_it_is_asked() {
    let mut of = watching(1000, true, cloud(None, Some(540), Some(0.0)));
    assert!(matches!(of.outlook().noticed, Some(Bound::AtLeast(_))));
    of.pace.interval = SECOND / 1000;
    of.pace.behind_push = SECOND / 1000;
    assert!(matches!(of.outlook().noticed, Some(Bound::AtLeast(_))));
}

#[test]
fn a_list_of_pointers_is_one_call_a_sweep_at_any_number_of_keys() {
    let mut of = watching(1000, false, cloud(None, None, Some(0.0)));
    of.pace.interval = 60 * SECOND;
    assert_eq!(round(of.outlook().calls_a_day), 1440);
    of.keys = 100_000;
    assert_eq!(round(of.outlook().calls_a_day), 1440);
    of.keys = 0;
    assert_eq!(round(of.outlook().calls_a_day), 0);
}

#[test]
fn a_quota_makes_a_sweep_long_and_its_time_limit_longer() {
    // 1,000 keys at 540 a minute take 111 s.
    let of = watching(1000, false, cloud(Some(1), Some(540), Some(0.0)));
    assert!(of.patience() > 222 * SECOND, "{:?}", of.patience());
    let Some(Bound::AtLeast(ours)) = of.outlook().noticed else { panic!("it has no bound") };
    assert_eq!(ours.as_secs(), 33 + 222);
    // No more calls than the quota allows.
    assert!(of.outlook().calls_a_day <= 540.0 * 24.0 * 60.0);
    assert_eq!(watching(0, false, of.detection).patience(), SLACK);
}

#[test]
fn a_price_is_that_of_a_month_and_is_not_made_up() {
    let mut of = watching(1000, false, cloud(Some(1), None, Some(5.0)));
    of.pace.interval = 60 * SECOND;
    // 1.44 million calls a day at 5 dollars a million, for 30 days.
    let usd = of.outlook().usd_a_month.unwrap();
    assert!((usd - 216.0).abs() < 0.01, "{usd}");
    assert_eq!(watching(9, false, cloud(Some(1), None, None)).outlook().usd_a_month, None);
}

#[test]
fn what_cannot_be_swept_is_noticed_by_its_time_to_live() {
    let mut of = watching(3, false, Detection::default());
    of.capabilities.stamps = false;
    let outlook = of.outlook();
    assert_eq!((outlook.mode, outlook.calls_a_day), (Mode::Ttl, 0.0));
    assert_eq!(outlook.noticed, Some(Bound::Within(600 * SECOND)));
    of.live = true;
    assert_eq!(of.outlook().mode, Mode::PushAndTtl);
    of.pace.interval = Duration::ZERO;
    assert_eq!(of.outlook().mode, Mode::Ttl);
    of.pace.ttl = Duration::ZERO;
    assert_eq!(of.outlook().noticed, None);
}

#[test]
fn without_watching_there_is_no_sweep_to_count_on() {
    let mut of = watching(3, false, Detection::default());
    of.pace.interval = Duration::ZERO;
    of.pace.ttl = 60 * SECOND;
    let outlook = of.outlook();
    assert_eq!((outlook.mode, outlook.calls_a_day), (Mode::Ttl, 0.0));
    assert_eq!(outlook.noticed, Some(Bound::Within(60 * SECOND)));
    of.pace.ttl = Duration::ZERO;
    assert_eq!(of.outlook().noticed, None);
}

#[test]
fn push_slows_only_a_sweep_that_has_a_price() {
    for detection in [
        cloud(Some(1), None, Some(0.0)),
        Detection { settles_within: None, ..Detection::default() },
        Detection { calls_a_minute: NonZeroU32::new(60), ..Detection::default() },
        Detection { usd_a_million: Some(5.0), ..Detection::default() },
        Detection { usd_a_million: None, ..Detection::default() },
    ] {
        assert_eq!(watching(1, true, detection).interval(), 600 * SECOND, "{detection:?}");
        assert_eq!(watching(1, false, detection).interval(), 30 * SECOND, "{detection:?}");
        let mut of = watching(1, true, detection);
        of.pace.behind_push = Duration::ZERO;
        assert_eq!(of.interval(), 30 * SECOND, "no sweep is more frequent than the usual one");
    }
}

prop_compose! {
    fn any_detection()(
        keys_a_call in prop::option::of(1_u32..5000),
        calls_a_minute in prop::option::of(1_u32..100_000),
        settles in prop::option::of(0_u64..1000),
        usd in prop::option::of(0.0..100.0),
    ) -> Detection {
        Detection {
            keys_a_call: keys_a_call.and_then(NonZeroU32::new),
            calls_a_minute: calls_a_minute.and_then(NonZeroU32::new),
            settles_within: settles.map(Duration::from_secs),
            usd_a_million: usd,
        }
    }
}

prop_compose! {
    fn any_watching()(
        detection in any_detection(),
        keys in 0_usize..200_000,
        live: bool,
        stamps: bool,
        interval in 1_u64..100_000,
        behind_push in 0_u64..100_000,
        ttl in prop_oneof![Just(0), 1_u64..100_000],
    ) -> Watching {
        Watching {
            capabilities: Capabilities { stamps, push: true, ..Capabilities::default() },
            detection,
            keys,
            pace: Pace {
                interval: Duration::from_secs(interval),
                behind_push: Duration::from_secs(behind_push),
                ttl: Duration::from_secs(ttl),
            },
            live,
        }
    }
}

/// How long a change goes unnoticed by our own doing.
fn ours(of: &Watching) -> Duration {
    of.outlook().noticed.map_or(Duration::MAX, Bound::ours)
}

proptest! {
    #[test]
    fn more_keys_are_never_noticed_sooner_nor_cost_less_than_the_quota(
        of in any_watching(), more in 0_usize..100_000,
    ) {
        let larger = Watching { keys: of.keys + more, ..of };
        prop_assert!(ours(&larger) >= ours(&of));
        prop_assert!(larger.patience() >= of.patience());
        prop_assert!(larger.calls() >= of.calls());
    }

    #[test]
    fn a_longer_interval_is_never_noticed_sooner_and_never_costs_more(
        of in any_watching(), longer in 0_u64..100_000,
    ) {
        let mut slower = of;
        slower.pace.interval += Duration::from_secs(longer);
        slower.pace.behind_push += Duration::from_secs(longer);
        prop_assert!(ours(&slower) >= ours(&of));
        let (less, more) = (slower.outlook(), of.outlook());
        prop_assert!(less.calls_a_day <= more.calls_a_day);
        prop_assert!(less.usd_a_month.unwrap_or(0.0) <= more.usd_a_month.unwrap_or(0.0));
    }

    #[test]
    fn there_is_a_bound_exactly_where_the_store_has_one(of in any_watching()) {
        let bound = matches!(of.outlook().noticed, Some(Bound::Within(_)));
        let known = of.outlook().noticed.is_some();
        prop_assert_eq!(bound, known && of.detection.settles_within.is_some());
    }

    #[test]
    fn a_quota_is_never_exceeded(of in any_watching()) {
        if let Some(calls) = of.detection.calls_a_minute {
            let most = f64::from(calls.get()) * 24.0 * 60.0;
            prop_assert!(of.outlook().calls_a_day <= most * 1.000_001);
        }
    }
}
