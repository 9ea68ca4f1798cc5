//! A `secretspec.toml` with the files that it extends: what each profile declares.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::error::{Origin, Problem, SettingsError, shortened};
use super::super::{keys, layers};
use super::declared::Declared;

/// The profile that the others inherit from, and that is taken where none is named.
pub(super) const DEFAULT: &str = "default";
/// The file that a directory stands for.
const USUAL_FILE: &str = "secretspec.toml";
/// The only form of the file that is known.
const REVISION: &str = "1.0";

const TABLES: [&str; 5] = ["project", "profiles", "providers", "defaults", "scopes"];
const PROJECT: [&str; 4] = ["name", "revision", "extends", "require_reason"];
const PROFILE_DEFAULTS: [&str; 4] = ["inherit", "required", "default", "providers"];
const FIELDS: [&str; 13] = [
    "description",
    "required",
    "default",
    "composed",
    "providers",
    "ref",
    "refs",
    "as_path",
    "encoding",
    "extract",
    "type",
    "generate",
    "prompt",
];
/// The fields by which a value is another than what is stored under the name.
const ELSEWHERE: [&str; 5] = ["composed", "ref", "refs", "encoding", "extract"];
/// The fields that have no meaning here.
const IGNORED: [&str; 5] = ["providers", "as_path", "type", "generate", "prompt"];

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    path: PathBuf,
    profiles: BTreeMap<String, Profile>,
    pub(super) notes: Vec<Problem>,
}

#[derive(Debug, Default, Clone)]
struct Profile {
    inherit: Option<bool>,
    of_each: Presence,
    secrets: BTreeMap<String, Secret>,
}

/// Whether something must be there, and what stands in its place.
#[derive(Debug, Default, Clone)]
struct Presence {
    required: Option<bool>,
    default: Option<String>,
}

#[derive(Debug, Clone)]
struct Secret {
    line: usize,
    path: Arc<PathBuf>,
    description: Option<String>,
    presence: Presence,
    /// What else it says, and whether it is said to be so.
    others: BTreeMap<&'static str, bool>,
}

/// The file itself, or the usual one in a directory.
pub(super) fn file(path: PathBuf) -> PathBuf {
    if path.is_dir() { path.join(USUAL_FILE) } else { path }
}

impl Manifest {
    /// Reads a file and all that it extends.
    pub(super) fn read(path: &Path, problems: &mut Vec<Problem>) -> Result<Self, SettingsError> {
        let mut manifest = Self { path: path.to_owned(), ..Self::default() };
        let mut reading = Reading { manifest: &mut manifest, problems, done: Vec::new() };
        reading.file(path, &mut Vec::new())?;
        Ok(manifest)
    }

    /// What a profile declares, with what it inherits.
    pub(super) fn profile(
        &self,
        (name, origin): (&str, Option<Origin>),
        problems: &mut Vec<Problem>,
    ) -> Option<BTreeMap<String, Declared>> {
        let Some(chosen) = self.profiles.get(name) else {
            let known = self.profiles.keys().map(String::as_str);
            let hint = match keys::nearest(name, known.clone()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it has {}", known.collect::<Vec<_>>().join(", ")),
            };
            let file = self.path.display();
            let name = shortened(name);
            let message = format!("is `{name}`, and `{file}` has no such profile; {hint}");
            problems.push(Problem::new(keys::SECRETS_FROM_PROFILE, origin, message));
            return None;
        };
        let base = (name != DEFAULT && chosen.inherit != Some(false))
            .then(|| self.profiles.get(DEFAULT))
            .flatten();
        let names = chosen.secrets.keys().chain(base.iter().flat_map(|of| of.secrets.keys()));
        let declared = names.map(|name| {
            let levels = [Some(chosen), base].into_iter().flatten();
            (name.clone(), declared(name, levels, problems))
        });
        Some(declared.collect())
    }
}

/// One secret from its declarations, the strongest first.
fn declared<'a>(
    name: &str,
    profiles: impl Iterator<Item = &'a Profile>,
    problems: &mut Vec<Problem>,
) -> Declared {
    let levels: Vec<_> =
        profiles.filter_map(|of| Some((of.secrets.get(name)?, &of.of_each))).collect();
    let (strongest, _) = levels.first().expect("a name is one that some profile declares");
    let mut declared = Declared {
        name: name.to_owned(),
        path: Arc::clone(&strongest.path),
        line: strongest.line,
        description: levels.iter().find_map(|(secret, _)| secret.description.clone()),
        required: None,
        default: None,
        elsewhere: Vec::new(),
        ignored: Vec::new(),
    };
    for presence in levels.iter().flat_map(|(secret, of_each)| [&secret.presence, *of_each]) {
        if presence.required == Some(true) && presence.default.is_some() {
            let message = "has both `default` and `required = true`";
            problems.push(declared.problem(message));
        }
        // What is said of it more closely is the last word, of the two together.
        let (required, default) = (declared.required, declared.default.is_some());
        if required != Some(true) && !default {
            declared.default.clone_from(&presence.default);
        }
        if required.is_none() && !(default && presence.required == Some(true)) {
            declared.required = presence.required;
        }
    }
    let says = |what: &&'static str| {
        levels.iter().find_map(|(secret, _)| secret.others.get(what)).copied().unwrap_or(false)
    };
    declared.elsewhere = ELSEWHERE.iter().filter(|what| says(what)).copied().collect();
    declared.ignored = IGNORED.iter().filter(|what| says(what)).copied().collect();
    if levels.iter().any(|(secret, _)| secret.others.contains_key("required")) {
        declared.ignored.push("required");
    }
    declared
}

/// The reading of a file and of those that it extends.
struct Reading<'a> {
    manifest: &'a mut Manifest,
    problems: &'a mut Vec<Problem>,
    /// Those that were read: what several extend is taken once.
    done: Vec<PathBuf>,
}

impl Reading<'_> {
    /// `within` are the files that have led here.
    fn file(&mut self, path: &Path, within: &mut Vec<PathBuf>) -> Result<(), SettingsError> {
        let unreadable = |source| SettingsError::Unreadable { path: path.to_owned(), source };
        let real = path.canonicalize().map_err(unreadable)?;
        if self.done.contains(&real) {
            return Ok(());
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let table = match DeTable::parse(&text) {
            Ok(table) => table.into_inner(),
            Err(error) => return Err(layers::syntax_error(path, &text, &error)),
        };
        within.push(real.clone());
        let mut source = Source {
            path: Arc::new(path.to_owned()),
            text: &text,
            problems: self.problems,
            notes: &mut self.manifest.notes,
        };
        source.check_names("", &table, &TABLES);
        let extends = source.extends(&table);
        for what in ["providers", "defaults", "scopes"] {
            if let Some((name, _)) = table.get_key_value(what) {
                let message = match what {
                    "scopes" => "are not known here: all secrets of the profile are taken",
                    _ => "is not followed: the settings say where secrets are",
                };
                let origin = source.origin(&name.span());
                source.notes.push(Problem::new(what, Some(origin), message));
            }
        }
        let profiles = source.profiles(&table);
        for (parent, span) in extends {
            let parent = file(path.parent().unwrap_or(Path::new("")).join(parent));
            if let Ok(real) = parent.canonicalize()
                && let Some(at) = within.iter().position(|path| *path == real)
            {
                let round =
                    within[at..].iter().chain([&real]).map(|path| path.display().to_string());
                let message =
                    format!("goes in a circle: {}", round.collect::<Vec<_>>().join(" → "));
                let line = line_of(&text, &span);
                let origin = Origin::Line { path: path.to_owned(), line };
                self.problems.push(Problem::new("project.extends", Some(origin), message));
                continue;
            }
            self.file(&parent, within)?;
        }
        within.pop();
        self.done.push(real);
        // After those that it extends, so that it is the last word.
        for (name, profile) in profiles {
            let known = self.manifest.profiles.entry(name).or_default();
            known.inherit = profile.inherit.or(known.inherit);
            known.of_each.required = profile.of_each.required.or(known.of_each.required);
            known.of_each.default = profile.of_each.default.or(known.of_each.default.take());
            known.secrets.extend(profile.secrets);
        }
        Ok(())
    }
}

type Table<'i> = DeTable<'i>;

/// One file, with its text, to say where something is.
struct Source<'a> {
    path: Arc<PathBuf>,
    text: &'a str,
    problems: &'a mut Vec<Problem>,
    notes: &'a mut Vec<Problem>,
}

impl Source<'_> {
    fn origin(&self, span: &Range<usize>) -> Origin {
        Origin::Line { path: self.path.to_path_buf(), line: line_of(self.text, span) }
    }

    fn refuse(&mut self, key: &str, span: &Range<usize>, message: impl Into<String>) {
        let problem = Problem::new(key, Some(self.origin(span)), message);
        self.problems.push(problem);
    }

    fn check_names(&mut self, table: &str, of: &Table<'_>, known: &[&'static str]) {
        for name in of.keys() {
            let text = name.get_ref().as_ref();
            if !known.contains(&text) {
                let message = match keys::nearest(text, known.iter().copied()) {
                    Some(near) => format!("is not known here; did you mean `{near}`?"),
                    None => format!("is not known here; known are {}", known.join(", ")),
                };
                let key = super::super::tree::join(table, &shortened(text));
                self.refuse(&key, &name.span(), message);
            }
        }
    }

    fn table<'t, 'i>(
        &mut self,
        key: &str,
        value: &'t Spanned<DeValue<'i>>,
    ) -> Option<&'t Table<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.refuse(key, &value.span(), "wants a table");
        }
        table
    }

    fn text(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<String> {
        let text = value.get_ref().as_str().map(ToOwned::to_owned);
        if text.is_none() {
            self.refuse(key, &value.span(), "wants a string; put it in quotes");
        }
        text
    }

    fn bool(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<bool> {
        let bool = value.get_ref().as_bool();
        if bool.is_none() {
            self.refuse(key, &value.span(), "wants `true` or `false`");
        }
        bool
    }

    /// The files that it extends, the weakest first.
    fn extends(&mut self, table: &Table<'_>) -> Vec<(String, Range<usize>)> {
        let Some(project) = table.get("project") else { return Vec::new() };
        let Some(project) = self.table("project", project) else { return Vec::new() };
        self.check_names("project", project, &PROJECT);
        if let Some(revision) = project.get("revision")
            && self.text("project.revision", revision).is_some_and(|text| text != REVISION)
        {
            let message = format!("is not `{REVISION}`, the only one that is known");
            self.refuse("project.revision", &revision.span(), message);
        }
        let Some(extends) = project.get("extends") else { return Vec::new() };
        let Some(items) = extends.get_ref().as_array() else {
            self.refuse("project.extends", &extends.span(), "wants a list of paths");
            return Vec::new();
        };
        let path =
            |item: &Spanned<DeValue<'_>>| Some((self.text("project.extends", item)?, item.span()));
        items.iter().filter_map(path).collect()
    }

    fn profiles(&mut self, table: &Table<'_>) -> Vec<(String, Profile)> {
        let Some(profiles) = table.get("profiles") else { return Vec::new() };
        let Some(profiles) = self.table("profiles", profiles) else { return Vec::new() };
        let mut read = Vec::new();
        for (name, value) in profiles {
            let name = name.get_ref().as_ref();
            let key = format!("profiles.{name}");
            let Some(table) = self.table(&key, value) else { continue };
            read.push((name.to_owned(), self.profile(&key, table)));
        }
        read
    }

    fn profile(&mut self, key: &str, table: &Table<'_>) -> Profile {
        let mut profile = Profile::default();
        for (name, value) in table {
            let text = name.get_ref().as_ref();
            let key = format!("{key}.{text}");
            let Some(table) = self.table(&key, value) else { continue };
            if text == "defaults" {
                self.check_names(&key, table, &PROFILE_DEFAULTS);
                if let Some(inherit) = table.get("inherit") {
                    profile.inherit = self.bool(&format!("{key}.inherit"), inherit);
                }
                profile.of_each = self.presence(&key, table).0;
                if let Some((name, _)) = table.get_key_value("providers") {
                    let message = "is not followed: the settings say where secrets are";
                    let origin = self.origin(&name.span());
                    self.notes.push(Problem::new(
                        format!("{key}.providers"),
                        Some(origin),
                        message,
                    ));
                }
            } else {
                let secret = self.secret(&key, &name.span(), table);
                profile.secrets.insert(text.to_owned(), secret);
            }
        }
        profile
    }

    fn secret(&mut self, key: &str, span: &Range<usize>, table: &Table<'_>) -> Secret {
        self.check_names(key, table, &FIELDS);
        let (presence, is_grouped) = self.presence(key, table);
        let mut others = BTreeMap::new();
        for name in ELSEWHERE.into_iter().chain(IGNORED) {
            if let Some(value) = table.get(name) {
                others.insert(name, value.get_ref().as_bool() != Some(false));
            }
        }
        if is_grouped {
            others.insert("required", true);
        }
        let description = table.get("description");
        let description =
            description.and_then(|value| self.text(&format!("{key}.description"), value));
        let line = line_of(self.text, span);
        Secret { line, path: Arc::clone(&self.path), description, presence, others }
    }

    /// Also whether it is one of a group of which some must be there.
    fn presence(&mut self, key: &str, table: &Table<'_>) -> (Presence, bool) {
        let default = table.get("default");
        let default = default.and_then(|value| self.text(&format!("{key}.default"), value));
        let required = table.get("required");
        let is_grouped = required.is_some_and(|value| value.get_ref().as_table().is_some());
        let required = match required {
            Some(_) if is_grouped => Some(false),
            Some(value) => self.bool(&format!("{key}.required"), value),
            None => None,
        };
        (Presence { required, default }, is_grouped)
    }
}

/// The line on which a span begins, from 1.
fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.get(..span.start).unwrap_or_default().matches('\n').count() + 1
}
