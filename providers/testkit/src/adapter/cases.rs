//! The cases of the suite for adapters, by the promise that they are about.

pub(crate) mod l1;
pub(crate) mod faults;
pub(crate) mod l2;
pub(crate) mod l3;
pub(crate) mod l4;
pub(crate) mod l5;
pub(crate) mod l6;
pub(crate) mod leaks;
