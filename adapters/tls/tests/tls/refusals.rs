//! What may not serve, and what is said about it.

use std::time::SystemTime;

use oneiric_adapter_tls::{Identity, Roots, TlsClient, TlsServer};
use oneiric_core::{HookError, LifecycleHook, SecretRef};
use oneiric_testkit::scan_for_canary;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use crate::authority::{Authority, DAY, Issued, Wish};
use crate::parts::{NAME, name, reference, set};

const CERT: &str = "files:tls.crt";
const KEY: &str = "files:tls.key";

fn identity() -> Identity {
    Identity::pair(reference(CERT), reference(KEY))
}

async fn prepare(identity: Identity, chain: &str, key: &str) -> Result<(), HookError> {
    let hook = TlsServer::new(identity).into_hook("tls".parse().unwrap());
    let outcome = hook.prepare(&set(&[(CERT, chain), (KEY, key)])).await;
    assert!(hook.managed().is_none());
    outcome.map(drop)
}

/// What is printed of an error, with its causes.
fn printed(error: &HookError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    format!("{text} {error:?}")
}

/// No line of the key is in what was said.
fn hides(said: &str, key: &str) {
    for line in key.lines().filter(|line| line.len() > 16 && !line.starts_with("-----")) {
        assert_eq!(scan_for_canary(said, line), None, "{said}");
    }
}

#[tokio::test]
async fn a_pair_that_is_not_one_is_refused_with_its_place() {
    let authority = Authority::new("root");
    let (good, other) = (authority.server(NAME), authority.server(NAME));
    let two = format!("{}{}", good.key, other.key);
    let cut = good.key.replace("-----END PRIVATE KEY-----", "");
    let damaged = good.key.replacen('M', "!", 1);
    let locked = good.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let nonsense = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let unknown = "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n";
    let half = format!("{}{nonsense}", good.pem);
    let cases = [
        (true, &*good.pem, &*other.key, "`files:tls.key` is not the key of the certificate in"),
        (false, &good.pem, &two, "`files:tls.key` has more than one private key"),
        (false, &good.pem, &cut, "`files:tls.key` is not well-formed PEM"),
        (false, &good.pem, &damaged, "`files:tls.key` is not well-formed PEM"),
        (false, &good.pem, &good.pem, "`files:tls.key` has no private key in PEM"),
        (false, &good.pem, &locked, "`files:tls.key` has a key that needs a passphrase"),
        (false, &good.pem, unknown, "`files:tls.key` has a private key that cannot be read"),
        (false, &good.key, &good.key, "`files:tls.crt` has no certificate in PEM"),
        (false, "", &good.key, "`files:tls.crt` has no certificate in PEM"),
        (false, nonsense, &good.key, "`files:tls.crt`: certificate 1 cannot be read"),
        (false, &half, &good.key, "`files:tls.crt`: certificate 2 cannot be read"),
    ];
    for (refused, chain, key, what) in cases {
        let error = prepare(identity(), chain, key).await.unwrap_err();
        let said = printed(&error);
        assert!(said.contains(what), "{what}: {said}");
        assert_eq!(error.is_refused(), refused, "{said}");
        hides(&said, &good.key);
        hides(&said, &other.key);
    }
    prepare(identity(), &good.pem, &good.key).await.unwrap();
}

#[tokio::test]
async fn time_names_and_purpose_are_judged() {
    let authority = Authority::new("root");
    let (day, now) = (DAY, SystemTime::now());
    let server = || Wish::server(NAME);
    let expired = authority.issue(Wish { end: now - day / 2, ..server() });
    let early = authority.issue(Wish { start: now + day, ..server() });
    let short = authority.issue(Wish { end: now + 2 * day, ..server() });
    let client = authority.client(NAME);
    let check = async |identity: Identity, issued: &Issued, what: &str| {
        let error = prepare(identity, &issued.pem, &issued.key).await.unwrap_err();
        assert!(error.is_refused() && error.to_string().contains(what), "{error}");
        assert!(error.to_string().contains("`files:tls.crt`: certificate 1"), "{error}");
        hides(&printed(&error), &issued.key);
    };
    check(identity(), &expired, "has expired at 20").await;
    check(identity(), &early, "is not valid before 20").await;
    check(identity().least_life(3 * day), &short, "which is in less than 3days").await;
    prepare(identity().least_life(day), &short.pem, &short.key).await.unwrap();
    let elsewhere = identity().covers([name(NAME), name("pay.internal")]);
    check(elsewhere, &short, "is not valid for `pay.internal`, but for shop.internal").await;
    let verified = || identity().verify_against(authority.roots());
    check(verified(), &client, "is not meant for servers").await;
    let bad = Authority::new("another");
    let stranger = identity().verify_against(bad.roots());
    check(stranger, &short, "is vouched for by none of the roots").await;
    prepare(verified(), &short.pem, &short.key).await.unwrap();
    // The roots must vouch for it to the end of its least life too.
    check(verified().least_life(3 * day), &short, "which is in less than 3days").await;
}

#[tokio::test]
async fn a_chain_is_in_order_and_signed_to_its_end() {
    let root = Authority::new("root");
    let (middle, low) = {
        let middle = root.intermediate("middle");
        let low = middle.intermediate("low");
        (middle, low)
    };
    let issued = low.server(NAME);
    let chain = |parts: &[&str]| [&[&*issued.pem][..], parts].concat().concat();
    let (m, l, r) = (middle.pem(), low.pem(), root.pem());

    for good in [chain(&[]), chain(&[&l]), chain(&[&l, &m]), chain(&[&l, &m, &r])] {
        prepare(identity(), &good, &issued.key).await.unwrap();
    }
    let swapped = prepare(identity(), &chain(&[&m, &l]), &issued.key).await.unwrap_err();
    let what = "certificate 1 was not issued by certificate 2";
    assert!(swapped.is_refused() && swapped.to_string().contains(what), "{swapped}");

    // One that has the issuer's name, and not its key.
    let impostor = middle.intermediate("low").pem();
    let error = prepare(identity(), &chain(&[&impostor]), &issued.key).await.unwrap_err();
    let what = "is not signed by the one that its chain names";
    assert!(error.is_refused() && error.to_string().contains(what), "{error}");

    // The chain is not complete for those who know the root alone.
    let verified = || identity().verify_against(root.roots());
    let error = prepare(verified(), &chain(&[&l]), &issued.key).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("none of the roots"), "{error}");
    prepare(verified(), &chain(&[&l, &m]), &issued.key).await.unwrap();
}

#[tokio::test]
async fn every_form_of_a_key_is_read() {
    let authority = Authority::new("root");
    let rsa = KeyPair::from_pem(include_str!("rsa-for-tests-only.pem")).unwrap();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let p256 = KeyPair::generate().unwrap();
    for (key, older) in [
        (&p256, Some("EC PRIVATE KEY")),
        (&p384, Some("EC PRIVATE KEY")),
        (&rsa, Some("RSA PRIVATE KEY")),
        (&ed25519, None),
    ] {
        let issued = authority.issue_for(Wish::server(NAME), key);
        prepare(identity(), &issued.pem, &issued.key).await.unwrap();
        if let Some(label) = older {
            let older = pem(label, within_pkcs8(&key.serialize_der()));
            prepare(identity(), &issued.pem, &older).await.unwrap();
        }
        // Key and certificate in one secret, in either order.
        for bundle in [issued.bundle(), format!("{}{}", issued.key, issued.pem)] {
            let hook =
                TlsServer::new(Identity::bundle(reference(CERT))).into_hook("tls".parse().unwrap());
            hook.prepare(&set(&[(CERT, &bundle)])).await.unwrap();
        }
    }
}

#[tokio::test]
async fn roots_from_a_secret_are_read_or_named() {
    let authority = Authority::new("root");
    let issued = authority.server(NAME);
    let roots: SecretRef = reference("files:roots");
    for (bundle, what) in [
        ("", "`files:roots` has no certificate in PEM"),
        ("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n", "is not a root"),
    ] {
        let hook = TlsServer::new(identity())
            .require_clients(roots.clone())
            .into_hook("tls".parse().unwrap());
        let secrets = set(&[(CERT, &issued.pem), (KEY, &issued.key), ("files:roots", bundle)]);
        let error = hook.prepare(&secrets).await.err().unwrap();
        assert!(!error.is_refused() && error.to_string().contains(what), "{error}");
    }
    let nobody = Roots::from(rustls::RootCertStore::empty());
    let hook = TlsClient::new(nobody).into_hook("tls".parse().unwrap());
    let error = hook.prepare(&set(&[])).await.err().unwrap();
    assert!(error.to_string().contains("there is no root"), "{error}");
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The key within PKCS #8, which is its older form: version, algorithm, and then the octets.
fn within_pkcs8(der: &[u8]) -> &[u8] {
    let (_, body, _) = element(der);
    let (_, _, rest) = element(body);
    let (_, _, rest) = element(rest);
    let (tag, key, _) = element(rest);
    assert_eq!(tag, 4);
    key
}

/// The tag and content of one element of DER, and what follows it.
fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
    let (length, start) = match der[1] {
        short @ 0..0x80 => (usize::from(short), 2),
        long => {
            let digits = usize::from(long & 0x7f);
            let length = der[2..2 + digits].iter();
            (length.fold(0, |sum, digit| sum << 8 | usize::from(*digit)), 2 + digits)
        }
    };
    (der[0], &der[start..start + length], &der[start + length..])
}
