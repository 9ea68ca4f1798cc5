//! Who we are: builds the credential that the settings ask for.
//!
//! Google's library starts a task that keeps the token fresh, so it is built by the first call
//! and not with the provider.

use google_cloud_auth::build_errors::Error as BuildError;
use google_cloud_auth::credentials::{
    Builder as Default, Credentials as Credential, anonymous, external_account, impersonated,
    service_account, user_account,
};
use oneiric_core::{Error, ErrorKind, Result};
use serde_json::Value;

use crate::config::Identity;

/// What a token is good for.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Builds the credential. It reads a file at most; the token is fetched by the first call that
/// needs it.
pub(crate) async fn credential(config: &Identity) -> Result<Credential> {
    provide_crypto();
    if config.anonymous {
        return Ok(anonymous::Builder::new().build());
    }
    // The project whose quota is used belongs to the credential that is sent.
    let quota = config.quota_project.as_deref();
    let own_quota = quota.filter(|_| config.impersonate.is_none());
    let own = match &config.file {
        None => {
            let mut builder = Default::default().with_scopes([SCOPE]);
            if let Some(project) = own_quota {
                builder = builder.with_quota_project_id(project);
            }
            // It looks for a file.
            let built = tokio::task::spawn_blocking(|| builder.build()).await;
            let built = built.map_err(|_| {
                let message = "looking for application default credentials ended in a panic";
                Error::new(ErrorKind::Bug, message)
            })?;
            built.map_err(|error| unusable("application default credentials", &error))
        }
        Some(path) => {
            let of = format!("the credentials in `{}`", path.display());
            let text = tokio::fs::read(path).await.map_err(|error| {
                let kind = ErrorKind::Unauthenticated;
                Error::with_source(kind, format!("{of} cannot be read"), error)
            })?;
            // What it says could quote a key.
            let json = serde_json::from_slice(&text)
                .map_err(|_| Error::new(ErrorKind::Unauthenticated, format!("{of} are no JSON")))?;
            from_file(json, own_quota, &of)
        }
    }?;
    let Some(account) = &config.impersonate else { return Ok(own) };
    let mut builder = impersonated::Builder::from_source_credentials(own)
        .with_target_principal(account)
        .with_delegates(&config.delegates)
        .with_scopes([SCOPE]);
    if let Some(project) = quota {
        builder = builder.with_quota_project_id(project);
    }
    builder.build().map_err(|error| unusable(&format!("credentials of `{account}`"), &error))
}

/// A credential from a file, by the type that stands in it.
fn from_file(json: Value, quota: Option<&str>, of: &str) -> Result<Credential> {
    macro_rules! build {
        ($builder:expr) => {{
            let mut builder = $builder;
            if let Some(project) = quota {
                builder = builder.with_quota_project_id(project);
            }
            builder.build().map_err(|error| unusable(of, &error))
        }};
    }
    match json.get("type").and_then(Value::as_str) {
        Some("service_account") => {
            let scopes = service_account::AccessSpecifier::from_scopes([SCOPE]);
            build!(service_account::Builder::new(json).with_access_specifier(scopes))
        }
        Some("authorized_user") => build!(user_account::Builder::new(json)),
        Some("external_account") => {
            build!(external_account::Builder::new(json).with_scopes([SCOPE]))
        }
        Some("impersonated_service_account") => {
            build!(impersonated::Builder::new(json).with_scopes([SCOPE]))
        }
        _ => {
            let message = format!("{of} are of no type that is known here");
            Err(Error::new(ErrorKind::Unauthenticated, message))
        }
    }
}

/// Says what is wrong without what the library says, which could quote a key.
fn unusable(of: &str, error: &BuildError) -> Error {
    let why = match error {
        error if error.is_loading() => "cannot be loaded",
        error if error.is_parsing() => "cannot be read",
        error if error.is_unknown_type() => "are of an unknown type",
        error if error.is_missing_field() => "lack a field",
        error if error.is_not_supported() => "are not supported",
        _ => "cannot be used",
    };
    Error::new(ErrorKind::Unauthenticated, format!("{of} {why}"))
}

/// Google's crates leave the choice of cryptography to the process. Where nobody has chosen, it is
/// ring.
fn provide_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Somebody else may have been quicker.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn built(config: &str, content: &str) -> Result<Credential> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.json");
        std::fs::write(&path, content).unwrap();
        let mut config: Identity = toml::from_str(config).unwrap();
        config.file = Some(path);
        credential(&config).await
    }

    #[tokio::test]
    async fn files_of_every_type_are_taken() {
        let user = r#"{"type": "authorized_user", "client_id": "i", "client_secret": "s",
                       "refresh_token": "t"}"#;
        for config in ["", "quota_project = 'q'", "impersonate = 'a@b'\nquota_project = 'q'"] {
            assert!(built(config, user).await.is_ok(), "{config}");
        }
        let external = r#"{"type": "external_account", "audience": "a",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": "https://sts.googleapis.com/v1/token",
            "credential_source": {"file": "/var/run/token"}}"#;
        assert!(built("", external).await.is_ok());
    }

    #[tokio::test]
    async fn a_file_that_is_no_credential_is_named_and_not_quoted() {
        for content in ["canary", r#"{"type": "canary"}"#, r#"{"type": "service_account"}"#] {
            let error = built("", content).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated);
            assert!(error.chain().contains("key.json"), "{}", error.chain());
            assert!(!format!("{error:?} {}", error.chain()).contains("canary"));
        }
        let missing: Identity = toml::from_str("file = '/nowhere/key.json'").unwrap();
        let error = credential(&missing).await.unwrap_err();
        assert!(error.chain().contains("cannot be read"), "{}", error.chain());
    }
}
