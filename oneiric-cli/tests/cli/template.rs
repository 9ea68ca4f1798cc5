//! Templates: their check, and the agent that renders them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::{Sandbox, wait_until};

/// Two files of one adapter, from one secret with fields and one without.
const SHOP: &str = r#"
[adapters.shop]
kind = "template"
secrets = { db = "files:db", token = "files:token" }
check = ["sh", "-c", "! grep -q refuse \"$ONEIRIC_STAGED_DIR/shop.env\""]
reload = ["sh", "-c", "cat shop.env shop.json >> told"]
[[adapters.shop.files]]
template = "shop.env.j2"
target = "shop.env"
[[adapters.shop.files]]
content = "{\"password\": {{ db.password | json }}}\n"
target = "shop.json"
mode = "0640"
backup = true
"#;

fn shop(template: &str) -> Sandbox {
    let sandbox = Sandbox::new(SHOP);
    fs::write(sandbox.path("shop.env.j2"), template).unwrap();
    sandbox
}

#[test]
fn a_check_says_of_each_file_whether_it_can_be_rendered() {
    let sandbox = shop("TOKEN={{ token | dotenv }}\n");
    let ran = sandbox.run(&["template", "check"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stdout, "OK: shop: shop.env\nOK: shop: shop.json\n");
    assert!(!ran.stderr.contains("warning"), "{ran:?}");
    // There is no secret in the store: none was asked for.
    assert_eq!(fs::read_dir(sandbox.path("secrets")).unwrap().count(), 0);
    assert!(!sandbox.path("shop.env").exists() && !sandbox.path("told").exists());
}

#[test]
fn a_check_names_file_line_and_name_of_what_is_wrong() {
    for (template, problem) in [
        (
            "A=1\nTOKEN={{ tokn }}\n",
            "error: shop: shop.env.j2:2: `tokn` is not in `secrets`; did you mean `token`?\n",
        ),
        (
            "{% if false %}\n{{ other }}{% endif %}",
            "error: shop: shop.env.j2:2: `other` is not in `secrets`",
        ),
        (
            "\n\n{{ token | dotenvv }}",
            "error: shop: shop.env.j2:3: in `token | dotenvv`: filter dotenvv is unknown",
        ),
        ("{{ token", "error: shop: shop.env.j2:1: "),
    ] {
        let sandbox = shop(template);
        let ran = sandbox.run(&["template", "check", "shop"]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(problem), "{problem} in {ran:?}");
        assert_eq!(ran.stdout, "OK: shop: shop.json\n", "the others are checked all the same");
    }
}

#[test]
fn a_check_warns_of_a_secret_that_no_template_uses() {
    let sandbox = shop("nothing\n");
    let ran = sandbox.run(&["template", "check"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let warning = "warning: shop: no template uses `token` of its `secrets`\n";
    assert!(ran.stderr.contains(warning), "{ran:?}");
}

#[test]
fn a_check_of_what_has_no_templates_fails() {
    let ran = shop("").run(&["template", "check", "shp"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.contains("no adapter `shp` has templates; did you mean `shop`?"), "{ran:?}");
    let ran = Sandbox::new("").run(&["template", "check"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("the settings have no adapter with templates"), "{ran:?}");
    let ran = shop("{{ tokn }}").run(&["config", "check"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("shop.env.j2:1: `tokn` is not in `secrets`"), "{ran:?}");
}

#[test]
fn the_agent_renders_at_its_start_and_in_each_rotation() {
    let sandbox = shop("TOKEN={{ token | dotenv }}\nPASSWORD={{ db.password | dotenv }}\n");
    let put = |password: &str| {
        let json = format!("{{\"password\": \"{password}\"}}");
        let unfinished = sandbox.path("unfinished");
        fs::write(&unfinished, json).unwrap();
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(unfinished, sandbox.path("secrets/db")).unwrap();
    };
    let token = sandbox.put("token");
    let (first, second) = (sandbox.canary(), sandbox.canary());
    put(&first);
    let agent = sandbox.agent(&["--set", "secrets_watch_interval=0s"]);
    let env = |password: &str| format!("TOKEN='{token}'\nPASSWORD='{password}'\n");
    let json = |password: &str| format!("{{\"password\": \"{password}\"}}\n");
    wait_until("the files and the reader", || sandbox.read("told") == env(&first) + &json(&first));
    let mode = |name: &str| fs::metadata(sandbox.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("shop.env"), mode("shop.json")), (0o600, 0o640));

    put(&second);
    let (ran, report) = sandbox.rotate(&["--provider", "files", "--keys", "db"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(report["instances"][0]["adapters"][0]["outcome"], "drained");
    assert_eq!(
        (sandbox.read("shop.env"), sandbox.read("shop.json")),
        (env(&second), json(&second))
    );
    assert_eq!(sandbox.read("shop.json.bak"), json(&first));

    // What `check` does not like changes nothing.
    let told = sandbox.read("told");
    put(&format!("{}-refuse", sandbox.canary()));
    let (ran, report) = sandbox.rotate(&["--provider", "files", "--keys", "db"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(report["instances"][0]["adapters"][0]["outcome"], "refused");
    assert_eq!((sandbox.read("shop.env"), sandbox.read("told")), (env(&second), told));

    // And so does a secret that the template cannot be rendered with.
    sandbox.put("db");
    let (ran, report) = sandbox.rotate(&["--provider", "files", "--keys", "db"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    let said = report["instances"][0]["adapters"][0]["error"].as_str().unwrap();
    assert!(said.contains("shop.env.j2:2: in `db.password | dotenv`: "), "{said}");
    assert_eq!(sandbox.read("shop.env"), env(&second));
    agent.stop();
}
