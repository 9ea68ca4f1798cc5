//! From secrets to a header, or a reason why they do not fit into one.

use std::future::ready;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use oneiric_core::{AdapterId, HookError, ManagedHook, SecretRef, SecretSet};
use zeroize::Zeroizing;

use crate::credential::HttpCredential;

/// Each is an adapter without a proof yet: give it one with [`ManagedHook::prove`]. Their
/// `prepare` *fails*, without a word of the value, where a secret does not fit into the header.
impl HttpCredential {
    /// `Authorization: Bearer <token>` (RFC 6750): visible ASCII characters only.
    pub fn bearer(id: AdapterId, token: SecretRef) -> ManagedHook<Self> {
        managed(id, [token.clone()], move |secrets| {
            let token = part(secrets, &token, u8::is_ascii_graphic)?;
            Ok((AUTHORIZATION, Zeroizing::new([b"Bearer ", token].concat())))
        })
    }

    /// `Authorization: Basic <user:password>` (RFC 7617): no control characters, and no colon in
    /// the user's name. Two fields of one secret change together, so prefer them over two secrets.
    pub fn basic(id: AdapterId, user: SecretRef, password: SecretRef) -> ManagedHook<Self> {
        managed(id, [user.clone(), password.clone()], move |secrets| {
            let user = part(secrets, &user, |byte| !byte.is_ascii_control() && *byte != b':')?;
            let password = part(secrets, &password, |byte| !byte.is_ascii_control())?;
            let pair = Zeroizing::new([user, b":", password].concat());
            let encoded = Zeroizing::new(STANDARD.encode(&*pair));
            Ok((AUTHORIZATION, Zeroizing::new([b"Basic ", encoded.as_bytes()].concat())))
        })
    }

    /// `<name>: <value>`, such as `X-Api-Key`: no control characters, and no space at the ends,
    /// since it would not arrive. A client that follows redirects takes it along to other hosts,
    /// where it would leave `Authorization` out.
    pub fn named(id: AdapterId, name: HeaderName, value: SecretRef) -> ManagedHook<Self> {
        managed(id, [value.clone()], move |secrets| {
            let bytes = part(secrets, &value, |byte| !byte.is_ascii_control())?;
            if bytes.trim_ascii() != bytes {
                return Err(HookError::failed(format!("`{value}` starts or ends with a space")));
            }
            Ok((name.clone(), Zeroizing::new(bytes.to_vec())))
        })
    }
}

type Header = (HeaderName, Zeroizing<Vec<u8>>);

fn managed(
    id: AdapterId,
    secrets: impl Into<Vec<SecretRef>>,
    header: impl Fn(&SecretSet) -> Result<Header, HookError> + Send + Sync + 'static,
) -> ManagedHook<HttpCredential> {
    ManagedHook::new(id, secrets, move |secrets| {
        ready(header(&secrets).map(|(name, bytes)| {
            let value = HeaderValue::from_bytes(&bytes)
                .expect("bytes without control characters are a header value");
            HttpCredential::new(name, value)
        }))
    })
}

/// The bytes of one secret, if there are any and every one of them fits.
fn part<'a>(
    secrets: &'a SecretSet,
    reference: &SecretRef,
    fits: impl Fn(&u8) -> bool,
) -> Result<&'a [u8], HookError> {
    let value = secrets
        .get(reference)
        .ok_or_else(|| HookError::failed(format!("`{reference}` was not given")))?;
    let bytes = value.expose();
    if bytes.is_empty() {
        return Err(HookError::failed(format!("`{reference}` is empty")));
    }
    if !bytes.iter().all(fits) {
        let reason = format!("`{reference}` has a character that this header cannot carry");
        return Err(HookError::failed(reason));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use oneiric_core::{LifecycleHook, SecretValue, Version};

    use super::*;

    fn reference(name: &str) -> SecretRef {
        format!("files:{name}").parse().unwrap()
    }

    fn id() -> AdapterId {
        "api".parse().unwrap()
    }

    async fn header_of(
        hook: &ManagedHook<HttpCredential>,
        values: &[&[u8]],
    ) -> Result<(String, Vec<u8>), HookError> {
        let part = |(reference, value): (&SecretRef, &&[u8])| {
            (reference.clone(), SecretValue::from(*value), Version::numbered(1))
        };
        let set = SecretSet::new(hook.secrets().iter().zip(values).map(part));
        hook.prepare(&set).await?.commit();
        let credential = hook.managed().unwrap().load().clone();
        let (name, value) = credential.header();
        assert!(value.is_sensitive());
        assert_eq!(format!("{credential:?} {value:?}"), "HttpCredential Sensitive");
        Ok((name.to_string(), value.as_bytes().to_vec()))
    }

    #[tokio::test]
    async fn each_scheme_makes_its_header() {
        let bearer = HttpCredential::bearer(id(), reference("token"));
        let (name, value) = header_of(&bearer, &[b"abc.def"]).await.unwrap();
        assert_eq!((name.as_str(), &value[..]), ("authorization", &b"Bearer abc.def"[..]));

        // The example of RFC 7617.
        let basic = HttpCredential::basic(id(), reference("user"), reference("password"));
        let (_, value) = header_of(&basic, &[b"Aladdin", b"open sesame"]).await.unwrap();
        assert_eq!(value, b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");

        let name = HeaderName::from_static("x-api-key");
        let named = HttpCredential::named(id(), name, reference("key"));
        let (name, value) = header_of(&named, &["ké y".as_bytes()]).await.unwrap();
        assert_eq!((name.as_str(), &value[..]), ("x-api-key", "ké y".as_bytes()));
    }

    #[tokio::test]
    async fn a_value_that_does_not_fit_fails_without_showing_it() {
        let bearer = HttpCredential::bearer(id(), reference("token"));
        let basic = HttpCredential::basic(id(), reference("user"), reference("password"));
        let name = HeaderName::from_static("x-api-key");
        let named = HttpCredential::named(id(), name, reference("key"));
        let cases: [(_, &[&[u8]], _); 9] = [
            (&bearer, &[b"canary\n"], "files:token"),
            (&bearer, &[b"canary canary"], "files:token"),
            (&bearer, &[b""], "files:token"),
            (&basic, &[b"can:ary", b"p"], "files:user"),
            (&basic, &[b"u", b"canary\r\nX-Other: 1"], "files:password"),
            (&basic, &[b"u"], "files:password"),
            (&named, &[b"canary\0"], "files:key"),
            (&named, &[b" canary"], "files:key"),
            (&named, &[b"canary\x7f"], "files:key"),
        ];
        for (hook, values, culprit) in cases {
            let error = header_of(hook, values).await.unwrap_err();
            assert!(!error.is_refused() && error.to_string().contains(culprit), "{error}");
            assert!(!format!("{error} {error:?} {hook:?}").contains("canary"), "{error:?}");
        }
    }
}
