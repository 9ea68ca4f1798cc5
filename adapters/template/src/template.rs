//! One template: read and checked at the start, rendered in every rotation.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::PoisonError;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};
use oneiric_core::settings::nearest;
use oneiric_core::{Error, Result, SecretRef, SecretSet};
use zeroize::Zeroizing;

use crate::config::FileConfig;
use crate::filters::{self, Ours};
use crate::names::line_of;
use crate::values::{Misused, placeholder, value};

/// The longest part of a template that an error repeats, in bytes.
const MAX_EXCERPT: usize = 80;

/// A template that can be rendered.
#[derive(Debug)]
pub(crate) struct Template {
    /// Its file, for errors.
    name: String,
    environment: Environment<'static>,
    /// What of `secrets` it uses, each with the fields that it looks into.
    uses: BTreeMap<String, BTreeSet<String>>,
}

impl Template {
    /// Reads it, and finds what is wrong with it as far as that can be seen without a secret.
    pub(crate) fn read(file: &FileConfig, secrets: &BTreeMap<String, SecretRef>) -> Result<Self> {
        let name = match &file.template {
            Some(path) => path.display().to_string(),
            None => format!("the content of {}", file.target.display()),
        };
        let source = match (&file.template, &file.content) {
            (Some(path), _) => std::fs::read_to_string(path).map_err(|error| {
                let message = format!("the template `{name}` cannot be read");
                Error::with_source(oneiric_core::ErrorKind::Invalid, message, error)
            })?,
            (None, content) => content.clone().unwrap_or_default(),
        };
        Self::new(name, source, file, secrets)
            .map_err(|message| Error::new(oneiric_core::ErrorKind::Invalid, message))
    }

    fn new(
        name: String,
        source: String,
        file: &FileConfig,
        secrets: &BTreeMap<String, SecretRef>,
    ) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.expect("the syntax is that of Jinja"));
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // It keeps what an error needs to say which name was undefined.
        environment.set_debug(true);
        let escape = file.escape;
        environment.set_auto_escape_callback(move |_| match escape {
            Some(format) => AutoEscape::Custom(format.name().into()),
            None => AutoEscape::None,
        });
        environment.set_formatter(move |out, _, value| filters::print(out, value, escape));
        filters::add_to(&mut environment);
        environment
            .add_template_owned(name.clone(), source)
            .map_err(|error| explain(&name, &error))?;

        let mut made = Self { name, environment, uses: BTreeMap::new() };
        made.uses = made.used(secrets)?;
        Ok(made)
    }

    /// What it uses of the secrets; a name that is none of them is an error, wherever it stands.
    fn used(
        &self,
        secrets: &BTreeMap<String, SecretRef>,
    ) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
        let template = self.template();
        let mut uses = BTreeMap::<String, BTreeSet<String>>::new();
        let globals: BTreeSet<_> = self.environment.globals().map(|(name, _)| name).collect();
        for path in template.undeclared_variables(true) {
            let (name, fields) = path.split_once('.').unwrap_or((&path, ""));
            if secrets.contains_key(name) {
                let known = uses.entry(name.to_owned()).or_default();
                if !fields.is_empty() {
                    known.insert(fields.to_owned());
                }
            } else if !globals.contains(name) {
                let line = line_of(template.source(), name).unwrap_or(1);
                let known = secrets.keys().map(String::as_str);
                let hint = match nearest(name, known.clone()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it has {}", known.collect::<Vec<_>>().join(", ")),
                };
                return Err(format!("{}:{line}: `{name}` is not in `secrets`; {hint}", self.name));
            }
        }
        Ok(uses)
    }

    fn template(&self) -> minijinja::Template<'_, '_> {
        self.environment.get_template(&self.name).expect("the template was added")
    }

    /// The names of the secrets that it uses.
    pub(crate) fn uses(&self) -> impl Iterator<Item = &str> {
        self.uses.keys().map(String::as_str)
    }

    /// Renders it with these secrets. The error says where and why, and shows no value.
    pub(crate) fn render(
        &self,
        names: &BTreeMap<String, SecretRef>,
        secrets: &SecretSet,
    ) -> Result<Zeroizing<Vec<u8>>, String> {
        let misused = Misused::default();
        let mut context = Vec::new();
        for (name, reference) in names {
            let secret =
                secrets.get(reference).ok_or_else(|| format!("`{reference}` was not given"))?;
            context.push((name.as_str(), value(name, secret.expose(), &misused)));
        }
        let rendered = self.render_with(Value::from_pairs(context))?;
        match misused.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => Ok(rendered),
            Some(name) => Err(format!(
                "{}:{}: `{name}` is not UTF-8 and is used as text; encode it with `b64` first",
                self.name,
                line_of(self.template().source(), &name).unwrap_or(1)
            )),
        }
    }

    /// Renders it with something in the place of every secret, and keeps nothing.
    pub(crate) fn try_out(&self, names: &BTreeMap<String, SecretRef>) -> Result<(), String> {
        let stand_in = |name: &String| {
            let fields = self.uses.get(name).into_iter().flatten();
            (name.clone(), placeholder(&fields.map(String::as_str).collect::<Vec<_>>()))
        };
        self.render_with(Value::from_pairs(names.keys().map(stand_in))).map(drop)
    }

    fn render_with(&self, context: Value) -> Result<Zeroizing<Vec<u8>>, String> {
        let mut buffer = Wiped::default();
        let template = self.template();
        match template.render_captured_to(context, &mut buffer) {
            Ok(_) => Ok(buffer.0),
            Err(error) => Err(explain(&self.name, &error)),
        }
    }
}

/// A buffer that leaves nothing behind when it grows.
#[derive(Default)]
struct Wiped(Zeroizing<Vec<u8>>);

impl io::Write for Wiped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(2 * self.0.capacity())));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where it went wrong and why: never in the engine's own words where they could quote a value.
fn explain(name: &str, error: &minijinja::Error) -> String {
    let line = error.line().unwrap_or(1);
    let in_our_words = std::error::Error::source(error)
        .is_some_and(|source| source.downcast_ref::<Ours>().is_some());
    let told = error.detail().filter(|_| {
        in_our_words
            || matches!(
                error.kind(),
                ErrorKind::SyntaxError
                    | ErrorKind::UndefinedError
                    | ErrorKind::UnknownFilter
                    | ErrorKind::UnknownTest
                    | ErrorKind::UnknownFunction
                    | ErrorKind::UnknownMethod
            )
    });
    let why = told.map_or_else(|| error.kind().to_string(), str::to_owned);
    match excerpt(error) {
        Some(part) => format!("{name}:{line}: in `{part}`: {why}"),
        None => format!("{name}:{line}: {why}"),
    }
}

/// The tag of the template that it is about, or the part of it that is short enough. A template is
/// no secret.
fn excerpt(error: &minijinja::Error) -> Option<&str> {
    let (source, range) = (error.template_source()?, error.range()?);
    let part = source.get(range.clone())?;
    let begin = ["{{", "{%"].into_iter().filter_map(|open| source[..range.start].rfind(open)).max();
    let end = ["}}", "%}"].into_iter().filter_map(|close| source[range.end..].find(close)).min();
    let whole = begin.zip(end).map(|(begin, end)| &source[begin + 2..range.end + end]);
    let fits = |part: &&str| !part.is_empty() && part.len() <= MAX_EXCERPT && !part.contains('\n');
    whole
        .map(|part| part.trim_matches(['-', '+', ' ']))
        .filter(fits)
        .or_else(|| Some(part.trim()).filter(fits))
}

#[cfg(test)]
mod tests;
