//! A private OpenBao that leases logins of the private PostgreSQL.

use std::path::Path;

use oneiric_testkit::live::OpenBao;
use serde_json::Value;
use tokio::task::block_in_place;

use crate::database::Database;

/// The path that is read for a lease, under the mount.
pub(crate) const KEY: &str = "creds/app";
/// How long leases live at first, and at most.
pub(crate) const SHORT: [&str; 2] = ["4s", "6s"];
/// The same where an operator must have time to mend something while one lives.
pub(crate) const LONG: [&str; 2] = ["18s", "18s"];
/// What the service may do, beside what everybody may.
const POLICY: &str = r#"
path "database/creds/*" { capabilities = ["read"] }
path "sys/leases/revoke" { capabilities = ["update"] }
"#;

pub(crate) struct Leases(OpenBao);

impl Leases {
    pub(crate) fn start(database: &Database) -> Result<Self, String> {
        let leases = Self(block_in_place(OpenBao::start)?);
        leases.run(&["secrets", "enable", "database"])?;
        let port = database.server.port();
        let connection = format!(
            "connection_url=postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{port}\
             /postgres?sslmode=disable"
        );
        let password = format!("password={}", database.server.admin_password());
        leases.run(&[
            "write",
            "database/config/pg",
            "plugin_name=postgresql-database-plugin",
            "allowed_roles=*",
            "username=admin",
            &connection,
            &password,
        ])?;
        leases.make(true, SHORT)?;
        Ok(leases)
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        block_in_place(|| self.0.bao(arguments))
    }

    /// From now on leases are of roles that may log in, or may not, and live so long.
    pub(crate) fn make(&self, login: bool, life: [&str; 2]) -> Result<(), String> {
        let may = if login { "LOGIN" } else { "NOLOGIN" };
        let make = format!(
            "creation_statements=CREATE ROLE \"{{{{name}}}}\" {may} PASSWORD '{{{{password}}}}' \
             VALID UNTIL '{{{{expiration}}}}'; GRANT SELECT ON greetings TO \"{{{{name}}}}\""
        );
        let role = ["write", "database/roles/app", "db_name=pg", &make];
        let (ttl, most) = (format!("default_ttl={}", life[0]), format!("max_ttl={}", life[1]));
        self.run(&[&role[..], &[&ttl, &most]].concat()).map(drop)
    }

    pub(crate) fn address(&self) -> String {
        self.0.address().to_string()
    }

    /// Makes a token of the service, and answers with it.
    pub(crate) fn token(&self, folder: &Path) -> Result<String, String> {
        let policy = folder.join("policy.hcl");
        std::fs::write(&policy, POLICY).map_err(|error| error.to_string())?;
        let policy = policy.to_str().ok_or("a path is no text")?;
        self.run(&["policy", "write", "service", policy])?;
        let token = ["token", "create", "-policy=service", "-period=1h", "-field=token"];
        self.run(&token).map(|token| token.trim().to_owned())
    }

    /// Takes a lease as somebody who then leaves it to its end.
    pub(crate) fn take(&self) -> Result<(String, String), String> {
        let lease = self.run(&["read", "-format=json", &format!("database/{KEY}")])?;
        let lease: Value = serde_json::from_str(&lease).map_err(|error| error.to_string())?;
        let part = |name: &str| lease["data"][name].as_str().unwrap_or_default().to_owned();
        Ok((part("username"), part("password")))
    }

    pub(crate) fn revoke(&self, version: &str) -> Result<(), String> {
        self.run(&["lease", "revoke", "-sync", &format!("database/{KEY}/{version}")]).map(drop)
    }

    pub(crate) fn seal(&self) -> Result<(), String> {
        block_in_place(|| self.0.seal())
    }

    pub(crate) fn unseal(&self) -> Result<(), String> {
        block_in_place(|| self.0.unseal())
    }
}
