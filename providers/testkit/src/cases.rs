//! The cases of the suite, each with a name that says what it promises.

pub(crate) mod reads;
pub(crate) mod changes;
pub(crate) mod versions;
pub(crate) mod push;
pub(crate) mod sets;
pub(crate) mod faults;
pub(crate) mod writes;
pub(crate) mod leaks;
