//! Keeps a token alive: renews it at two thirds of its life, and gets a new one where that fails.
//! It never gives up while it can do something, and it ends with the session.

use std::sync::Weak;
use std::time::Duration;

use oneiric_core::{Error, ErrorKind};
use tokio::time::{Instant, sleep, sleep_until};

use crate::session::{Life, Session, Token};

/// The longest pause before a failed attempt is made again.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The shortest one, and the least time between two renewals.
const MIN_PAUSE: Duration = Duration::from_millis(200);

/// What is to be done next.
#[derive(Debug, PartialEq)]
enum Step {
    /// It lives longer now.
    Renewed,
    /// Another token is needed.
    Replace,
    /// The server cannot be asked now.
    Later,
}

/// Keeps this token alive until it is replaced or the session is gone.
pub(crate) async fn keep(session: Weak<Session>, token: Token, life: Life) {
    let Some((mut life, granted)) = learn(&session, &token, life).await else { return };
    loop {
        let Life::Limited { since, ttl, renewable } = life else { return };
        sleep_until((since + due(ttl, fastrand::f64())).max(Instant::now() + MIN_PAUSE)).await;
        loop {
            let Some(session) = session.upgrade() else { return };
            let step = match renewable {
                true => renew(&session, &token, granted, &mut life).await,
                false => Step::Replace,
            };
            let step = match step {
                Step::Replace if session.logs_in() => {
                    match session.obtain(Some(token.generation), "a new login", None).await {
                        // That one has a keeper of its own.
                        Ok(_) => return,
                        Err(error) => {
                            say("a new login is not possible", &error);
                            Step::Later
                        }
                    }
                }
                // Whoever gave us the token must give us another one.
                Step::Replace => return,
                step => step,
            };
            if step == Step::Renewed {
                break;
            }
            drop(session);
            sleep(pause(ttl, fastrand::f64())).await;
        }
    }
}

/// How long the token lives, and how long it was granted for at first. `None` if there is nothing
/// to keep.
async fn learn(session: &Weak<Session>, token: &Token, mut life: Life) -> Option<(Life, Duration)> {
    loop {
        match life {
            Life::Endless => return None,
            Life::Limited { ttl, .. } => return Some((life, ttl)),
            Life::Unknown => {}
        }
        match session.upgrade()?.look_up(token).await {
            Ok(known) => {
                session.upgrade()?.prolong(token, known);
                life = known;
            }
            // Who may not ask does not learn it, and a token that is not known has no life.
            Err(error) if !passes(&error) => return None,
            Err(_) => sleep(pause(MAX_PAUSE * 10, fastrand::f64())).await,
        }
    }
}

async fn renew(session: &Session, token: &Token, granted: Duration, life: &mut Life) -> Step {
    match session.renew(token).await {
        Ok(renewed) => {
            session.prolong(token, renewed);
            *life = renewed;
            let Life::Limited { ttl, .. } = renewed else { return Step::Renewed };
            if is_worn(ttl, granted) && session.logs_in() { Step::Replace } else { Step::Renewed }
        }
        Err(error) if passes(&error) => {
            say("our token cannot be renewed now", &error);
            Step::Later
        }
        Err(error) => {
            say("our token is not renewed", &error);
            Step::Replace
        }
    }
}

/// Whether it may be otherwise in a moment.
fn passes(error: &Error) -> bool {
    let kind = error.kind();
    kind.may_serve_stale() || kind == ErrorKind::Ambiguous
}

fn say(what: &str, error: &Error) {
    tracing::warn!(error = %error.chain(), "{what}");
}

/// When a token of this life is renewed: at two thirds, and up to a tenth of that earlier, so that
/// those who logged in together do not come together.
fn due(ttl: Duration, jitter: f64) -> Duration {
    ttl.mul_f64(2.0 / 3.0 * (1.0 - jitter / 10.0))
}

/// Whether it is time for another token: this one is prolonged by less than it was granted for, so
/// its utmost end is near. What ends with it, a lease, has the rest of its life to be replaced in,
/// at least a third of a term.
fn is_worn(ttl: Duration, granted: Duration) -> bool {
    ttl < granted
}

/// How long to wait after a failure: a share of the life, so that there are several attempts left.
fn pause(ttl: Duration, jitter: f64) -> Duration {
    (ttl / 10).min(MAX_PAUSE).mul_f64(0.5 + jitter / 2.0).max(MIN_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_at_two_thirds_and_not_by_all_at_once() {
        let hour = Duration::from_secs(3600);
        assert_eq!(due(hour, 0.0), Duration::from_secs(2400));
        assert_eq!(due(hour, 1.0), Duration::from_secs(2160));
        assert_eq!(pause(hour, 1.0), MAX_PAUSE);
        assert_eq!(pause(Duration::from_secs(30), 0.0), Duration::from_millis(1500));
        assert_eq!(pause(Duration::ZERO, 0.0), MIN_PAUSE);
    }

    #[test]
    fn what_ends_with_a_token_has_at_least_a_third_of_its_term() {
        let granted = Duration::from_secs(60);
        for utmost in 61..300 {
            let utmost = Duration::from_secs(utmost);
            for jitter in [0.0, 0.3, 1.0] {
                let (mut now, mut ttl) = (Duration::ZERO, granted);
                while !is_worn(ttl, granted) {
                    now += due(ttl, jitter);
                    ttl = granted.min(utmost - now);
                }
                assert!(utmost - now >= granted / 3, "{utmost:?} {jitter}: {:?}", utmost - now);
            }
        }
    }
}
