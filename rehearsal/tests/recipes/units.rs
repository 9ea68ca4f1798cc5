//! systemd: units that it accepts, a sandbox that is one, and a socket of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::program::Place;
use crate::recipe::Recipe;
use crate::rig::{can_run, of_systemd, runs};

const UNITS: [&str; 3] = ["oneiric-agent.service", "shop.service", "shop.socket"];
/// Tenths of what `systemd-analyze security` calls exposure: above this it is not `OK`.
const MOST_EXPOSED: &str = "40";

/// The units with the real binary in them, in a folder of their own.
fn units(place: &Place) -> Vec<std::path::PathBuf> {
    let binary = std::env::var("ONEIRIC_BIN").unwrap();
    let recipe = Recipe::new("systemd", place).unwrap();
    let recipe = recipe.with("/usr/local/bin/oneiric", &binary);
    let put = |unit: &&str| recipe.install(unit, &format!("/etc/systemd/system/{unit}")).unwrap();
    UNITS.iter().map(put).collect()
}

fn analyze(args: &[&str], units: &[std::path::PathBuf]) -> (bool, String) {
    let output = Command::new(of_systemd("systemd-analyze"))
        .args(args)
        .arg("--no-pager")
        .args(units)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn systemd_accepts_the_units_and_finds_nothing_to_say_about_them() {
    if !can_run("recipe systemd", runs(&of_systemd("systemd-analyze"), "--version")) {
        return;
    }
    let place = Place::new().unwrap();
    let units = units(&place);
    assert_eq!(analyze(&["verify"], &units), (true, String::new()));

    // A unit that is wrong is not accepted.
    let text = fs::read_to_string(&units[0]).unwrap();
    fs::write(&units[0], text.replace("KillMode=mixed", "KillMode=gentle")).unwrap();
    let (_, said) = analyze(&["verify"], &units[..1]);
    assert!(said.contains("kill mode"), "{said}");
}

#[test]
fn the_sandbox_of_each_unit_is_one() {
    if !can_run("recipe systemd", runs(&of_systemd("systemd-analyze"), "--version")) {
        return;
    }
    let place = Place::new().unwrap();
    let units = units(&place);
    let threshold = format!("--threshold={MOST_EXPOSED}");
    for unit in &units[..2] {
        let unit = std::slice::from_ref(unit);
        let (rated, said) = analyze(&["security", "--offline=true", &threshold], unit);
        assert!(rated, "{said}");
    }
    let bare = place.write("bare.service", "[Service]\nExecStart=/bin/true\n").unwrap();
    let (rated, _) = analyze(&["security", "--offline=true", &threshold], &[bare]);
    assert!(!rated, "a unit without any sandbox was rated as well");
}

/// The capabilities that the agent's unit leaves, by the names that `setpriv` has for them.
fn capabilities(unit: &Path) -> String {
    let text = fs::read_to_string(unit).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let names = line.split(' ').map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase());
    names.fold("-all".to_owned(), |set, name| format!("{set},+{name}"))
}

#[test]
fn the_capabilities_of_the_agent_are_enough_for_nginx() {
    let nginx = std::env::var("ONEIRIC_NGINX_BIN").unwrap_or("nginx".to_owned());
    let there = runs(&nginx, "-v").and_then(|()| runs("setpriv", "--version"));
    if !can_run("recipe systemd with nginx", there) {
        return;
    }
    let place = Place::new().unwrap();
    let set = capabilities(&units(&place)[0]);
    let binary = std::env::var("ONEIRIC_BIN").unwrap();
    let only = format!("--no-new-privs --bounding-set={set} --inh-caps={set}");
    let wrapper =
        place.write("oneiric", &format!("#!/bin/sh\nexec setpriv {only} {binary} \"$@\"\n"));
    let wrapper = wrapper.unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "web::nginx_serves_each_new_certificate_and_drops_no_request"])
        .env("ONEIRIC_BIN", wrapper)
        .env("ONEIRIC_REQUIRE_LIVE", "1")
        .output()
        .unwrap();
    let said = [again.stdout, again.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(again.status.success() && said.contains("1 passed"), "{said}");
}
