//! Absolute URLs, as connection strings are. A parser would leave its own copies of a password
//! behind, and would refuse what drivers take: only what no driver can take is refused.

use std::net::Ipv6Addr;

/// Why a text is no absolute URL.
pub(super) fn check(text: &str) -> Result<(), &'static str> {
    if text.trim_end_matches(['\n', '\r']).len() < text.len() {
        return Err("ends with a line end; store it without one, as `oneiric secrets set --trim` \
                    does");
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("has white space or a control character in it, and a URL has none");
    }
    let Some((schemes, rest)) = text.split_once("://") else {
        return Err("is not an absolute URL: it has no `://`");
    };
    // `jdbc:postgresql://` has two.
    if !schemes.split(':').all(is_scheme) {
        return Err("is not an absolute URL: what stands before `://` is not a scheme");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if rest.is_empty() {
        return Err("is not an absolute URL: nothing follows `://`");
    }
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    // Some drivers take several, with commas between them.
    if !hosts.split(',').all(is_host) {
        return Err(
            "has a host or a port in it that is none; a `/`, `?`, `#` or `@` of a password \
                    must be percent-encoded",
        );
    }
    Ok(())
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn is_host(text: &str) -> bool {
    let (is_named, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            let address = address.split('%').next().unwrap_or_default();
            (address.parse::<Ipv6Addr>().is_ok(), port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (!host.contains(['[', ']', '@', '"', '<', '>', '\\', '^', '|']), port)
        }
    };
    let is_port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| {
            port.is_empty()
                || (port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
        });
    is_named && is_port
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_a_driver_can_take_is_a_url() {
        for good in [
            "postgres://user:p%40ss@db.example:5432/app?sslmode=require",
            "postgres://user:p^{}|ss@db/app",
            "postgres:///app?host=/run/postgresql",
            "redis://:s3cr3t@[::1]:6379/0",
            "https://[fe80::1%25eth0]/",
            "mongodb+srv://u:p@a.example,b.example:27018/db",
            "jdbc:postgresql://db/app",
            "file:///etc/x",
            "https://example.org",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_none_can_take_is_not() {
        for (bad, part) in [
            ("", "no `://`"),
            ("s3cr3t", "no `://`"),
            ("user:password@host", "no `://`"),
            ("//host/path", "no `://`"),
            ("1http://host", "not a scheme"),
            ("://host", "not a scheme"),
            ("http://", "nothing follows"),
            ("http://host/a b", "white space"),
            ("http://host\n", "--trim"),
            ("postgres://user:p/ss@host/db", "percent-encoded"),
            ("postgres://user:p#ss@host/db", "percent-encoded"),
            ("http://host:port/", "a port"),
            ("http://host:65536/", "a port"),
            ("http://host:+80/", "a port"),
            ("http://[::1/", "a host"),
            ("http://[1:2]/", "a host"),
        ] {
            let why = check(bad).unwrap_err();
            assert!(why.contains(part), "{bad}: {why}");
        }
    }
}
