//! The address of an admin endpoint.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use oneiric_core::{Error, ErrorKind, Result};

/// Where an instance is asked: `unix:/path/to.sock`, or just the path, or
/// `http://127.0.0.1:7676`. Parses, prints, round-trips.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// A loopback address; it wants a token.
    Tcp(SocketAddr),
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let message = format!("the endpoint `{text}` is not valid: {why}");
            Err(Error::new(ErrorKind::Invalid, message))
        };
        if let Some(address) = text.strip_prefix("http://") {
            let address = address.strip_suffix('/').unwrap_or(address);
            return match address.parse::<SocketAddr>() {
                Ok(address) if address.ip().to_canonical().is_loopback() => Ok(Self::Tcp(address)),
                Ok(_) => refuse("it is not a loopback address"),
                Err(_) => refuse("after `http://` it needs an IP address and a port"),
            };
        }
        match text.strip_prefix("unix:").unwrap_or(text) {
            "" => refuse("the path is empty"),
            path if path.starts_with('/') || text.starts_with("unix:") => {
                Ok(Self::Unix(path.into()))
            }
            _ => refuse("it is none of unix:/path, /path, http://127.0.0.1:port"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "http://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_round_trips() {
        for text in
            ["unix:/run/oneiric/a.sock", "unix:a.sock", "http://127.0.0.1:1", "http://[::1]:1"]
        {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!("/a.sock".parse::<Endpoint>().unwrap(), Endpoint::Unix("/a.sock".into()));
        assert!(matches!("http://127.0.0.1:1/".parse(), Ok(Endpoint::Tcp(_))));
    }

    #[test]
    fn an_endpoint_says_what_is_wrong_with_it() {
        for (text, why) in [
            ("", "the path is empty"),
            ("unix:", "the path is empty"),
            ("a.sock", "it is none of"),
            ("https://127.0.0.1:1", "it is none of"),
            ("http://127.0.0.1", "an IP address and a port"),
            ("http://192.0.2.1:1", "not a loopback address"),
            ("http://0.0.0.0:1", "not a loopback address"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
