//! The numbers of users and groups.

use std::io;

use nix::unistd::{Group, User};
use oneiric_core::HookError;

/// The number of a user that is given by name or number.
pub(crate) fn user(name: &str) -> Result<u32, HookError> {
    number_or(name, "user", || Ok(User::from_name(name)?.map(|user| user.uid.as_raw())))
}

/// The number of a group that is given by name or number.
pub(crate) fn group(name: &str) -> Result<u32, HookError> {
    number_or(name, "group", || Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())))
}

fn number_or(
    name: &str,
    what: &str,
    look_up: impl FnOnce() -> io::Result<Option<u32>>,
) -> Result<u32, HookError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    match look_up() {
        Ok(Some(number)) => Ok(number),
        Ok(None) => Err(HookError::failed(format!("there is no {what} `{name}`"))),
        Err(error) => {
            Err(HookError::failed(format!("the {what} `{name}` cannot be looked up ({error})")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found_and_others_are_named() {
        assert_eq!((user("root").unwrap(), group("root").unwrap()), (0, 0));
        assert_eq!((user("4711").unwrap(), group("4712").unwrap()), (4711, 4712));
        let error = user("no-such-user").unwrap_err().to_string();
        assert_eq!(error, "there is no user `no-such-user`");
        let error = group("no-such-group").unwrap_err().to_string();
        assert_eq!(error, "there is no group `no-such-group`");
    }
}
