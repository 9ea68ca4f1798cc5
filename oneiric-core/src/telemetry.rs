//! The names of everything that Oneiric emits, each in one place. The tables of
//! `docs/telemetry.md` list them, and a test holds the two together.
//!
//! A secret's name is never an attribute of a metric: it would be a leak, and it would break the
//! cardinality limits of every collector. Values, their lengths and unkeyed hashes appear in no
//! signal.

/// The instrumentation scope of every metric and span.
pub const SCOPE: &str = "oneiric";

/// Metrics.
pub mod metric {
    /// Counter: reads answered from the cache.
    pub const CACHE_HITS: &str = "secrets.cache_hits";
    /// Counter: reads that had to wait for the provider.
    pub const CACHE_MISSES: &str = "secrets.cache_misses";
    /// Counter: calls of `invalidate_secrets`, by `mode` and `scope`.
    pub const INVALIDATE_TOTAL: &str = "secrets.invalidate_total";
    /// Histogram, seconds: one call of a provider, by `provider` and `error.type`.
    pub const FETCH_DURATION: &str = "secrets.fetch.duration";
    /// Counter: calls of a provider, by `provider` and `call`.
    pub const UPSTREAM_CALLS: &str = "secrets.upstream_calls";
    /// Counter: answers given from beyond the time to live because the provider was failing.
    pub const STALE_SERVED: &str = "secrets.stale_served";
    /// Counter: answers from a fallback because those before it could not answer, by `provider`.
    pub const FALLBACK_SERVED: &str = "secrets.fallback_served";
    /// Gauge, seconds: the age of the oldest value that a handle shows, by `provider`.
    pub const AGE: &str = "secrets.age";
    /// Counter: changes that only the sweep found, though the provider has push.
    pub const WATCH_MISSED_EVENTS: &str = "secrets.watch.missed_events";
    /// Histogram, seconds: from the start of `prepare` to `commit`, by `adapter` and `outcome`.
    pub const SWAP_DURATION: &str = "lifecycle.swap.duration";
    /// Gauge: old generations that are draining.
    pub const DRAIN_INFLIGHT: &str = "lifecycle.drain.inflight";
    /// Gauge, seconds: until the first certificate that an adapter serves ends, by `adapter`.
    pub const SECONDS_TO_EXPIRY: &str = "lifecycle.seconds_to_expiry";
    /// Gauge: rotations that are running.
    pub const ROTATION_STATE: &str = "rotation.state";
    /// Counter: users that still held an old generation at the drain deadline, by `adapter`.
    pub const OLD_CREDENTIAL_USES: &str = "rotation.old_credential_uses";
    /// Counter: generations whose users reported that the credential was refused, by `adapter`.
    pub const REFUSALS: &str = "lifecycle.refusals";
    /// Counter: returns to the secrets of the generation before, by `adapter`.
    pub const RETURNS: &str = "lifecycle.returns";

    /// All of them.
    pub const ALL: [&str; 16] = [
        CACHE_HITS,
        CACHE_MISSES,
        INVALIDATE_TOTAL,
        FETCH_DURATION,
        UPSTREAM_CALLS,
        STALE_SERVED,
        FALLBACK_SERVED,
        AGE,
        WATCH_MISSED_EVENTS,
        SWAP_DURATION,
        DRAIN_INFLIGHT,
        SECONDS_TO_EXPIRY,
        ROTATION_STATE,
        OLD_CREDENTIAL_USES,
        REFUSALS,
        RETURNS,
    ];
}

/// Events: the `event` field of log records.
pub mod event {
    /// Secrets were invalidated; nothing fetched before is served as fresh.
    pub const CACHE_INVALIDATED: &str = "secrets-cache-invalidated";
    /// A secret is read from a fallback: those before it could not answer.
    pub const FALLBACK_BEGUN: &str = "secrets-fallback-begun";
    /// A secret is read from its first candidate again.
    pub const FALLBACK_ENDED: &str = "secrets-fallback-ended";
    /// A rotation ended with every adapter committed or unchanged.
    pub const ROTATION_COMPLETE: &str = "secrets-rotation-complete";
    /// A rotation ended otherwise.
    pub const ROTATION_FAILED: &str = "secrets-rotation-failed";
    /// An adapter built and proved its next generation.
    pub const ADAPTER_PREPARED: &str = "adapter-prepared";
    /// An adapter serves its next generation.
    pub const ADAPTER_COMMITTED: &str = "adapter-committed";
    /// An adapter's old generation ended.
    pub const ADAPTER_DRAINED: &str = "adapter-drained";
    /// An adapter could not make its next generation; the old one serves on.
    pub const ADAPTER_REFUSED: &str = "adapter-refused";
    /// A credential that serves was refused where it is used.
    pub const CREDENTIAL_REFUSED: &str = "credential-refused";
    /// An adapter went back to the secrets of the generation before.
    pub const ADAPTER_WENT_BACK: &str = "adapter-went-back";
    /// An adapter started a child process.
    pub const PROCESS_STARTED: &str = "process-started";
    /// A child process is ready, or has acknowledged that it took new secrets.
    pub const PROCESS_READY: &str = "process-ready";
    /// A child process ended by itself.
    pub const PROCESS_EXITED: &str = "process-exited";
    /// A child process ended when it was asked to.
    pub const PROCESS_STOPPED: &str = "process-stopped";
    /// A child process was killed, since it had not ended in time.
    pub const PROCESS_KILLED: &str = "process-killed";
    /// A child process could not be moved to newer secrets; it is tried again.
    pub const PROCESS_NOT_MOVED: &str = "process-not-moved";

    /// All of them.
    pub const ALL: [&str; 17] = [
        CACHE_INVALIDATED,
        FALLBACK_BEGUN,
        FALLBACK_ENDED,
        ROTATION_COMPLETE,
        ROTATION_FAILED,
        ADAPTER_PREPARED,
        ADAPTER_COMMITTED,
        ADAPTER_DRAINED,
        ADAPTER_REFUSED,
        CREDENTIAL_REFUSED,
        ADAPTER_WENT_BACK,
        PROCESS_STARTED,
        PROCESS_READY,
        PROCESS_EXITED,
        PROCESS_STOPPED,
        PROCESS_KILLED,
        PROCESS_NOT_MOVED,
    ];
}

/// Spans of the trace of a rotation.
pub mod span {
    /// The trigger, as the one who asked sees it.
    pub const TRIGGER: &str = "rotation.trigger";
    /// The request for a rotation, as an instance sees it.
    pub const REQUEST: &str = "rotation.request";
    /// One rotation within one instance.
    pub const ROTATION: &str = "rotation";
    /// `Resolver::invalidate_secrets`.
    pub const INVALIDATE: &str = "secrets.invalidate";
    /// One call of a provider.
    pub const FETCH: &str = "secrets.fetch";
    /// One adapter's `prepare`.
    pub const PREPARE: &str = "adapter.prepare";
    /// One adapter's `commit`.
    pub const COMMIT: &str = "adapter.commit";
    /// One adapter's `drain`.
    pub const DRAIN: &str = "adapter.drain";

    /// All of them.
    pub const ALL: [&str; 8] =
        [TRIGGER, REQUEST, ROTATION, INVALIDATE, FETCH, PREPARE, COMMIT, DRAIN];
}
