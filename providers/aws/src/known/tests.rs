//! What an answer is worth, case by case.

use super::*;

fn at(second: u64) -> Option<SystemTime> {
    // In the past, so that the clock of this machine is later than all of them.
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second))
}

fn sight(version: &str, changed: Option<SystemTime>, created: Option<SystemTime>) -> Sight {
    let arn = "arn:aws:secretsmanager:eu-west-1:1:secret:db-AbCdEf".into();
    Sight { arn, name: "db".into(), version: version.into(), changed, created }
}

fn key() -> SecretKey {
    "db".parse().unwrap()
}

/// Books that have seen these, one after the other.
fn books(sights: &[Sight]) -> Books {
    let books = Books::default();
    for sight in sights {
        books.learn(&key(), sight);
    }
    books
}

#[tokio::test(start_paused = true)]
async fn an_older_answer_is_told_from_a_newer_one() {
    use Verdict::{Newer, Older, Same, Unclear};
    let dated = |version, second| sight(version, at(second), None);
    let made = |version, second| sight(version, None, at(second));
    let now = SystemTime::now();
    for (known, seen, verdict) in [
        (vec![], dated("a", 10), Newer),
        (vec![dated("a", 10)], dated("a", 5), Same),
        // By the date of the last change.
        (vec![dated("a", 10)], dated("b", 11), Newer),
        (vec![dated("a", 10)], dated("b", 9), Older),
        (vec![dated("a", 10), dated("b", 20)], dated("a", 21), Newer),
        // Within one second, what was replaced is not back so soon.
        (vec![dated("a", 10)], dated("b", 10), Newer),
        (vec![dated("a", 10), dated("b", 10)], dated("a", 10), Older),
        // A value has the date of its version alone.
        (vec![dated("a", 10)], made("b", 11), Newer),
        (vec![dated("a", 10)], made("b", 10), Unclear),
        (vec![dated("a", 10)], made("b", 9), Unclear),
        (vec![made("a", 10)], made("b", 11), Newer),
        (vec![made("a", 10)], made("b", 10), Unclear),
        (vec![made("a", 10), made("b", 9)], made("a", 10), Unclear),
        (vec![made("a", 10)], sight("b", None, None), Unclear),
        // A state from before the known version was made.
        (vec![made("a", 10)], dated("b", 9), Older),
        (vec![made("b", 9), made("a", 10)], dated("b", 11), Older),
        (vec![made("b", 9), made("a", 10)], dated("b", 12), Newer),
        (vec![made("a", 10)], dated("b", 11), Unclear),
        (vec![made("a", 10)], dated("b", 12), Newer),
        (vec![made("a", 10)], sight("b", Some(now + Duration::from_secs(60)), None), Newer),
    ] {
        assert_eq!(books(&known).see(&key(), &seen), verdict, "{known:?} {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_older_or_unclear_is_not_noted() {
    let books = books(&[sight("a", at(10), None)]);
    books.see(&key(), &sight("b", at(9), None));
    books.see(&key(), &sight("c", None, at(9)));
    assert_eq!(&*books.current(&key()).unwrap().0, "a");
    // A look settles what is unclear, but believes nothing older.
    assert_eq!(&*books.settle(&key(), &sight("b", at(9), None)), "a");
    assert_eq!(&*books.settle(&key(), &sight("b", at(11), None)), "b");
}

#[tokio::test(start_paused = true)]
async fn a_way_back_without_a_newer_date_is_believed_after_a_while() {
    let books = books(&[sight("a", at(10), None), sight("b", at(10), None)]);
    assert_eq!(&*books.settle(&key(), &sight("a", at(10), None)), "b");
    tokio::time::advance(SETTLES).await;
    assert_eq!(&*books.settle(&key(), &sight("a", at(10), None)), "a");
}

#[tokio::test(start_paused = true)]
async fn an_event_is_certain_only_if_it_is_later_than_all_that_is_known() {
    let version: Arc<str> = "b".into();
    let told = |books: &Books, second| books.told(&key(), &version, at(second));
    let dated = books(&[sight("a", at(10), None)]);
    assert!(!told(&dated, 15), "clocks may be apart");
    let hint = Hint { version: Some("b".into()), time: at(15) };
    assert_eq!(dated.hinted(&key()), Some(hint.clone()));
    assert_eq!(&*dated.current(&key()).unwrap().0, "a");
    assert!(told(&dated, 16));
    assert_eq!(&*dated.current(&key()).unwrap().0, "b");
    assert!(told(&dated, 1), "it is known, and a repetition is no news");
    // A late event about what was replaced.
    let replaced = books(&[sight("b", at(10), None), sight("a", at(20), None)]);
    assert!(!told(&replaced, 15) && !told(&replaced, 60));
    // Without a date of the store, what is known holds since it was seen, which is later.
    let undated = books(&[sight("a", None, at(10))]);
    assert!(!told(&undated, 60));
    assert!(!undated.told(&key(), &version, None));
    assert!(!undated.told(&"other".parse().unwrap(), &version, at(60)));
    undated.clear(&key(), &hint);
    assert!(undated.hinted(&key()).is_some(), "another hint has come since");
}

#[tokio::test(start_paused = true)]
async fn a_look_waits_for_the_newest_of_the_events_in_whatever_order_they_come() {
    let books = books(&[sight("a", at(10), None)]);
    let told = |version: &str, time| books.told(&key(), &version.into(), time);
    books.hint(&key());
    assert!(!told("b", at(12)));
    assert!(!told("c", at(14)));
    assert!(!told("b", at(12)) && !told("d", None), "a repetition, and one without a date");
    let newest = Hint { version: Some("c".into()), time: at(14) };
    assert_eq!(books.hinted(&key()), Some(newest));
    assert!(!told("e", at(14)), "within one second, the one that comes later");
    assert_eq!(books.hinted(&key()).unwrap().version, Some("e".into()));
}

#[tokio::test(start_paused = true)]
async fn what_only_an_event_has_told_is_given_up_when_nothing_confirms_it() {
    let claimed: Arc<str> = "claimed".into();
    let books = books(&[sight("a", at(10), None)]);
    assert!(books.told(&key(), &claimed, at(60)));
    // A state from before it, one of its time, and one from after it.
    assert_eq!(books.see(&key(), &sight("a", at(10), None)), Verdict::Older);
    assert_eq!(books.see(&key(), &sight("a", at(60), None)), Verdict::Older);
    assert_eq!(&*books.settle(&key(), &sight("a", at(58), None)), "claimed");
    tokio::time::advance(TOLD_SETTLES).await;
    assert_eq!(books.see(&key(), &sight("a", at(10), None)), Verdict::Unclear);
    assert_eq!(&*books.settle(&key(), &sight("a", at(10), None)), "a");
    // A way back right after it was read is believed by its date.
    assert!(books.told(&key(), &"next".into(), at(100)));
    assert_eq!(books.see(&key(), &sight("next", None, at(100))), Verdict::Same);
    assert_eq!(books.see(&key(), &sight("a", at(102), None)), Verdict::Newer);
}

#[tokio::test(start_paused = true)]
async fn what_an_event_has_named_is_that_until_it_was_read_and_for_a_minute() {
    let books = books(&[sight("a", at(10), None)]);
    assert!(books.told(&key(), &"b".into(), at(60)));
    assert!(books.is_named(&key(), "b") && !books.is_named(&key(), "a"));
    // The next change does not take that back: somebody may be about to read it.
    assert_eq!(books.see(&key(), &sight("c", at(100), None)), Verdict::Newer);
    assert!(books.is_named(&key(), "b") && !books.is_told(&key(), "b"));
    books.forget_named(&key(), "c");
    assert!(books.is_named(&key(), "b"));
    books.forget_named(&key(), "b");
    assert!(!books.is_named(&key(), "b"));
    assert!(books.told(&key(), &"c".into(), at(100)), "it is current already");
    assert!(books.is_named(&key(), "c"));
    tokio::time::advance(TOLD_SETTLES).await;
    assert!(!books.is_named(&key(), "c"));
}

#[tokio::test(start_paused = true)]
async fn a_name_leads_to_each_key_of_its_account_and_region() {
    let books = Books::default();
    let here = "arn:aws:secretsmanager:eu-west-1:1";
    let there = "arn:aws:secretsmanager:eu-west-1:2";
    let arn = format!("{here}:secret:db-AbCdEf");
    let other = format!("{there}:secret:db-GhIjKl");
    for (key, arn) in [("db", &arn), (arn.as_str(), &arn), (other.as_str(), &other)] {
        let seen = Sight { arn: arn.clone(), ..sight("a", at(1), None) };
        books.learn(&key.parse().unwrap(), &seen);
    }
    let keys = |place| -> Vec<String> {
        books.keys(place, "db").iter().map(ToString::to_string).collect()
    };
    assert_eq!(keys(Some(here)), [arn.as_str(), "db"]);
    assert_eq!(keys(Some(there)), [other.as_str()]);
    assert_eq!(keys(None).len(), 3);
    assert!(books.keys(Some(here), "other").is_empty());
}
