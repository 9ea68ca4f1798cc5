//! What the fake holds: secrets with their versions, and what of them shows already.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::Instant;

/// Whether a version can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Enabled,
    Disabled,
    Destroyed,
}

#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) state: State,
    pub(crate) etag: u64,
    pub(crate) created: SystemTime,
    pub(crate) destroyed: Option<SystemTime>,
    pub(crate) scheduled: Option<SystemTime>,
    pub(crate) payload: Vec<u8>,
    pub(crate) checked: bool,
}

/// What there is about a secret besides its versions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meta {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) aliases: BTreeMap<String, i64>,
    pub(crate) topics: Vec<String>,
    pub(crate) replication: Option<Value>,
    pub(crate) destroy_ttl: Option<Duration>,
    pub(crate) etag: u64,
}

/// A secret as it was at some moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) meta: Meta,
    pub(crate) states: Vec<State>,
}

#[derive(Debug)]
pub(crate) struct Secret {
    pub(crate) created: SystemTime,
    pub(crate) meta: Meta,
    /// The first has the number 1.
    pub(crate) versions: Vec<Version>,
    history: Vec<(Instant, View)>,
}

impl Secret {
    pub(crate) fn new(meta: Meta) -> Self {
        Self { created: SystemTime::now(), meta, versions: Vec::new(), history: Vec::new() }
    }

    /// Notes how it stands now. Called after every change.
    pub(crate) fn note(&mut self) {
        let states = self.versions.iter().map(|version| version.state).collect();
        self.history.push((Instant::now(), View { meta: self.meta.clone(), states }));
    }

    /// How it shows where only what was there at the horizon shows.
    pub(crate) fn view(&self, horizon: Instant) -> Option<&View> {
        self.history.iter().rev().find(|(at, _)| *at <= horizon).map(|(_, view)| view)
    }

    /// The same for a read of this secret alone: that it exists shows at once.
    pub(crate) fn view_or_first(&self, horizon: Instant) -> &View {
        let view = self.view(horizon).or_else(|| self.history.first().map(|(_, view)| view));
        view.expect("a secret is noted when it is made")
    }
}

/// Where a secret is: the location, or none, and the id.
pub(crate) type Place = (Option<String>, String);

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) project: String,
    pub(crate) number: String,
    pub(crate) secrets: BTreeMap<Place, Secret>,
    /// In the order in which they were made.
    pub(crate) order: Vec<Place>,
    next_etag: u64,
    pub(crate) lag: Duration,
    pub(crate) frozen: Option<Instant>,
    pub(crate) page_limit: usize,
}

impl Store {
    pub(crate) fn new(project: &str, number: &str) -> Self {
        Self {
            project: project.into(),
            number: number.into(),
            secrets: BTreeMap::new(),
            order: Vec::new(),
            next_etag: 0x16_2d_4f,
            lag: Duration::ZERO,
            frozen: None,
            page_limit: 25_000,
        }
    }

    /// What was there at this moment shows to reads that are eventually consistent.
    pub(crate) fn horizon(&self) -> Instant {
        let now = Instant::now();
        let lagging = now.checked_sub(self.lag).unwrap_or(now);
        self.frozen.map_or(lagging, |frozen| frozen.min(lagging))
    }

    pub(crate) fn etag(&mut self) -> u64 {
        self.next_etag += 1;
        self.next_etag
    }

    /// The full name, by the number of the project.
    pub(crate) fn name(&self, place: &Place) -> String {
        let (location, id) = place;
        let location =
            location.as_ref().map_or(String::new(), |location| format!("/locations/{location}"));
        format!("projects/{}{location}/secrets/{id}", self.number)
    }
}

/// How an etag is written: with its quotes.
pub(crate) fn etag(number: u64) -> String {
    format!("\"{number:x}\"")
}

/// The JSON of a secret.
pub(crate) fn secret_json(name: &str, secret: &Secret, view: &View) -> Value {
    let meta = &view.meta;
    let mut json = json!({
        "name": name,
        "createTime": humantime::format_rfc3339_micros(secret.created).to_string(),
        "etag": etag(meta.etag),
    });
    if let Some(replication) = &meta.replication {
        json["replication"] = replication.clone();
    }
    if !meta.labels.is_empty() {
        json["labels"] = json!(meta.labels);
    }
    if !meta.annotations.is_empty() {
        json["annotations"] = json!(meta.annotations);
    }
    if !meta.aliases.is_empty() {
        let aliases: BTreeMap<&String, String> =
            meta.aliases.iter().map(|(name, number)| (name, number.to_string())).collect();
        json["versionAliases"] = json!(aliases);
    }
    if !meta.topics.is_empty() {
        let topics: Vec<Value> = meta.topics.iter().map(|name| json!({"name": name})).collect();
        json["topics"] = json!(topics);
    }
    if let Some(ttl) = meta.destroy_ttl {
        json["versionDestroyTtl"] = json!(format!("{}s", ttl.as_secs()));
    }
    json
}

/// The JSON of a version; enums as numbers or as names.
pub(crate) fn version_json(
    secret: &str,
    number: usize,
    version: &Version,
    state: State,
    ints: bool,
) -> Value {
    let state = match (state, ints) {
        (State::Enabled, true) => json!(1),
        (State::Disabled, true) => json!(2),
        (State::Destroyed, true) => json!(3),
        (State::Enabled, false) => json!("ENABLED"),
        (State::Disabled, false) => json!("DISABLED"),
        (State::Destroyed, false) => json!("DESTROYED"),
    };
    let mut json = json!({
        "name": format!("{secret}/versions/{number}"),
        "createTime": humantime::format_rfc3339_micros(version.created).to_string(),
        "state": state,
        "etag": etag(version.etag),
        "replicationStatus": {"automatic": {}},
    });
    if version.checked {
        json["clientSpecifiedPayloadChecksum"] = json!(true);
    }
    for (field, time) in
        [("destroyTime", version.destroyed), ("scheduledDestroyTime", version.scheduled)]
    {
        if let Some(time) = time {
            json[field] = json!(humantime::format_rfc3339_micros(time).to_string());
        }
    }
    json
}
