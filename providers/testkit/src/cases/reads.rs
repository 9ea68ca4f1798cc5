//! Reading one secret.

use oneiric_core::{ErrorKind, SecretKey, SecretValue};

use crate::bench::{Bench, ensure_error, ensure_value, unexpected};
use crate::report::{Check, Stop, ensure};

pub(crate) async fn the_descriptor_is_constant(bench: &Bench<'_>) -> Check {
    let before = format!("{:?}", bench.provider.descriptor());
    let (key, _) = bench.given("descriptor").await?;
    bench.fetched(&key).await?;
    let descriptor = bench.provider.descriptor();
    ensure(format!("{descriptor:?}") == before, || "the descriptor has changed".into())?;
    ensure(!descriptor.kind.is_empty(), || "the kind is empty".into())?;
    ensure(!descriptor.uri.is_empty(), || "the URI is empty".into())
}

pub(crate) async fn a_value_is_served_as_it_was_set(bench: &Bench<'_>) -> Check {
    let (key, value) = bench.given("plain").await?;
    ensure_value(&bench.fetched(&key).await?, &value)
}

pub(crate) async fn a_missing_secret_is_not_found(bench: &Bench<'_>) -> Check {
    let error = ensure_error(&bench.fetch(&bench.key("missing")).await, &[ErrorKind::NotFound])?;
    let printed = error.chain().to_lowercase();
    // A store may spell a key in its own way, but not without a word of it.
    ensure(printed.contains("missing"), || format!("the error names no key: {printed}"))
}

pub(crate) async fn a_removed_secret_is_not_found(bench: &Bench<'_>) -> Check {
    let (key, _) = bench.given("removed").await?;
    bench.fetched(&key).await?;
    bench.remove(&key).await?;
    ensure_error(&bench.fetch(&key).await, &[ErrorKind::NotFound]).map(drop)
}

pub(crate) async fn an_empty_value_is_refused(bench: &Bench<'_>) -> Check {
    let key = bench.key("empty");
    bench.put(&key, &SecretValue::from("")).await?;
    ensure_error(&bench.fetch(&key).await, &[ErrorKind::Invalid]).map(drop)
}

pub(crate) async fn unicode_is_kept(bench: &Bench<'_>) -> Check {
    let key = bench.key("unicode");
    let text = format!("{} Grüße, 世界 🔑 \u{202e}é", bench.canary);
    let value = SecretValue::from(text);
    bench.put(&key, &value).await?;
    ensure_value(&bench.fetched(&key).await?, &value)
}

pub(crate) async fn bytes_that_are_no_text_are_kept_or_refused(bench: &Bench<'_>) -> Check {
    let key = bench.key("binary");
    let mut bytes = bench.canary.clone().into_bytes();
    bytes.extend([0xff, 0xfe, 0x80, b'\r', 0x1b, 0xc3, 0x28]);
    let value = SecretValue::from(bytes);
    bench.put(&key, &value).await?;
    if bench.capabilities.binary {
        ensure_value(&bench.fetched(&key).await?, &value)
    } else {
        ensure_error(&bench.fetch(&key).await, &[ErrorKind::Invalid]).map(drop)
    }
}

pub(crate) async fn the_largest_value_is_served_and_no_larger_one(bench: &Bench<'_>) -> Check {
    let Some(most) = bench.capabilities.max_value else {
        return Err(Stop::Skip("no `max_value` is declared".into()));
    };
    let most = usize::try_from(most).map_err(|_| Stop::Skip("`max_value` is huge".into()))?;
    let key = bench.key("large");
    let largest = bench.long_secret(most);
    bench.put(&key, &largest).await?;
    ensure_value(&bench.fetched(&key).await?, &largest)?;
    bench.put(&key, &bench.long_secret(most + 1)).await?;
    ensure_error(&bench.fetch(&key).await, &[ErrorKind::Invalid]).map(drop)
}

pub(crate) async fn keys_are_listed_sorted(bench: &Bench<'_>) -> Check {
    let Some(lister) = bench.provider.lister() else {
        return Err(Stop::Skip("there is no lister".into()));
    };
    let (first, _) = bench.given("list-b").await?;
    let (second, _) = bench.given("list-a").await?;
    let list = async || {
        let keys = lister.list().await;
        bench.note(&keys);
        keys.map_err(|error| unexpected("a list", &error))
    };
    let keys = list().await?;
    let strictly = keys.is_sorted_by(|one, next| one < next);
    ensure(strictly, || "the keys are not sorted, or one is listed twice".into())?;
    for key in [&first, &second] {
        match find(&keys, key) {
            Some(listed) => bench.fetched(listed).await.map(drop)?,
            None => return Err(Stop::Fail(format!("`{key}` is not listed"))),
        }
    }
    bench.remove(&first).await?;
    let keys = list().await?;
    ensure(find(&keys, &first).is_none(), || "a removed key is still listed".into())
}

pub(crate) async fn a_hostile_key_gets_an_error(bench: &Bench<'_>) -> Check {
    let long = "k".repeat(1024);
    for key in ["../secret", "a/../../etc/passwd", "/etc/passwd", "%2e%2e%2fa", "a b\\c?d&e", &long]
    {
        let key = key.parse().expect("these are keys to the core");
        let answer = bench.fetch(&key).await;
        let kinds = [ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Denied];
        ensure_error(&answer, &kinds)?;
    }
    Ok(())
}

/// A key in a list. A store may list it in the one spelling it knows.
fn find<'k>(keys: &'k [SecretKey], wanted: &SecretKey) -> Option<&'k SecretKey> {
    let spelled = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    keys.iter().find(|key| key.as_str().chars().map(spelled).eq(wanted.as_str().chars()))
}
