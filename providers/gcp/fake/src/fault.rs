//! How the fake can be put out of order, and for which calls.

use std::time::Duration;

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this HTTP status and this code, and does nothing.
    Status(u16, &'static str, Option<Retry>),
    /// It is answered with this HTTP status and a page that is not the service's.
    Page(u16),
    /// It is never answered, and does nothing.
    Hang,
    /// The connection ends before it does anything.
    CutBefore,
    /// It is done, and the connection ends before the answer.
    CutAfter,
    /// It is done, and never answered.
    HangAfter,
    /// The value that is answered does not match its checksum.
    WrongChecksum,
}

/// In which way a refusal says how long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// By the header `Retry-After`.
    Header(Duration),
    /// By the detail `google.rpc.RetryInfo`.
    Info(Duration),
}

/// What goes wrong with the messages of subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushFault {
    /// What is published does not arrive.
    Lost,
    /// The same, and pulls are answered with 503.
    Cut,
    /// Everything arrives twice.
    Doubled,
    /// Everything is held back, and arrives in the opposite order when it is mended.
    Reordered,
}

/// A fault with the calls that it is for.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) fault: Fault,
    /// The method, or any.
    pub(crate) method: Option<&'static str>,
    /// How often it is played, or always.
    pub(crate) times: Option<u32>,
}

/// Takes the fault that is for a call of this method.
pub(crate) fn due(plans: &mut Vec<Plan>, method: &str) -> Option<Fault> {
    let index = plans.iter().position(|plan| plan.method.is_none_or(|of| of == method))?;
    let plan = &mut plans[index];
    let fault = plan.fault.clone();
    if let Some(times) = &mut plan.times {
        *times -= 1;
        if *times == 0 {
            plans.remove(index);
        }
    }
    Some(fault)
}
