//! Who we are, and what is said when nobody knows us or nobody is there.

use std::time::Duration;

use oneiric_core::{ErrorKind, FetchRequest, Result, SecretProvider, SecretValue};
use oneiric_provider_aws::{Config, Role};
use oneiric_testkit::live::AwsKind;

use super::support::gate::{Gate, Mode};
use super::support::{self, Admin};
use super::{faked, key, read};

/// A role of the account that a server has.
fn role(kind: AwsKind) -> Role {
    let account = if kind == AwsKind::Moto { "123456789012" } else { "000000000000" };
    Role::new(format!("arn:aws:iam::{account}:role/reader"))
}

#[tokio::test]
async fn nothing_is_sent_before_the_first_question() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    fake.put("a", "v");
    let _ = (provider.descriptor(), provider.changes(), format!("{provider:?}"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fake.all_calls(), 0);
    read(&provider, "a").await.unwrap();
    assert_eq!(fake.all_calls(), 1);
}

#[tokio::test]
async fn nothing_is_tried_again() {
    let aws = support::server("aws-retries", AwsKind::Ministack);
    let Some(aws) = aws else { return };
    let gate = Gate::before(aws.port()).await;
    let provider = support::config(&aws, &gate.address()).build().unwrap();
    for (mode, kind) in [
        (Mode::Refusing(503, "ServiceUnavailable", None), ErrorKind::Unavailable),
        (
            Mode::Refusing(400, "ThrottlingException", None),
            ErrorKind::Throttled { retry_after: None },
        ),
        (Mode::Closed, ErrorKind::Unavailable),
    ] {
        let calls = gate.calls("GetSecretValue");
        gate.play(mode.clone());
        assert_eq!(read(&provider, "a").await.unwrap_err().kind(), kind);
        assert!(gate.calls("GetSecretValue") - calls <= 1, "{mode:?}");
        gate.mend();
    }
}

#[tokio::test]
async fn a_role_is_assumed_by_each_provider_for_itself() {
    for kind in [AwsKind::Moto, AwsKind::Ministack] {
        let Some(aws) = support::server(&format!("aws-role-{}", kind.name()), kind) else {
            continue;
        };
        Admin::new(aws.port()).put_text("a", "v").await;
        let gate = Gate::before(aws.port()).await;
        let mut config = support::config(&aws, &gate.address());
        let mut role = role(kind);
        role.external_id = Some("external".into());
        role.endpoint = Some(gate.address());
        config.role = Some(role);
        let provider = config.clone().build().unwrap();
        for _ in 0..3 {
            assert_eq!(read(&provider, "a").await.unwrap().0, "v");
        }
        assert_eq!(gate.calls("AssumeRole"), 1, "what is assumed is kept");
        let form = gate.last("AssumeRole").unwrap();
        for part in ["ExternalId=external", "RoleSessionName=oneiric", "reader"] {
            assert!(form.contains(part), "{form}");
        }
        // Another provider, with the same role, for itself; and one without asks nobody.
        read(&config.clone().build().unwrap(), "a").await.unwrap();
        assert_eq!(gate.calls("AssumeRole"), 2);
        let assumed = config.role.take();
        read(&config.clone().build().unwrap(), "a").await.unwrap();
        assert_eq!(gate.calls("AssumeRole"), 2);
        // STS says no; STS cannot be reached.
        config.role = assumed;
        gate.play(Mode::Refusing(403, "AccessDenied", None));
        let error = read(&config.clone().build().unwrap(), "a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{}", error.chain());
        config.role.as_mut().unwrap().endpoint = Some(nobody());
        gate.mend();
        let error = read(&config.build().unwrap(), "a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    }
}

#[tokio::test]
async fn who_has_no_credential_is_told_so() {
    let (fake, provider, folder) = faked(|config| config.profile = Some("absent".into())).await;
    let error = read(&provider, "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{}", error.chain());
    // A file without the section, too, whatever stands in the environment.
    let config = super::config(&fake, &folder);
    std::fs::write(folder.path().join("credentials"), "[other]\n").unwrap();
    let error = read(&config.build().unwrap(), "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{}", error.chain());
    assert_eq!(fake.all_calls(), 0);
}

#[tokio::test]
async fn where_nobody_listens_is_no_absence_and_no_doubt() {
    let (_fake, provider, _folder) = faked(|config| config.endpoint = Some(nobody())).await;
    assert_eq!(read(&provider, "a").await.unwrap_err().kind(), ErrorKind::Unavailable);
    // Nothing was sent, so it is known that nothing was written.
    let written = write(&*provider).await;
    assert_eq!(written.unwrap_err().kind(), ErrorKind::Unavailable);
    let requests = ["a", "b"].map(|name| FetchRequest::new(key(name)));
    for answer in provider.fetch_many(&requests).await {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}

async fn write(provider: &dyn SecretProvider) -> Result<oneiric_core::Version> {
    let writer = provider.writer().unwrap();
    writer.create_version(&key("a"), &SecretValue::from("v"), "token").await
}

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_default_section_is_valid() {
    assert!(Config::default().build().is_ok());
}
