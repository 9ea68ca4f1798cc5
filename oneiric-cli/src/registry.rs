//! Which kinds of providers and adapters are linked: one line for each Cargo feature.

use oneiric_runtime::Registry;

/// Every kind that this program has.
pub(crate) fn registry() -> Registry {
    let registry = Registry::default();
    #[cfg(feature = "env")]
    let registry = registry.provider("env", |_, section| {
        Ok(kinds::build(section, oneiric_provider_env::Config::build)?)
    });
    #[cfg(feature = "file")]
    let registry = registry.provider("file", |_, section| {
        Ok(kinds::build(section, oneiric_provider_file::Config::build)?)
    });
    #[cfg(feature = "aws")]
    let registry = registry.provider("aws", |_, section| {
        Ok(kinds::build(section, oneiric_provider_aws::Config::build)?)
    });
    #[cfg(feature = "gcp")]
    let registry = registry.provider("gcp", |_, section| {
        Ok(kinds::build(section, oneiric_provider_gcp::Config::build)?)
    });
    #[cfg(feature = "vault")]
    let registry = registry.provider("vault", |_, section| {
        Ok(kinds::build(section, oneiric_provider_vault::Config::build)?)
    });
    #[cfg(feature = "exec")]
    let registry = registry.provider("exec", |_, section| {
        Ok(kinds::build(section, oneiric_provider_exec::Config::build)?)
    });
    #[cfg(feature = "command")]
    let registry = registry.adapter("command", |id, section| {
        Ok(kinds::build(section, |config| {
            oneiric_adapter_command::CommandHook::new(id.clone(), config)
        })?)
    });
    #[cfg(all(feature = "process", target_os = "linux"))]
    let registry = registry.adapter("process", |id, section| {
        Ok(kinds::build(section, |config| {
            let hook = oneiric_adapter_process::ProcessHook::new(id.clone(), config)?;
            Ok(hook.with_launcher(crate::launch::launcher()))
        })?)
    });
    #[cfg(feature = "template")]
    let registry = registry.adapter("template", |id, section| {
        Ok(kinds::build(section, |config| {
            oneiric_adapter_template::TemplateHook::new(id.clone(), config)
        })?)
    });
    registry
}

#[cfg(any(
    feature = "env",
    feature = "file",
    feature = "aws",
    feature = "gcp",
    feature = "vault",
    feature = "exec",
    feature = "command",
    all(feature = "process", target_os = "linux"),
    feature = "template"
))]
mod kinds {
    //! What all kinds share.

    use std::sync::Arc;

    use oneiric_core::settings::Section;
    use oneiric_core::{Error, ErrorKind, Result};

    /// Reads a section and makes what it describes.
    pub(super) fn build<C: serde::de::DeserializeOwned, T>(
        section: &Section,
        make: impl FnOnce(C) -> Result<T>,
    ) -> Result<Arc<T>> {
        // The problems of settings say by themselves where they are.
        let config =
            section.parse().map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
        let made = make(config);
        made.map(Arc::new)
            .map_err(|error| error.context(format!("`{}` is not valid", section.path())))
    }
}
