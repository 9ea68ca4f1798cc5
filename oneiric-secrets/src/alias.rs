//! Aliases: several who may answer for one secret, and which of them does.
//!
//! The first candidate is asked like any reference. Only while it cannot answer, and has no last
//! good value that may still be served, is the next one asked. One that is known not to answer is
//! not waited for: it is tried again behind the readers' backs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oneiric_core::settings::{SecretSettings, nearest};
use oneiric_core::telemetry::event;
use oneiric_core::{AliasId, Error, ErrorKind, ProviderId, Result, SecretRef, SecretValue};
use opentelemetry::{KeyValue, StringValue};

use crate::cell::{Cell, CellState};
use crate::entry::{Entry, EntryGuard, Secret};
use crate::event::SecretEvent;
use crate::read::Answer;
use crate::shared::Shared;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// What an alias stands for, and who answers for it.
#[derive(Debug)]
pub(crate) struct Alias {
    name: AliasId,
    candidates: Vec<Candidate>,
    /// What stands in its place while nobody has it.
    default: Option<SecretValue>,
    /// The one that answered last.
    in_use: AtomicUsize,
}

#[derive(Debug)]
struct Candidate {
    reference: SecretRef,
    counted_as: [KeyValue; 1],
}

/// The way from one reference to those who may answer it. The reference remembers it.
#[derive(Debug)]
pub(crate) struct Way {
    home: u64,
    alias: Arc<Alias>,
    /// With the field of the reference within that of each candidate.
    pub(crate) candidates: Vec<SecretRef>,
}

/// The read of one reference: how far it has come among those who may answer.
struct Course<'a> {
    reference: &'a SecretRef,
    way: Option<Arc<Way>>,
    at: usize,
    /// Why those before did not answer.
    failures: Vec<Error>,
    /// The first one that was passed over without being waited for.
    passed_over: Option<usize>,
    ended: Option<Result<Answer>>,
}

impl Alias {
    fn new(name: AliasId, settings: &SecretSettings) -> Self {
        let candidate = |reference: SecretRef| {
            let name = StringValue::from(reference.provider().to_string());
            Candidate { counted_as: [KeyValue::new("provider", name)], reference }
        };
        let candidates = settings.candidates.iter().cloned().map(candidate).collect();
        let default = settings.default.clone();
        Self { name, candidates, default, in_use: AtomicUsize::new(0) }
    }

    /// Notes who answers, and says so if it is another one than before.
    fn answered(&self, at: usize, why: Option<&Error>) -> Option<SecretEvent> {
        let before = self.in_use.load(Ordering::Relaxed);
        let moved = self.in_use.compare_exchange(before, at, Ordering::Relaxed, Ordering::Relaxed);
        if before == at || moved.is_err() {
            return None;
        }
        let Candidate { reference, .. } = &self.candidates[at];
        if at > 0 {
            tracing::warn!(
                target: "oneiric",
                event = event::FALLBACK_BEGUN,
                alias = %self.name,
                answers = %reference,
                error = why.map(Error::chain),
                "a secret is read from a fallback"
            );
        } else {
            tracing::info!(
                target: "oneiric",
                event = event::FALLBACK_ENDED,
                alias = %self.name,
                answers = %reference,
                "a secret is read from where it belongs again"
            );
        }
        let (alias, provider) = (self.name.clone(), reference.provider().clone());
        Some(SecretEvent::Moved { alias, provider, fallback: at > 0 })
    }
}

impl Way {
    /// The candidate that answered last.
    pub(crate) fn in_use(&self) -> &SecretRef {
        &self.candidates[self.alias.in_use.load(Ordering::Relaxed)]
    }
}

impl Answer {
    /// What was asked for at a provider.
    pub(crate) fn asked<'a>(&'a self, reference: &'a SecretRef) -> &'a SecretRef {
        self.way.as_ref().map_or(reference, |(way, at)| &way.candidates[*at])
    }

    /// Who did not answer, so that this one was asked.
    pub(crate) fn before(&self) -> &[SecretRef] {
        self.way.as_ref().map_or(&[], |(way, at)| &way.candidates[..*at])
    }

    /// The provider that answered in the place of another.
    pub(crate) fn fallback(&self) -> Option<&ProviderId> {
        (!self.before().is_empty()).then_some(&self.cell.source.id)
    }
}

impl Course<'_> {
    fn asked(&self) -> &SecretRef {
        self.way.as_ref().map_or(self.reference, |way| &way.candidates[self.at])
    }

    fn has_next(&self) -> bool {
        self.way.as_ref().is_some_and(|way| self.at + 1 < way.candidates.len())
    }

    /// Goes on to the next, or ends if there is none.
    fn go_on(&mut self, why: Error) {
        self.failures.push(why);
        if self.has_next() {
            self.at += 1;
        } else {
            self.ended = Some(Err(self.nobody()));
        }
    }

    /// The kind is that of the first: what another says of its own does not speak for it.
    fn nobody(&mut self) -> Error {
        match self.failures.as_slice() {
            [only] if !self.has_next() => only.clone(),
            all => {
                let kind = all.first().map_or(ErrorKind::Unavailable, Error::kind);
                let each: Vec<_> = all.iter().map(Error::chain).collect();
                let alias = self.reference.key();
                Error::new(kind, format!("nobody answers for `{alias}`: {}", each.join("; ")))
            }
        }
    }
}

impl Shared {
    /// The way of an alias.
    ///
    /// # Errors
    /// `Invalid` if there is no such alias, naming the nearest.
    pub(crate) fn way(&self, reference: &SecretRef) -> Result<Arc<Way>> {
        if let Some(way) = reference.memo().get::<Arc<Way>>()
            && way.home == self.home
        {
            return Ok(Arc::clone(way));
        }
        let name = reference.key().as_str();
        let alias = self.aliases.get(name).ok_or_else(|| {
            let known = self.aliases.keys().map(AliasId::as_str);
            let hint = match nearest(name, known.clone()) {
                Some(near) => format!("; did you mean `{near}`?"),
                None if self.aliases.is_empty() => "; none is defined".to_owned(),
                None => format!("; defined: {}", known.collect::<Vec<_>>().join(", ")),
            };
            Error::new(ErrorKind::Invalid, format!("there is no alias `{name}`{hint}"))
        })?;
        if alias.candidates.is_empty() {
            let message = format!("the alias `{name}` stands for nothing");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let within = |candidate: &Candidate| {
            let of = candidate.reference.clone();
            match (of.field(), reference.field()) {
                (_, None) => of,
                (None, Some(inner)) => of.with_field(inner.clone()),
                (Some(outer), Some(inner)) => {
                    let field = outer.join(inner);
                    of.with_field(field)
                }
            }
        };
        let candidates = alias.candidates.iter().map(within).collect();
        let way = Arc::new(Way { home: self.home, alias: Arc::clone(alias), candidates });
        reference.memo().set(Arc::new(Arc::clone(&way)));
        Ok(way)
    }

    /// Who may answer for a reference: itself, or the candidates of an alias.
    pub(crate) fn candidates(&self, reference: &SecretRef) -> Result<Vec<SecretRef>> {
        match reference.alias() {
            None => Ok(vec![reference.clone()]),
            Some(_) => Ok(self.way(reference)?.candidates.clone()),
        }
    }

    /// The one of them that answered last, or would be asked first.
    pub(crate) fn answering(&self, reference: &SecretRef) -> Option<SecretRef> {
        match reference.alias() {
            None => Some(reference.clone()),
            Some(_) => Some(self.way(reference).ok()?.in_use().clone()),
        }
    }

    /// The fast path of an alias: what the first has that needs nothing done, or what the next has
    /// while the first is known not to answer and not to be tried yet. The field that is asked for
    /// is still to be taken out.
    #[cold]
    #[inline(never)]
    pub(crate) fn hit_by_alias(&self, reference: &SecretRef) -> Option<EntryGuard> {
        reference.alias()?;
        let way = self.way(reference).ok()?;
        for (at, candidate) in way.candidates.iter().enumerate() {
            if let Some(entry) = self.hit(candidate) {
                let own = way.alias.candidates[at].reference.field();
                // A field within a field is the slow path's.
                if own.is_some() && reference.field().is_some() {
                    return None;
                }
                self.note(&way, at, None);
                let fallback = (at > 0).then(|| candidate.provider());
                let whole = Secret::new(entry, &way.alias.candidates[at].reference, None).ok()?;
                return Some(whole.into_entry(fallback));
            }
            let cell = self.cache.known_cell(candidate)?;
            if !self.is_left_alone(&cell) || self.is_out(&cell).is_none() {
                return None;
            }
        }
        None
    }

    /// Reads several references. What is missing is fetched in as few calls as the stores allow;
    /// what cannot be read and has somebody else to answer is read from there, again together.
    /// `down` are providers that no alias may be read from.
    pub(crate) async fn read_all(
        self: &Arc<Self>,
        references: &[SecretRef],
        down: &BTreeSet<ProviderId>,
    ) -> Vec<Result<Answer>> {
        self.read_many(references, down, false).await
    }

    /// The same, with the patience that nobody has who waits for a single secret.
    pub(crate) async fn prefetch(
        self: &Arc<Self>,
        references: &[SecretRef],
    ) -> Vec<Result<Answer>> {
        self.read_many(references, &BTreeSet::new(), true).await
    }

    async fn read_many(
        self: &Arc<Self>,
        references: &[SecretRef],
        down: &BTreeSet<ProviderId>,
        patiently: bool,
    ) -> Vec<Result<Answer>> {
        let mut courses: Vec<_> = references.iter().map(|of| self.course(of)).collect();
        loop {
            for course in &mut courses {
                self.pass_over(course, down);
            }
            let open: Vec<usize> =
                (0..courses.len()).filter(|&at| courses[at].ended.is_none()).collect();
            if open.is_empty() {
                break;
            }
            let wanted: Vec<&SecretRef> = open.iter().map(|&at| courses[at].asked()).collect();
            let answers = match patiently {
                true => self.read_patiently(&wanted).await,
                false => self.read_each(&wanted).await,
            };
            for (at, answer) in open.into_iter().zip(answers) {
                self.advance(&mut courses[at], answer, down.is_empty());
            }
        }
        let mut answers = Vec::with_capacity(courses.len());
        for course in courses {
            answers.push(self.conclude(course, down.is_empty()).await);
        }
        answers
    }

    fn course<'a>(&self, reference: &'a SecretRef) -> Course<'a> {
        let (way, ended) = match reference.alias().map(|_| self.way(reference)) {
            None => (None, None),
            Some(Ok(way)) => (Some(way), None),
            Some(Err(error)) => (None, Some(Err(error))),
        };
        Course { reference, way, at: 0, failures: Vec::new(), passed_over: None, ended }
    }

    /// Moves on from those that are not to be asked, or not to be waited for.
    fn pass_over(self: &Arc<Self>, course: &mut Course<'_>, down: &BTreeSet<ProviderId>) {
        while course.way.is_some() && course.ended.is_none() {
            let asked = course.asked();
            if down.contains(asked.provider()) {
                let message = format!(
                    "`{asked}` does not go with the rest of its set, which could not be read there"
                );
                course.go_on(Error::new(ErrorKind::Unavailable, message));
                continue;
            }
            let Some(cell) = self.cache.known_cell(asked).filter(|_| course.has_next()) else {
                return;
            };
            let Some(error) = self.is_out(&cell) else { return };
            if !self.is_left_alone(&cell) && !self.stop.is_cancelled() {
                self.board_one(&cell);
            }
            course.passed_over.get_or_insert(course.at);
            course.go_on(error);
        }
    }

    fn advance(&self, course: &mut Course<'_>, answer: Result<Answer>, is_news: bool) {
        match (answer, &course.way) {
            (Ok(answer), Some(way)) => {
                if is_news {
                    self.note(way, course.at, course.failures.first());
                }
                let way = Some((Arc::clone(way), course.at));
                course.ended = Some(Ok(Answer { way, ..answer }));
            }
            (Err(error), Some(_)) if error.kind().may_serve_stale() => course.go_on(error),
            (Err(error), Some(_)) if !course.failures.is_empty() => {
                course.failures.push(error);
                course.ended = Some(Err(course.nobody()));
            }
            (answer, _) => course.ended = Some(answer),
        }
    }

    /// The end of a read. Where nobody answered, one that was not waited for is waited for.
    async fn conclude(self: &Arc<Self>, course: Course<'_>, is_news: bool) -> Result<Answer> {
        let Course { way, passed_over, ended, .. } = course;
        let ended = ended.expect("a course goes on until it has ended");
        if let (Err(_), Some(way), Some(at)) = (&ended, &way, passed_over)
            && let Ok(answer) = self.read_plain(&way.candidates[at]).await
        {
            if is_news {
                self.note(way, at, None);
            }
            return Ok(Answer { way: Some((Arc::clone(way), at)), ..answer });
        }
        match way.filter(|way| way.alias.default.is_some()) {
            Some(way) => self.or_default(&way, ended).await,
            None => ended,
        }
    }

    /// The default in the place of what is not there. It stands only for what everybody says is not
    /// there: one who cannot answer, or does not want to, may well have it.
    async fn or_default(self: &Arc<Self>, way: &Way, ended: Result<Answer>) -> Result<Answer> {
        let is_absent = |ended: &Result<Answer>, own: &Candidate| match ended {
            Ok(answer) => {
                // The secret may be there without the field that the alias stands for.
                let field = answer.entry.part(own.reference.field(), &own.reference);
                let lacks_it = field.is_err_and(|error| error.kind() == ErrorKind::NotFound);
                // What was before an outage says nothing of now.
                lacks_it && answer.stale.is_none()
            }
            Err(error) => error.kind() == ErrorKind::NotFound,
        };
        // Only the first speaks for the alias.
        let is_first = match &ended {
            Ok(answer) => answer.before().is_empty(),
            Err(_) => true,
        };
        let Some((first, others)) = way.candidates.split_first() else { return ended };
        if !is_first || !is_absent(&ended, &way.alias.candidates[0]) {
            return ended;
        }
        for (candidate, own) in others.iter().zip(&way.alias.candidates[1..]) {
            if !is_absent(&self.read_plain(candidate).await, own) {
                return ended;
            }
        }
        let cell = self.cache.cell(first)?;
        // As old as the answer that it is not there.
        let (held, epoch) = match &ended {
            Ok(answer) => (Some(Arc::clone(&answer.entry)), Some(answer.entry.epoch)),
            Err(_) => {
                let failing = |state: &CellState| Some(state.failing.as_ref()?.epoch);
                (cell.entry(), cell.peek(failing).flatten())
            }
        };
        let epoch = epoch.unwrap_or_else(|| self.epochs.now());
        match self.default_of(way, held, epoch) {
            Some(entry) => Ok(Answer { cell, entry: Arc::new(entry), stale: None, way: None }),
            None => ended,
        }
    }

    /// The default of an alias as an entry, in the place of what is held.
    pub(crate) fn default_of(
        &self,
        way: &Way,
        held: Option<Arc<Entry>>,
        epoch: u64,
    ) -> Option<Entry> {
        let value = way.alias.default.clone()?;
        let times = self.times(self.options.clock.now());
        Some(Entry::of_default(value, held, epoch, times))
    }

    /// Notes who answers for an alias.
    fn note(&self, way: &Way, at: usize, why: Option<&Error>) {
        if at > 0 {
            self.tally.fallback_served(&way.alias.candidates[at].counted_as);
        }
        // What is served during a shutdown says nothing of the stores.
        if !self.stop.is_cancelled()
            && let Some(event) = way.alias.answered(at, why)
        {
            self.tell(event);
        }
    }

    /// Notes that the first answers again, though nobody has asked.
    pub(crate) fn note_return(&self, way: &Way) {
        if way.alias.in_use.load(Ordering::Relaxed) > 0 {
            self.note(way, 0, None);
        }
    }

    /// Why the next candidate is asked without waiting for this one: it could not answer when it
    /// was asked last, which was not long ago, and has nothing else to give.
    pub(crate) fn is_out(&self, cell: &Cell) -> Option<Error> {
        let failure = self.recent_failure(cell)?;
        (failure.kind().may_serve_stale() && self.last_good(cell).is_none()).then_some(failure)
    }

    /// Which providers others were asked instead of while they answered for a part of the same
    /// set; an error if that part has nobody else to answer for it.
    pub(crate) fn half_down(
        references: &[SecretRef],
        answers: &[Answer],
    ) -> Result<BTreeSet<ProviderId>> {
        let before = answers.iter().flat_map(Answer::before).map(SecretRef::provider);
        let silent: BTreeSet<_> = before.collect();
        let mut half = BTreeSet::new();
        for (reference, answer) in references.iter().zip(answers) {
            let id = &answer.cell.source.id;
            if !silent.contains(id) {
                continue;
            }
            if answer.way.is_none() {
                let message = format!(
                    "`{reference}` has no fallback, and another secret of its set could not be \
                     read from `{id}`"
                );
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
            half.insert(id.clone());
        }
        Ok(half)
    }
}

/// The aliases of a resolver, by name.
pub(crate) fn aliases(of: &BTreeMap<AliasId, SecretSettings>) -> BTreeMap<AliasId, Arc<Alias>> {
    let alias = |(name, settings): (&AliasId, &SecretSettings)| {
        (name.clone(), Arc::new(Alias::new(name.clone(), settings)))
    };
    of.iter().map(alias).collect()
}
