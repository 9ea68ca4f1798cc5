//! Which answer means that a credential was refused, and how long a newer one is waited for.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

/// How often a wait is worth its while: the runtime asks the store for what was refused no more
/// often than this.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Whether an answer says that the credential is not valid.
///
/// Only a 401 does (RFC 9110, section 15.5.2). A 403 is about rights, which another credential of
/// the same owner does not have either, and so is a 401 whose challenge says `insufficient_scope`:
/// that code belongs to a 403 (RFC 6750, section 3.1), but some servers do not know. Everything
/// else counts: `invalid_token`, codes of other schemes, and no challenge, which is common though
/// it is wrong.
pub(crate) fn is_refusal(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::UNAUTHORIZED
        && !headers.get_all(WWW_AUTHENTICATE).iter().any(|value| {
            let challenges = String::from_utf8_lossy(value.as_bytes());
            let mut parameters =
                challenges.split([',', ' ']).filter_map(|part| part.split_once('='));
            parameters.any(|(name, value)| {
                name.eq_ignore_ascii_case("error")
                    && value.trim_matches('"') == "insufficient_scope"
            })
        })
}

/// How long the users of one generation wait for the next: all of them together, once in a while.
/// Otherwise each request would wait for nothing while a credential stays refused.
#[derive(Debug)]
pub(crate) struct Patience {
    wait: Duration,
    /// The generation that is waited for the end of, and since when.
    waiting: Mutex<Option<(u64, Instant)>>,
}

impl Patience {
    pub(crate) fn new(wait: Duration) -> Self {
        Self { wait, waiting: Mutex::default() }
    }

    /// Until when a user of this generation, which was refused now, waits for the next one.
    pub(crate) fn until(&self, generation: u64) -> Instant {
        let now = Instant::now();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |&(of, since): &(u64, Instant)| {
            of > generation || (of == generation && now < since + self.wait.max(AGAIN_AFTER))
        };
        let (_, since) = *match waiting.take().filter(goes_on) {
            Some(known) => waiting.insert(known),
            None => waiting.insert((generation, now)),
        };
        since + self.wait
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn says(status: u16, challenges: &[&'static str]) -> bool {
        let value = |&text: &&'static str| (WWW_AUTHENTICATE, HeaderValue::from_static(text));
        let headers = challenges.iter().map(value).collect();
        is_refusal(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn a_401_is_a_refusal_unless_it_is_about_rights() {
        assert!(says(401, &[]));
        assert!(says(401, &["Basic realm=\"shop\""]));
        assert!(says(401, &["Bearer realm=\"shop\", error=\"invalid_token\""]));
        assert!(says(401, &["Bearer error_description=\"not insufficient_scope\""]));
        assert!(!says(401, &["Bearer error=\"insufficient_scope\""]));
        assert!(!says(401, &["Basic realm=\"a\"", "Bearer realm=\"b\",Error=insufficient_scope"]));
        for status in [200, 302, 400, 403, 407, 500] {
            assert!(!says(status, &["Bearer error=\"invalid_token\""]), "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_users_of_one_generation_wait_together_and_once_in_a_while() {
        let (wait, second) = (Duration::from_secs(2), Duration::from_secs(1));
        let patience = Patience::new(wait);
        let start = Instant::now();
        assert_eq!(patience.until(1), start + wait);
        tokio::time::advance(second).await;
        assert_eq!(patience.until(1), start + wait, "no time of its own");
        tokio::time::advance(8 * second).await;
        assert_eq!(patience.until(1), start + wait, "that is over");
        // The next one is waited for anew, and a straggler does not change that.
        assert_eq!(patience.until(2), Instant::now() + wait);
        assert_eq!(patience.until(1), Instant::now() + wait);
        tokio::time::advance(10 * second).await;
        assert_eq!(patience.until(2), Instant::now() + wait);
    }
}
