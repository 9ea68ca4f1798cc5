//! The secrets of one generation, as children are given them.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use oneiric_core::{AdapterId, HookError};
use oneiric_subprocess::{Redactor, Step};

use crate::config::Config;
use crate::delivery::{Delivery, surroundings};
use crate::folder::Staged;

/// One generation. Its files end with its last user.
pub(crate) struct Generation {
    pub(crate) number: u64,
    pub(crate) adapter: AdapterId,
    pub(crate) delivery: Delivery,
    pub(crate) redactor: Redactor,
    pub(crate) staged: Staged,
    /// The path that a child is told, if it is not that of its own files.
    pub(crate) told: Option<PathBuf>,
}

impl Generation {
    /// The variables that say who a child is.
    pub(crate) fn variables(&self, instance: Option<u32>) -> Vec<(&'static str, OsString)> {
        let mut variables = vec![
            ("ONEIRIC_ADAPTER", self.adapter.as_str().into()),
            ("ONEIRIC_GENERATION", self.number.to_string().into()),
        ];
        if let Some(instance) = instance {
            variables.push(("ONEIRIC_INSTANCE_NUMBER", instance.to_string().into()));
        }
        variables
    }

    /// Runs a command that is given the secrets as the child is, always the files of this
    /// generation itself.
    pub(crate) async fn run(
        &self,
        step: &Step<'_>,
        config: &Config,
        instance: Option<u32>,
    ) -> Result<(), HookError> {
        let dressed = self.dressed(step.argv, config, instance);
        let (command, _fillers) = dressed.map_err(|error| {
            let message = format!("`{}` cannot be given the secrets ({error})", step.name);
            HookError::failed(message).caused_by(error)
        })?;
        step.run_as(command.into(), &self.redactor, None).await
    }

    fn dressed(
        &self,
        argv: &[String],
        config: &Config,
        instance: Option<u32>,
    ) -> io::Result<(Command, crate::delivery::Fillers)> {
        let (program, arguments) = argv.split_first().expect("a command names its program");
        let mut command = Command::new(program);
        command.args(arguments);
        surroundings(config, &mut command);
        if let Some(dir) = &config.working_dir {
            command.current_dir(dir);
        }
        command.envs(self.variables(instance));
        let fillers = self.delivery.dress(&mut command, &[], Some(self.staged.path()))?;
        Ok((command, fillers))
    }
}
