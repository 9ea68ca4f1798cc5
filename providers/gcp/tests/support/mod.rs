//! What the suites share: settings that lead to a fake.

use oneiric_gcp_fake::Fake;
use oneiric_provider_gcp::Config;

/// The topic to which changes are published.
pub(crate) const TOPIC: &str = "projects/demo-project/topics/changes";
/// The subscription from which they are pulled.
pub(crate) const SUBSCRIPTION: &str = "projects/demo-project/subscriptions/changes";

/// Settings for the global secrets of the fake, without push.
pub(crate) fn config(fake: &Fake) -> Config {
    let text = format!(
        "project = '{}'\nendpoint = '{}'\n[identity]\nanonymous = true",
        Fake::PROJECT,
        fake.endpoint(),
    );
    toml::from_str(&text).expect("the settings are valid")
}

/// Adds the subscription.
pub(crate) fn push(config: &mut Config, fake: &Fake) {
    let text = format!("subscription = '{SUBSCRIPTION}'\nendpoint = '{}'", fake.endpoint());
    config.push = Some(toml::from_str(&text).expect("the settings are valid"));
}
