//! The command line.

#[cfg(all(feature = "process", target_os = "linux"))]
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;
use oneiric_core::settings::{Settings, SettingsError, Sources};
use oneiric_core::{AdapterId, ProviderId, SecretKey, SecretRef};

/// Rotates the secrets of running services without an outage.
#[derive(Debug, Parser)]
#[command(name = "oneiric", version, max_term_width = 100, infer_long_args = false)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The settings file [default: $ONEIRIC_CONFIG, or oneiric.toml where it is there]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    config: Option<PathBuf>,

    /// A setting, stronger than file and environment, such as agent.instance=web-1
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = assignment)]
    #[arg(help_heading = "Global options")]
    set: Vec<(String, String)>,

    /// The form of log records on stderr
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Global options")]
    #[arg(value_parser = PossibleValuesParser::new(["human", "json"]))]
    log_format: Option<String>,

    /// More log records; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

impl Global {
    /// The settings that hold for this call.
    pub(crate) fn settings(&self) -> Result<Settings, SettingsError> {
        let mut sources = Sources::of_process().with_flags(self.set.iter().cloned());
        if let Some(file) = &self.config {
            sources = sources.with_file(file);
        }
        if let Some(format) = &self.log_format {
            sources = sources.with_flags([("telemetry.log_format", format)]);
        }
        Settings::load(&sources)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Rotate, read, write and watch secrets
    #[command(subcommand)]
    Secrets(SecretsCommand),

    /// Run the adapters of the settings file, and rotate their secrets on demand and on change
    ///
    /// Ends on SIGTERM or SIGINT, after what is under way; a second signal ends it at once.
    Agent,

    /// Run a command with secrets, and carry their changes to it
    ///
    /// Without --adapter, --env, --file and --fd it gets every secret of the settings that has an
    /// alias, each in the environment under its own variable. Signals are passed on to it, and its
    /// exit code is ours, or 128 and the number of the signal that ended it.
    ///
    /// Exit codes of our own, where the command did not run: 1 failed, such as a secret that cannot be
    /// had; 2 usage; 126 the command cannot be run; 127 there is no such command.
    #[cfg(all(feature = "process", target_os = "linux"))]
    Run(Box<Run>),

    /// Show what each running instance serves
    Status(Status),

    /// Show and check settings
    #[command(subcommand)]
    Config(ConfigCommand),

    /// Look at the templates of adapters
    #[command(subcommand)]
    Template(TemplateCommand),

    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// Move running instances to the current secrets, without an outage
    ///
    /// Every instance invalidates and reads the secrets anew, builds and proves the next
    /// generation of each adapter that depends on them, commits all or none, and drains the old
    /// ones.
    ///
    /// Exit codes: 0 done; 1 failed, nothing changed; 2 usage; 3 rolled back, the old secrets
    /// serve; 4 committed, but an old generation is not drained; 5 conflict with another
    /// rotation; 6 it is not known what happened; 7 nobody was reached.
    Rotate(Rotate),

    /// Print one secret, and nothing else
    ///
    /// It is read here, through the providers of the settings.
    Get(Get),

    /// Print the keys of the secrets that are there, never a value
    List(List),

    /// Write a new version of a secret, and make it the current one
    ///
    /// The value is read from standard input or from a file, and is stored as it is, byte by byte.
    /// Whoever promotes another version meanwhile is not overwritten. The new version is printed.
    ///
    /// Exit codes: 0 done; 1 failed; 2 usage; 5 another version is current than was expected; 6 it
    /// is not known whether it was written.
    Set(Set),

    /// Print the versions of a secret, the newest first, never a value
    Versions(Versions),

    /// Make a version of a secret the current one: to go on after `set --no-promote`, or back
    ///
    /// Exit codes: 0 done; 1 failed; 2 usage; 5 another version is current than was expected; 6 it
    /// is not known whether it was done.
    Promote(Promote),

    /// Make a version unreadable, until it is enabled again
    ///
    /// The first step to get rid of an old version: if somebody misses it, `enable` takes it back.
    Disable(Disable),

    /// Make a disabled version readable again
    Enable(Enable),

    /// End a version for good
    ///
    /// One that is current or enabled is refused: disable it first, and see that nobody misses it.
    Destroy(Destroy),

    /// Print a line for each secret that changes, never a value
    ///
    /// Follows the running instances or, without one, the providers of the settings. Ends on
    /// SIGINT.
    Watch(Watch),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("scope").required(true).args(["keys", "all"]))]
pub(crate) struct Rotate {
    /// The provider of the secrets; with --all, everything of it
    #[arg(short, long, value_name = "ID")]
    pub(crate) provider: Option<ProviderId>,

    /// The keys of the secrets, separated by commas; without --provider, aliases or PROVIDER:KEY
    #[arg(long, value_name = "KEY,…", value_delimiter = ',')]
    pub(crate) keys: Vec<SecretKey>,

    /// Everything; with --provider, everything of it
    #[arg(long)]
    pub(crate) all: bool,

    /// Wipe the old values at once, even if the new ones cannot be read: for leaked secrets
    #[arg(long, conflicts_with = "rollback")]
    pub(crate) hard: bool,

    /// Accept older versions than those held: for a roll-back in the store
    #[arg(long)]
    pub(crate) rollback: bool,

    /// An instance, or the endpoint of one (a socket or URL); may be given several times [default:
    /// every running instance]
    #[arg(long = "target", value_name = "INSTANCE|ENDPOINT")]
    pub(crate) targets: Vec<String>,

    /// The file with the token for endpoints over TCP
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// How long users of the old secrets have to end [default: as each instance is set]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,

    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Which one: PROVIDER:KEY[@VERSION][#FIELD], or ALIAS[#FIELD]
    #[arg(value_name = "REF")]
    pub(crate) reference: SecretRef,

    /// Print it even on a terminal
    #[arg(long)]
    pub(crate) reveal: bool,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only those of this provider
    #[arg(short, long, value_name = "ID")]
    pub(crate) provider: Option<ProviderId>,

    /// Print the aliases of the settings instead, with where each secret is; no store is asked
    #[arg(long, conflicts_with = "provider")]
    pub(crate) aliases: bool,

    /// Print one JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// Which one: PROVIDER:KEY
    #[arg(value_name = "REF")]
    pub(crate) reference: SecretRef,

    /// Read the value from this file [default: standard input]
    #[arg(long, value_name = "FILE")]
    pub(crate) from_file: Option<PathBuf>,

    /// Leave out one line end at the end of the value
    #[arg(long)]
    pub(crate) trim: bool,

    /// Make the secret first, where the store wants that
    #[arg(long)]
    pub(crate) create: bool,

    /// Keep the new version aside: `promote` makes it the current one
    #[arg(long)]
    pub(crate) no_promote: bool,

    /// Only if this version is the current one [default: the one that is current when it begins]
    #[arg(long, value_name = "VERSION", conflicts_with = "no_promote")]
    pub(crate) expect: Option<String>,

    /// The name of the attempt: repeating one whose reply was lost makes no second version
    #[arg(long, value_name = "TOKEN", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) token: Option<String>,

    /// Store even an empty value
    #[arg(long)]
    pub(crate) allow_empty: bool,

    /// Store even `changeme`, `***` and the like
    #[arg(long)]
    pub(crate) allow_placeholder: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Versions {
    /// Which one: PROVIDER:KEY
    #[arg(value_name = "REF")]
    pub(crate) reference: SecretRef,

    /// Print one JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Promote {
    /// Which one: PROVIDER:KEY@VERSION
    #[arg(value_name = "REF")]
    pub(crate) reference: SecretRef,

    /// Only if this version is the current one [default: the one that is current when it begins]
    #[arg(long, value_name = "VERSION")]
    pub(crate) expect: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Disable {
    /// Which one: PROVIDER:KEY@VERSION
    #[arg(value_name = "REF")]
    pub(crate) reference: SecretRef,

    /// Even if it is the current one, so that nobody can read the secret any more
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Enable {
    /// Which one: PROVIDER:KEY@VERSION
    #[arg(value_name = "REF")]
    pub(crate) reference: SecretRef,
}

#[derive(Debug, Args)]
pub(crate) struct Destroy {
    /// Which one: PROVIDER:KEY@VERSION
    #[arg(value_name = "REF")]
    pub(crate) reference: SecretRef,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,

    /// Even if it is current or enabled
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Only these secrets
    #[arg(value_name = "REF")]
    pub(crate) references: Vec<SecretRef>,

    /// Follow the providers of the settings from here, whatever instances are running
    #[arg(long, requires = "references")]
    pub(crate) local: bool,

    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(all(feature = "process", target_os = "linux"))]
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Run it as [adapters.ID] of the settings says; a command that is given here takes the place of
    /// the one there
    #[arg(long, value_name = "ID", conflicts_with_all = ["env", "file", "fd", "on_change"])]
    pub(crate) adapter: Option<AdapterId>,

    /// A secret in the environment: PROVIDER:KEY[@VERSION][#FIELD], or ALIAS[#FIELD]
    #[arg(short, long, value_name = "NAME=REF", value_parser = binding)]
    pub(crate) env: Vec<(String, SecretRef)>,

    /// A secret in a file of this name, in the folder that $ONEIRIC_SECRETS_DIR names
    #[arg(short, long, value_name = "NAME=REF", value_parser = binding)]
    pub(crate) file: Vec<(String, SecretRef)>,

    /// A secret on an inherited descriptor, whose number is in this variable
    #[arg(long, value_name = "NAME=REF", value_parser = binding)]
    pub(crate) fd: Vec<(String, SecretRef)>,

    /// What happens when a secret changes: `keep` does nothing; `signal` replaces the files and
    /// signals; `restart` stops the command and starts it anew; `overlap` starts a new one, and stops
    /// the old one when the new one is ready
    #[arg(long, value_name = "HOW", default_value = "keep")]
    #[arg(value_parser = PossibleValuesParser::new(["keep", "signal", "restart", "overlap"]))]
    pub(crate) on_change: String,

    /// The signal with --on-change signal [default: HUP]
    #[arg(long, value_name = "SIGNAL", conflicts_with = "adapter")]
    pub(crate) signal: Option<String>,

    /// The command is ready, or has heard the signal, when something listens here: a port or ADDR:PORT
    #[arg(long, value_name = "PORT", group = "ready")]
    pub(crate) ready_port: Option<String>,

    /// The same when this shell command succeeds
    #[arg(long, value_name = "COMMAND", group = "ready")]
    pub(crate) ready_command: Option<String>,

    /// The same when it has written this file
    #[arg(long, value_name = "FILE", group = "ready")]
    pub(crate) ready_file: Option<PathBuf>,

    /// Listen here and hand the socket over, as systemd does (LISTEN_FDS): ADDR:PORT or a path; may be
    /// given several times
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Vec<String>,

    /// How long the command has to end after it was asked to; then it is killed
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) kill_timeout: Option<Duration>,

    /// The command and its arguments, after `--`
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "adapter")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print one JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting, its value, and where that came from
    Show {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Say whether the settings are good, or every problem that they have
    ///
    /// Builds providers and adapters, and starts nothing.
    Check(Check),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Read every alias as well, and say how each stands, never a value
    ///
    /// Ends with 1 unless each is good, or is not required and not there.
    #[arg(long)]
    pub(crate) secrets: bool,

    /// Print one JSON array
    #[arg(long, requires = "secrets")]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// Render the files of template adapters with placeholders, and say what is wrong
    ///
    /// No store is asked, nothing is written and no command runs. Names that no adapter defines,
    /// and what cannot be rendered, are told with file and line. Exit code 1 if there is any.
    Check(TemplateCheck),
}

#[derive(Debug, Args)]
pub(crate) struct TemplateCheck {
    /// Only these adapters
    #[arg(value_name = "ADAPTER")]
    pub(crate) adapters: Vec<AdapterId>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is not of the form KEY=VALUE".into()),
    }
}

/// A name and the secret that is found under it.
#[cfg(all(feature = "process", target_os = "linux"))]
fn binding(text: &str) -> Result<(String, SecretRef), String> {
    let (name, reference) = assignment(text)?;
    let reference = reference.parse().map_err(|error| format!("{error}"))?;
    Ok((name, reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_to_be_rotated_is_said() {
        let parse = |args: &str| {
            let args = ["oneiric", "secrets", "rotate"].into_iter().chain(args.split_whitespace());
            Cli::try_parse_from(args)
        };
        for good in ["--all", "-p files --all", "--provider files --keys a,b/c --hard", "--keys db"]
        {
            parse(good).unwrap();
        }
        for bad in [
            "",
            "--provider files",
            "--all --keys a -p files",
            "--all --hard --rollback",
            "-p files --keys a,,b",
            "--all --timeout soon",
        ] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
