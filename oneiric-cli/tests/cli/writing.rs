//! Commands that change secrets, from the outside.

use crate::support::Sandbox;

#[test]
fn a_provider_that_cannot_write_says_so_with_its_kind_and_setting() {
    let sandbox = Sandbox::new("[providers.env]\nkind = \"env\"\n");
    for words in [
        "secrets set env:a",
        "secrets promote env:a@1",
        "secrets disable env:a@1",
        "secrets enable env:a@1",
        "secrets destroy env:a@1 --yes",
    ] {
        let value = sandbox.canary();
        let ran = sandbox.run_with(&words.split_whitespace().collect::<Vec<_>>(), &value);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{words}: {ran:?}");
        for part in ["provider `env` cannot change secrets", "kind `env`", "`providers.env`"] {
            assert!(ran.stderr.contains(part), "{part}: {ran:?}");
        }
    }
    let ran = sandbox.run(&["secrets", "versions", "env:a"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.contains("cannot list the versions of a secret"), "{ran:?}");
    let ran = sandbox.run(&["secrets", "versions", "nope:a"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("the settings have: env, files"), "{ran:?}");
}
