//! `oneiric template check`: whether the templates of adapters can be rendered.

use crate::cli::{Global, TemplateCheck};
use crate::exit::Exit;
use crate::failure::Result;

/// Without the adapter nothing can be said about its templates.
#[cfg(not(feature = "template"))]
pub(super) fn check(global: &Global, _: &TemplateCheck) -> Result<Exit> {
    global.settings()?;
    let message = "no adapter of the kind `template` is linked into this program";
    Err(crate::failure::Failure::new(Exit::FAILED, message))
}

#[cfg(feature = "template")]
pub(super) use linked::check;

#[cfg(feature = "template")]
mod linked {
    //! What needs the adapter.

    use oneiric_core::settings::{Section, Settings, nearest};
    use oneiric_core::{AdapterId, Error, ErrorKind};

    use super::{Exit, Global, Result, TemplateCheck};
    use crate::failure::Failure;
    use crate::output::{self, tell};

    const KIND: &str = "template";

    pub(in super::super) fn check(global: &Global, args: &TemplateCheck) -> Result<Exit> {
        let settings = global.settings()?;
        let mut exit = Exit::DONE;
        for (id, section) in chosen(&settings, &args.adapters)? {
            let config = section.parse();
            let config =
                config.map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
            let report = oneiric_adapter_template::check(&config)
                .map_err(|error| error.context(format!("`{}` is not valid", section.path())))?;
            for file in report.files {
                let target = file.target.display();
                match file.problem {
                    None => _ = output::line(&format!("OK: {id}: {target}"))?,
                    Some(problem) => {
                        exit = Exit::FAILED;
                        tell(&format!("error: {id}: {problem}"));
                    }
                }
            }
            for name in report.unused {
                tell(&format!("warning: {id}: no template uses `{name}` of its `secrets`"));
            }
        }
        Ok(exit)
    }

    /// The adapters that are asked for, or all that have templates.
    fn chosen<'a>(
        settings: &'a Settings,
        ids: &[AdapterId],
    ) -> Result<Vec<(&'a AdapterId, &'a Section)>> {
        let with_templates = settings.adapters.iter().filter(|(_, section)| section.kind() == KIND);
        if ids.is_empty() {
            let all: Vec<_> = with_templates.collect();
            if all.is_empty() {
                let error =
                    Failure::new(Exit::FAILED, "the settings have no adapter with templates");
                return Err(error.remedy(format!(
                    "add a table such as [adapters.nginx] with kind = \"{KIND}\" to oneiric.toml, or \
                     name the file by --config"
                )));
            }
            return Ok(all);
        }
        let find = |wanted: &AdapterId| {
            with_templates.clone().find(|(id, _)| *id == wanted).ok_or_else(|| {
                let known = with_templates.clone().map(|(id, _)| id.as_str());
                let hint = match nearest(wanted.as_str(), known) {
                    Some(near) => format!("; did you mean `{near}`?"),
                    None => String::new(),
                };
                let message = format!("no adapter `{wanted}` has templates{hint}");
                Failure::new(Exit::FAILED, message)
            })
        };
        ids.iter().map(find).collect()
    }
}
