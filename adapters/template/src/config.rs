//! The settings of one `[adapters.<id>]` section with `kind = "template"`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oneiric_core::settings::duration;
use oneiric_core::{Error, ErrorKind, Result, SecretRef};
use serde::{Deserialize, Deserializer, de};

use crate::format::Format;
use crate::signal::SignalName;

/// How a [`TemplateHook`](crate::TemplateHook) is set up.
///
/// ```
/// let config: oneiric_adapter_template::Config = toml::from_str(r#"
///     secrets = { cert = "certs:site.crt", key = "certs:site.key" }
///     check = ["sh", "-c", "openssl x509 -noout -in \"$ONEIRIC_STAGED_DIR/site.pem\""]
///     reload = ["nginx", "-s", "reload"]
///
///     [[files]]
///     content = "{{ cert }}{{ key }}"
///     target = "/etc/nginx/site.pem"
///     mode = "0600"
/// "#)?;
/// # let _ = config;
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// The secrets, by their names in the templates. Every one of them is tracked.
    pub secrets: BTreeMap<String, SecretRef>,
    /// The files. They are rendered from one consistent set of secrets.
    #[serde(default)]
    pub files: Vec<FileConfig>,
    /// Proves the rendered files before they are put in place: 0 if they are good, 75 if that
    /// could not be tried. It finds them, by the names of their targets, in the folder that
    /// `ONEIRIC_STAGED_DIR` names. Without it they are believed.
    pub check: Option<Vec<String>>,
    /// Tells the reader, after the files are in place.
    pub reload: Option<Vec<String>>,
    /// The same by a signal.
    pub signal: Option<SignalConfig>,
    /// Asked again and again until it exits with 0, which says that the reader serves the new
    /// content; at most until the drain deadline.
    pub acknowledge: Option<Vec<String>>,
    /// Whether the reader is told when the agent starts, though the files are what they were
    /// (`true`): nobody knows whether it was told before the agent ended.
    #[serde(default = "yes")]
    pub reload_at_start: bool,
    /// How long one run of a command may take (`"30s"`).
    #[serde(default = "default_timeout", deserialize_with = "duration")]
    pub timeout: Duration,
    /// Where the commands run; by default where the agent does.
    pub working_dir: Option<PathBuf>,
    /// The names of more environment variables that the commands inherit (none).
    #[serde(default)]
    pub pass_env: Vec<String>,
}

/// One file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FileConfig {
    /// The file with the template. It is read once, at the start.
    pub template: Option<PathBuf>,
    /// The template itself, in its place.
    pub content: Option<String>,
    /// Where the rendered file is put.
    pub target: PathBuf,
    /// Its permissions, in octal (`"0600"`).
    #[serde(default = "default_mode", deserialize_with = "mode")]
    pub mode: u32,
    /// The user that it belongs to, by name or number; by default the one that the agent runs as.
    pub owner: Option<String>,
    /// The group, likewise.
    pub group: Option<String>,
    /// Whether the file that is replaced is kept, as `<target>.bak` (`false`).
    #[serde(default)]
    pub backup: bool,
    /// How everything that the template prints is escaped (not at all). What a filter has escaped
    /// already, and what is marked `safe`, is printed as it is.
    pub escape: Option<Format>,
}

/// A signal to the reader.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SignalConfig {
    /// The file that has the number of the process.
    pub pid_file: PathBuf,
    /// The signal, as in `HUP`.
    pub signal: SignalName,
}

impl Config {
    /// The defaults, with these secrets, and no file yet.
    pub fn new(secrets: impl IntoIterator<Item = (String, SecretRef)>) -> Self {
        Self {
            secrets: secrets.into_iter().collect(),
            files: Vec::new(),
            check: None,
            reload: None,
            signal: None,
            acknowledge: None,
            reload_at_start: true,
            timeout: default_timeout(),
            working_dir: None,
            pass_env: Vec::new(),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.secrets.is_empty() {
            return invalid("`secrets` of a template adapter is empty, so that it would never run");
        }
        if let Some(name) = self.secrets.keys().find(|name| !is_name(name)) {
            return invalid(format!(
                "`{name}` in `secrets` of a template adapter is no name in a template; use letters, \
                 digits and `_`, and no word of the template language"
            ));
        }
        if self.files.is_empty() {
            return invalid("`files` of a template adapter is empty, so that it would do nothing");
        }
        self.files.iter().try_for_each(FileConfig::check)?;
        let mut targets = BTreeSet::new();
        let mut names = BTreeSet::new();
        for file in &self.files {
            let target = file.target.display();
            if !targets.insert(&file.target) {
                return invalid(format!("`{target}` is the target of two files"));
            }
            if !names.insert(file.target.file_name()) && self.check.is_some() {
                return invalid(format!(
                    "another target has the name of `{target}`, and `check` knows them by their names"
                ));
            }
        }
        if self.reload.is_some() && self.signal.is_some() {
            return invalid("a template adapter has `reload` or `signal`, and not both");
        }
        let commands = [&self.check, &self.reload, &self.acknowledge];
        if commands.into_iter().flatten().any(|argv| argv.first().is_none_or(String::is_empty)) {
            return invalid("a command of a template adapter does not name a program");
        }
        if self.timeout.is_zero() {
            return invalid("`timeout` of a template adapter is 0, so that no command could run");
        }
        Ok(())
    }
}

impl FileConfig {
    /// This template, for this target, private to the user that the agent runs as.
    pub fn new(content: impl Into<String>, target: impl Into<PathBuf>) -> Self {
        Self {
            template: None,
            content: Some(content.into()),
            target: target.into(),
            mode: default_mode(),
            owner: None,
            group: None,
            backup: false,
            escape: None,
        }
    }

    fn check(&self) -> Result<()> {
        let target = self.target.display();
        if self.target.file_name().is_none() || ends_with_separator(&self.target) {
            return invalid(format!("`target` of a file, `{target}`, does not name a file"));
        }
        if self.template.is_some() == self.content.is_some() {
            return invalid(format!(
                "the file for `{target}` needs either `template` or `content`"
            ));
        }
        Ok(())
    }
}

fn ends_with_separator(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorKind::Invalid, message.into()))
}

/// Whether a template can use it as a variable.
fn is_name(name: &str) -> bool {
    const WORDS: [&str; 14] = [
        "true", "false", "none", "True", "False", "None", "and", "or", "not", "in", "is", "if",
        "else", "loop",
    ];
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|rest| rest.is_ascii_alphanumeric() || rest == '_')
        && !WORDS.contains(&name)
}

fn yes() -> bool {
    true
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_mode() -> u32 {
    0o600
}

fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    let octal = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| octal && *mode <= 0o777);
    mode.ok_or_else(|| de::Error::custom(format!("`{text}` is no mode such as \"0600\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRETS: &str = "secrets = { token = 'files:token' }";
    const FILE: &str = "[[files]]\ncontent = 'x'\ntarget = '/x/y'";

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (section, part) in [
            (format!("secrets = {{}}\n{FILE}"), "`secrets` of a template adapter"),
            (format!("secrets = {{ a-b = 'files:a' }}\n{FILE}"), "`a-b` in `secrets`"),
            (format!("secrets = {{ loop = 'files:a' }}\n{FILE}"), "`loop` in `secrets`"),
            (SECRETS.to_owned(), "`files` of a template adapter is empty"),
            (format!("{SECRETS}\n{FILE}\n{FILE}"), "`/x/y` is the target of two files"),
            (
                format!("{SECRETS}\ncheck = ['true']\n{FILE}\n{FILE}").replacen("/x/y", "/z/y", 1),
                "another target has the name of `/x/y`",
            ),
            (format!("{SECRETS}\n{FILE}\ntemplate = 'x.j2'"), "either `template` or `content`"),
            (format!("{SECRETS}\n[[files]]\ntarget = '/x'"), "either `template` or `content`"),
            (format!("{SECRETS}\n[[files]]\ntarget = '/x/'\ncontent = ''"), "does not name a file"),
            (
                format!(
                    "{SECRETS}\nreload = ['true']\nsignal = {{ pid_file = 'x', signal = 'HUP' }}\n{FILE}"
                ),
                "`reload` or `signal`",
            ),
            (format!("{SECRETS}\ncheck = []\n{FILE}"), "does not name a program"),
            (format!("{SECRETS}\nacknowledge = ['']\n{FILE}"), "does not name a program"),
            (format!("{SECRETS}\ntimeout = '0s'\n{FILE}"), "`timeout`"),
        ] {
            let error = toml::from_str::<Config>(&section).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        for (section, part) in [
            (format!("{SECRETS}\ntimeout = 'soon'\n{FILE}"), "a duration such as"),
            (format!("{SECRETS}\nreloads = ['true']\n{FILE}"), "unknown field `reloads`"),
            (format!("{SECRETS}\n{FILE}\nmode = '0888'"), "`0888` is no mode"),
            (format!("{SECRETS}\n{FILE}\nmode = '+600'"), "`+600` is no mode"),
            (format!("{SECRETS}\n{FILE}\nmode = '4755'"), "`4755` is no mode"),
            (format!("{SECRETS}\n{FILE}\nescape = 'html'"), "unknown variant `html`"),
            (
                format!("{SECRETS}\nsignal = {{ pid_file = 'x', signal = 'KIL' }}\n{FILE}"),
                "`KIL` is no signal",
            ),
        ] {
            let error = toml::from_str::<Config>(&section).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_file_is_private_unless_told_otherwise() {
        let config: Config = toml::from_str(&format!("{SECRETS}\n{FILE}")).unwrap();
        config.check().unwrap();
        let [file] = &config.files[..] else { panic!("one file") };
        assert_eq!((file.mode, file.backup, config.reload_at_start), (0o600, false, true));
        let config: Config = toml::from_str(&format!("{SECRETS}\n{FILE}\nmode = '640'")).unwrap();
        assert_eq!(config.files[0].mode, 0o640);
    }
}
