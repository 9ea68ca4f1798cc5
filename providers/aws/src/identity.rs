//! Who we are, and the way to AWS: read and looked for by the first call, and not before.

use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_secretsmanager::config::SharedHttpClient;
use aws_smithy_http_client::tls;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use oneiric_core::{Error, ErrorKind, Result};

use crate::config::{Config, Role};

/// How long a connection may take to be made. What comes after has the time of the call.
const CONNECT: Duration = Duration::from_secs(3);

/// What every client of a service is made from.
pub(crate) async fn sdk_config(config: &Config) -> Result<SdkConfig> {
    let http = http_client();
    let mut loader = base(&http);
    if let Some(region) = &config.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    let mut sdk = loader.load().await;
    let Some(region) = sdk.region().cloned() else {
        let message = "no `region` is set, and neither the environment, the profile nor the \
                       machine names one";
        return Err(Error::new(ErrorKind::Invalid, message));
    };
    // A profile or a file that is named is meant, whatever stands in the environment.
    if config.profile.is_some() || config.credentials_file.is_some() {
        let named = SharedCredentialsProvider::new(of_a_profile(config, &http, region.clone()));
        sdk = sdk.into_builder().credentials_provider(named).build();
    }
    let Some(role) = &config.role else { return Ok(sdk) };
    let mut sts = sdk.clone().into_builder();
    if let Some(endpoint) = &role.endpoint {
        sts = sts.endpoint_url(endpoint);
    }
    let assumed = SharedCredentialsProvider::new(assumed(role, &sts.build()).await);
    Ok(sdk.into_builder().credentials_provider(assumed).build())
}

/// The settings that all have in common: nothing is tried again, and nobody but the caller says
/// how long a call may take.
fn base(http: &SharedHttpClient) -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http.clone())
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
}

fn of_a_profile(
    config: &Config,
    http: &SharedHttpClient,
    region: Region,
) -> ProfileFileCredentialsProvider {
    let ways = ProviderConfig::without_region()
        .with_region(Some(region))
        .with_http_client(http.clone())
        .with_retry_config(RetryConfig::disabled());
    let mut provider = ProfileFileCredentialsProvider::builder().configure(&ways);
    if let Some(profile) = &config.profile {
        provider = provider.profile_name(profile);
    }
    if let Some(file) = &config.credentials_file {
        let files = EnvConfigFiles::builder()
            .include_default_config_file(true)
            .with_file(EnvConfigFileKind::Credentials, file);
        provider = provider.profile_files(files.build());
    }
    provider.build()
}

async fn assumed(role: &Role, ourselves: &SdkConfig) -> AssumeRoleProvider {
    let mut assumed = AssumeRoleProvider::builder(&role.arn)
        .configure(ourselves)
        .session_name(&role.session_name);
    if let Some(id) = &role.external_id {
        assumed = assumed.external_id(id);
    }
    match ourselves.credentials_provider() {
        Some(provider) => assumed.build_from_provider(provider).await,
        None => assumed.build().await,
    }
}

/// TLS is rustls on ring, as everywhere here.
fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .build_https()
}
