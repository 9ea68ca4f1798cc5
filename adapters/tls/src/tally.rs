//! How long the certificates that are served will last.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use oneiric_core::AdapterId;
use oneiric_core::telemetry::{SCOPE, metric};
use opentelemetry::{KeyValue, global};

/// When what one adapter serves ends, as far as is known.
#[derive(Debug, Default)]
pub(crate) struct Expiry(Mutex<Option<SystemTime>>);

impl Expiry {
    /// With an instrument of the global meter provider, which reports it for as long as it lives.
    pub(crate) fn of(adapter: &AdapterId) -> Arc<Self> {
        let expiry = Arc::<Self>::default();
        let (observed, adapter) = (Arc::downgrade(&expiry), adapter.to_string());
        global::meter(SCOPE)
            .f64_observable_gauge(metric::SECONDS_TO_EXPIRY)
            .with_unit("s")
            .with_description("Until the first certificate that an adapter serves ends")
            .with_callback(move |observer| {
                let left = observed.upgrade().and_then(|expiry| expiry.left(SystemTime::now()));
                if let Some(left) = left {
                    observer.observe(left, &[KeyValue::new("adapter", adapter.clone())]);
                }
            })
            .build();
        expiry
    }

    pub(crate) fn set(&self, ends: Option<SystemTime>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ends;
    }

    /// Seconds, below zero after the end.
    fn left(&self, now: SystemTime) -> Option<f64> {
        let ends = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let past = || -now.duration_since(ends).unwrap_or(Duration::ZERO).as_secs_f64();
        Some(ends.duration_since(now).map_or_else(|_| past(), |left| left.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_is_below_zero() {
        let expiry = Expiry::default();
        let now = SystemTime::now();
        assert_eq!(expiry.left(now), None);
        expiry.set(Some(now + Duration::from_secs(90)));
        assert_eq!(expiry.left(now), Some(90.0));
        assert_eq!(expiry.left(now + Duration::from_secs(100)), Some(-10.0));
    }
}
