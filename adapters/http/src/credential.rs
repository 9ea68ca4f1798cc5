//! One header that says who asks.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// A header that says who asks. One generation of it.
///
/// # Use
/// [`CredentialLayer`](crate::CredentialLayer) does what follows. By hand: load a guard per
/// request, add the header, and hold the guard *until the answer was read*, since draining waits
/// for the guards, and the old credential is revoked after that. Where the server does not accept
/// it, say so on the guard: `report_refused`.
///
/// ```
/// use http::{HeaderValue, Request, header::AUTHORIZATION};
/// use oneiric_adapter_http::HttpCredential;
/// use oneiric_core::{HookError, LifecycleHook, SecretSet, SecretValue, Version};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # async fn ask(_: &HttpCredential) -> Result<u16, HookError> { Ok(200) }
/// let token: oneiric_core::SecretRef = "vault:api#token".parse()?;
/// let hook = HttpCredential::bearer("api".parse()?, token.clone()).prove(|credential| async move {
///     // A real, harmless request over a fresh connection: `credential` is not serving yet.
///     match ask(&credential).await? {
///         401 | 403 => Err(HookError::refused("the API does not accept the token")),
///         500.. => Err(HookError::failed("the API could not be asked")),
///         _ => Ok(()),
///     }
/// });
/// # let part = (token, SecretValue::from("t0ken"), Version::numbered(1));
/// # hook.prepare(&SecretSet::new([part])).await?.commit();
/// # let managed = hook.managed().ok_or("nothing serves")?;
///
/// let credential = managed.load();
/// let mut request = Request::get("http://api.internal/").body(())?;
/// credential.add_to(request.headers_mut());
/// assert_eq!(request.headers()[AUTHORIZATION], HeaderValue::from_static("Bearer t0ken"));
/// // … send it and read the answer, then:
/// drop(credential);
/// # Ok(())
/// # }
/// ```
///
/// # Wiping
/// `HeaderValue` does not wipe its bytes when it is dropped, and clients copy them into their
/// buffers. It is marked sensitive, so that Debug does not show it and HTTP/2 does not index it.
#[derive(Clone)]
pub struct HttpCredential {
    name: HeaderName,
    value: HeaderValue,
}

impl HttpCredential {
    pub(crate) fn new(name: HeaderName, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self { name, value }
    }

    /// The header.
    pub fn header(&self) -> (&HeaderName, &HeaderValue) {
        (&self.name, &self.value)
    }

    /// Puts the header into a request, in place of any of the same name.
    pub fn add_to(&self, headers: &mut HeaderMap) {
        headers.insert(self.name.clone(), self.value.clone());
    }
}

impl fmt::Debug for HttpCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpCredential")
    }
}
