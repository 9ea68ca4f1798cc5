//! Every command and flag that a document names exists. For ours the table of `main.rs` knows
//! it; for `oneiric` the built binary itself, by its `--help`.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::process::Command;

use super::docs::documents;
use super::markdown::{Part, parts};
use super::{Context, Problems};
use crate::process::{Result, build, output};
use crate::{COMMANDS, rotate};

/// Fenced blocks in these languages hold commands.
const SHELLS: [&str; 4] = ["sh", "bash", "shell", "console"];

/// Checks the commands of every document.
pub(super) fn check(context: &Context<'_>) -> Result<Problems> {
    let mut calls = Vec::new();
    for document in documents(&context.tree) {
        let text = context.tree.read(document)?;
        calls.extend(calls_in(&text).into_iter().map(|(line, call)| (document, line, call)));
    }
    let binary = OnceCell::new();
    let help = |words: &[String]| {
        let path = binary.get_or_init(built_binary).as_ref()?;
        output(Command::new(path).args(words).arg("--help"))
    };
    let mut problems = Problems::new();
    for (document, line, call) in calls {
        if let Some(problem) = call.problem(&help) {
            problems.push(format!("{document}:{line} {problem}"));
        }
    }
    if matches!(binary.get(), Some(None)) {
        return Ok(vec!["`oneiric` does not build, so its commands cannot be checked".into()]);
    }
    Ok(problems)
}

fn built_binary() -> Option<PathBuf> {
    let programs = build(&["oneiric-cli"], &[]).ok()?;
    programs.path("oneiric").ok().map(PathBuf::from)
}

/// A command that a document names.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    program: Program,
    /// The plain words after the program, up to the first thing that is none.
    words: Vec<String>,
    flags: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Oneiric,
    Xtask,
}

impl Call {
    /// What is wrong with it. `help` answers as `oneiric WORDS --help` does.
    fn problem(&self, help: &dyn Fn(&[String]) -> Option<String>) -> Option<String> {
        match self.program {
            Program::Oneiric => self.problem_of_oneiric(&self.words, help),
            Program::Xtask => {
                let name = self.words.first()?;
                let live = |flag: &String| !rotate::is_rehearsal_flag(flag);
                if name == "rotate" && self.flags.iter().any(live) {
                    return self.problem_of_oneiric(&["secrets".into(), "rotate".into()], help);
                }
                let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
                    return Some(format!(
                        "names `cargo xtask {name}`, and there is no such command"
                    ));
                };
                self.unknown_flag(command.usage, &format!("cargo xtask {name}"))
            }
        }
    }

    fn problem_of_oneiric(
        &self,
        words: &[String],
        help: &dyn Fn(&[String]) -> Option<String>,
    ) -> Option<String> {
        let shown = format!("oneiric {}", words.join(" "));
        match help(words) {
            Some(text) => self.unknown_flag(&text, &shown),
            None => Some(format!("names `{shown}`, and there is no such command")),
        }
    }

    fn unknown_flag(&self, help: &str, shown: &str) -> Option<String> {
        let known = |flag: &str| {
            help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| word == flag)
        };
        let unknown = self.flags.iter().find(|flag| !known(flag))?;
        Some(format!("gives `{unknown}` to `{shown}`, which does not know it"))
    }
}

/// The commands in code and in shell blocks, each with its line.
fn calls_in(text: &str) -> Vec<(usize, Call)> {
    let mut calls = Vec::new();
    // A command may go on over lines that end in a backslash.
    let mut begun: Option<(usize, String)> = None;
    for (line, part) in parts(text) {
        match part {
            Part::Code(code) => calls.extend(calls_of(&code).map(|call| (line, call))),
            Part::Fenced { language, line: code } if is_shell(&language) => {
                let (first, mut whole) = begun.take().unwrap_or((line, String::new()));
                match code.strip_suffix('\\') {
                    Some(code) => {
                        whole.push_str(code);
                        begun = Some((first, whole));
                    }
                    None => {
                        whole.push_str(&code);
                        calls.extend(calls_of(&whole).map(|call| (first, call)));
                    }
                }
            }
            _ => {}
        }
    }
    calls
}

fn is_shell(language: &str) -> bool {
    SHELLS.contains(&language.split([',', ' ']).next().unwrap_or(language))
}

/// The calls of one command line.
fn calls_of(code: &str) -> impl Iterator<Item = Call> {
    let tokens: Vec<&str> = code.split_whitespace().take_while(|token| *token != "#").collect();
    let ends = |token: &&str| ["|", "||", "&&", ";", "&"].contains(token);
    tokens.split(ends).filter_map(call).collect::<Vec<_>>().into_iter()
}

/// One simple command, after a prompt, assignments and words that run the next one.
fn call(tokens: &[&str]) -> Option<Call> {
    let before = |token: &&&str| ["$", "exec", "sudo"].contains(*token) || token.contains('=');
    let skipped = tokens.iter().take_while(before).count();
    let (program, rest) = match &tokens[skipped..] {
        ["cargo", "xtask", rest @ ..] => (Program::Xtask, rest),
        [name, rest @ ..] if *name == "oneiric" || name.ends_with("/oneiric") => {
            (Program::Oneiric, rest)
        }
        _ => return None,
    };
    // What stands after `--` belongs to somebody else's command.
    let rest: Vec<&str> = rest
        .iter()
        .take_while(|token| **token != "--")
        .map(|token| token.trim_matches(|c| "[]();,".contains(c)))
        .collect();
    let is_word = |token: &&&str| {
        token.starts_with(|c: char| c.is_ascii_lowercase())
            && token.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    };
    let words = rest.iter().take_while(is_word).map(|&word| word.to_owned()).collect();
    let flags = rest.iter().filter_map(|token| {
        let flag = token.split('=').next().unwrap_or(token);
        flag.starts_with("--").then(|| flag.to_owned())
    });
    Some(Call { program, words, flags: flags.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Problems {
        let help = |words: &[String]| match words.join(" ").as_str() {
            "agent" => Some("Options:\n  --config <FILE>\n".to_owned()),
            "secrets rotate" => Some("  --provider <P>\n  --keys <K>\n  --json".to_owned()),
            _ => None,
        };
        let calls = calls_in(text).into_iter();
        calls.filter_map(|(line, call)| Some(format!("{line}: {}", call.problem(&help)?))).collect()
    }

    #[test]
    fn commands_that_exist_may_be_named() {
        for text in [
            "`cargo xtask test` and `cargo xtask rotate --naive --json`, or `cargo xtask`",
            "`oneiric agent --config=a.toml` `oneiric secrets rotate [--json]` `oneiric.toml`",
            "`cargo xtask rotate --provider files --keys a`",
            "```sh\nA=b exec /usr/bin/oneiric agent && true | less # oneiric nothing\n```",
            "```sh\noneiric secrets rotate \\\n  --provider files \\\n  --keys a\n```",
            "```text\noneiric is a word here\n```\nand oneiric here",
        ] {
            assert_eq!(problems(text), Problems::new(), "{text}");
        }
    }

    #[test]
    fn commands_and_flags_that_do_not_exist_are_problems() {
        for (text, part) in [
            ("`cargo xtask rotat`", "1: names `cargo xtask rotat`"),
            ("x\n\n`cargo xtask test --fast`", "3: gives `--fast` to `cargo xtask test`"),
            ("`oneiric agnt`", "names `oneiric agnt`"),
            ("`oneiric secrets spin --all`", "names `oneiric secrets spin`"),
            ("`oneiric agent --conf a.toml`", "gives `--conf` to `oneiric agent`"),
            ("`cargo xtask rotate --provider files --key a`", "gives `--key` to `oneiric secrets"),
            ("```console\n$ oneiric \\\n   doctor\n```", "2: names `oneiric doctor`"),
            ("```sh\ntrue && oneiric doctor\n```", "2: names `oneiric doctor`"),
        ] {
            let problems = problems(text);
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert!(problems[0].contains(part), "{text}: {problems:?}");
        }
    }
}
