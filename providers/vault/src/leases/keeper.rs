//! What keeps a lease alive while it is in use, and replaces it before it ends. Nothing that a
//! store does ends it: a lease that cannot be renewed serves until its real end.

use std::sync::{Arc, Weak};
use std::time::Duration;

use oneiric_core::{Error, ErrorKind};
use tokio::time::{Instant, sleep, sleep_until};

use super::calls::say_left;
use super::lease::{Fixed, Lease, Stage};
use super::term::{Next, pause};
use super::{Held, Leases};
use crate::session::Life;

/// How often a lease that nobody watches is looked at, once it is due.
const IDLE: Duration = Duration::from_secs(1);
/// How long after the time at which a static role is to be changed it is read.
const AFTER: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Do {
    Renew,
    Succeed,
    Revoke,
    /// Nothing more: it has ended, or was given back.
    Rest,
    /// Look again.
    Look,
}

/// Keeps this lease until it has ended or the provider is gone.
pub(super) async fn keep(leases: Weak<Leases>, lease: Arc<Lease>) {
    let Some(mut logins) = leases.upgrade().map(|leases| leases.api.session.logins()) else {
        return;
    };
    let jitter = fastrand::f64();
    let mut failures = 0;
    loop {
        let Some((what, at)) = leases.upgrade().map(|leases| plan(&leases, &lease, jitter)) else {
            return;
        };
        tokio::select! {
            () = sleep_until(at) => {}
            () = lease.wake.notified() => continue,
            Ok(()) = logins.changed() => continue,
        }
        let Some(leases) = leases.upgrade() else { return };
        let done = match what {
            Do::Rest => return leases.forget(&lease),
            Do::Look => Ok(()),
            Do::Renew => renew(&leases, &lease).await,
            Do::Succeed => succeed(&leases, &lease).await,
            Do::Revoke => match leases.api.revoke(&lease.id, None).await {
                Ok(()) => return leases.forget(&lease),
                // Asking again changes nothing.
                Err(error) if error.kind() == ErrorKind::Denied => {
                    say_left(&error);
                    lease.state().stage = Stage::Left;
                    Ok(())
                }
                Err(error) => {
                    say(&lease, "a lease cannot be revoked now", &error);
                    Err(error)
                }
            },
        };
        drop(leases);
        let Err(error) = done else {
            failures = 0;
            continue;
        };
        let granted = lease.state().term.granted();
        let mut wait = pause(failures, granted, fastrand::f64());
        if let ErrorKind::Throttled { retry_after: Some(named) } = error.kind() {
            wait = wait.max(named);
        }
        failures += 1;
        tokio::select! {
            () = sleep(wait) => {}
            () = lease.wake.notified() => {}
        }
    }
}

/// What comes next for a lease, and when.
fn plan(leases: &Leases, lease: &Lease, jitter: f64) -> (Do, Instant) {
    let (now, ends) = (Instant::now(), lease.ends());
    let replaced = leases.api.session.has_replaced(&lease.token);
    let mut state = lease.state();
    match state.stage {
        Stage::Released => (Do::Rest, now),
        Stage::Superseded { .. } | Stage::Left if ends <= now => (Do::Rest, now),
        // It may end later than it would now: with a token that is prolonged.
        Stage::Left => (Do::Look, ends),
        Stage::Superseded { until } if until <= now => (Do::Revoke, now),
        Stage::Superseded { until } => match state.term.next(jitter) {
            Next::Renew(at) if at < ends && ends < until => (Do::Renew, at),
            _ => (Do::Look, until.min(ends)),
        },
        Stage::Current => {
            // What belongs to a token that nobody keeps alive any more ends with it, too.
            if ends <= now || (replaced && lease.token.life() != Life::Endless) {
                state.stage = Stage::Due;
                return (Do::Look, now);
            }
            let due = match state.term.next(jitter) {
                Next::Renew(at) if at < ends => return (Do::Renew, at),
                Next::Renew(_) => ends,
                Next::Succeed(at) => at.min(ends),
            };
            if now < due {
                return (Do::Look, due);
            }
            state.stage = Stage::Due;
            (Do::Look, now)
        }
        Stage::Due if state.given && leases.is_watched() => (Do::Succeed, now),
        // Nobody would be told of a successor. Whoever asks takes one.
        Stage::Due if ends <= now => (Do::Rest, now),
        Stage::Due => (Do::Look, ends.min(now + IDLE)),
    }
}

async fn renew(leases: &Leases, lease: &Lease) -> Result<(), Error> {
    let since = Instant::now();
    let what = leases.api.name(&lease.key);
    let granted = lease.state().term.granted();
    match leases.api.renew(&lease.id, granted, &what).await {
        Ok(Some(seconds)) => {
            lease.state().term.renew(since, seconds);
            Ok(())
        }
        Ok(None) => {
            Leases::lost(lease);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::Denied => {
            say(lease, "we may not renew a lease, so it is replaced before its end", &error);
            lease.state().term.fix();
            Ok(())
        }
        Err(error) => {
            say(lease, "a lease cannot be renewed now; it serves until its end", &error);
            Err(error)
        }
    }
}

async fn succeed(leases: &Arc<Leases>, lease: &Arc<Lease>) -> Result<(), Error> {
    let taken = leases.take(&lease.key, Some(&Held::Lease(Arc::clone(lease))), None).await;
    taken.map(drop).inspect_err(|error| say(lease, "a lease has no successor yet", error))
}

/// Reads a static role when its time has come, until the server says that it was changed. The time
/// that it names near the change is not believed: it may be that of the next one already.
pub(super) async fn follow(leases: Weak<Leases>, key: oneiric_core::SecretKey, fixed: Arc<Fixed>) {
    sleep_until(fixed.boundary + AFTER).await;
    let mut wait = AFTER;
    loop {
        let Some(leases) = leases.upgrade() else { return };
        // Whoever brings news in has another one follow them.
        if let Err(error) = leases.take(&key, Some(&Held::Fixed(Arc::clone(&fixed))), None).await {
            let error = error.chain();
            tracing::warn!(%key, error, "a static role cannot be read after its change");
        }
        drop(leases);
        sleep(wait.mul_f64(1.0 - fastrand::f64() / 10.0)).await;
        wait = (wait * 2).min(Duration::from_secs(30));
    }
}

fn say(lease: &Lease, what: &str, error: &Error) {
    let (key, version, error) = (&lease.key, lease.version(), error.chain());
    tracing::warn!(%key, %version, error, "{what}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::api::Api;
    use crate::leases::term::Term;
    use crate::session::Token;

    const SECOND: Duration = Duration::from_secs(1);

    /// A lease of an hour, by a token that lives for ten seconds.
    fn lease(now: Instant) -> (Arc<Leases>, Arc<Lease>) {
        let mut config = Config::new("http://127.0.0.1:1");
        config.auth.token = Some("t".into());
        let url = "http://127.0.0.1:1".parse().unwrap();
        let leases = Leases::new(Arc::new(Api::new(config, vec![url])), 60 * SECOND);
        let token = Token::new("t".into(), 0, Life::new(now, 10, true));
        let term = Term::new(now, 3600, true).unwrap();
        let lease = Lease::new("a".parse().unwrap(), "a/b".into(), "v".into(), token, term);
        (leases, lease)
    }

    #[tokio::test]
    async fn a_superseded_lease_is_not_let_go_while_its_token_may_be_prolonged() {
        let now = Instant::now();
        let (leases, lease) = lease(now);
        for (stage, next) in [
            (Stage::Superseded { until: now + 60 * SECOND }, (Do::Look, now + 60 * SECOND)),
            (Stage::Left, (Do::Look, now + 3600 * SECOND)),
        ] {
            lease.state().stage = stage;
            leases.api.session.prolong(&lease.token, Life::new(now, 10, true));
            assert_eq!(plan(&leases, &lease, 0.0), (Do::Look, now + 10 * SECOND));
            leases.api.session.prolong(&lease.token, Life::new(now, 7200, true));
            assert_eq!(plan(&leases, &lease, 0.0), next);
        }
        lease.state().stage = Stage::Superseded { until: now };
        assert_eq!(plan(&leases, &lease, 0.0).0, Do::Revoke);
        lease.lose();
        assert_eq!(plan(&leases, &lease, 0.0).0, Do::Rest);
    }
}
