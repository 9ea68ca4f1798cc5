//! The suite on a small adapter, as an example of a rig.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use oneiric_core::{
    HookError, LifecycleHook, ManagedGuard, ManagedHook, SecretRef, SecretSet, SecretValue, Version,
};
use oneiric_testkit::{
    Ability, AdapterInUse, AdapterRig, Credential, Habit, LongWork, Manner, Minted, ServerFault,
    adapter_conformance,
};

/// The server at the other end: which tokens it accepts, by their numbers.
#[derive(Default)]
struct Server {
    tokens: Mutex<HashMap<String, (u64, bool)>>,
    down: AtomicBool,
}

enum Answer {
    Done(u64),
    Refused,
    Silence,
}

impl Server {
    fn ask(&self, token: &str) -> Answer {
        match self.tokens.lock().unwrap().get(token) {
            _ if self.down.load(Ordering::SeqCst) => Answer::Silence,
            Some((number, true)) => Answer::Done(*number),
            _ => Answer::Refused,
        }
    }

    /// One unit of work, with the number of the token that the server saw.
    fn work(&self, token: &Token) -> Result<u64, String> {
        match self.ask(&token.0) {
            Answer::Done(number) => Ok(number),
            Answer::Refused => Err("the server refuses the token".to_owned()),
            Answer::Silence => Err("the server does not answer".to_owned()),
        }
    }
}

/// What the adapter is about: one token.
struct Token(String);

fn reference() -> SecretRef {
    "files:token".parse().unwrap()
}

struct TokenRig(Arc<Server>);

#[async_trait]
impl AdapterRig for TokenRig {
    async fn adapter(&self) -> Box<dyn AdapterInUse> {
        let server = Arc::clone(&self.0);
        let hook = ManagedHook::new("token".parse().unwrap(), [reference()], async |secrets| {
            let token = secrets.get(&reference()).and_then(SecretValue::expose_str);
            Ok(Token(token.ok_or(HookError::failed("the token is not text"))?.to_owned()))
        });
        let hook = hook.prove(move |token| {
            let server = Arc::clone(&server);
            async move {
                match server.ask(&token.0) {
                    Answer::Done(_) => Ok(()),
                    Answer::Refused => Err(HookError::refused("the server refuses the token")),
                    Answer::Silence => Err(HookError::failed("the server does not answer")),
                }
            }
        });
        Box::new(TokenInUse { server: Arc::clone(&self.0), hook: Arc::new(hook) })
    }

    async fn mint(&self, kind: Credential, canary: &str) -> Result<Minted, String> {
        let mut tokens = self.0.tokens.lock().unwrap();
        let number = tokens.len() as u64 + 1;
        let mut value = format!("{number}-{canary}").into_bytes();
        tokens.insert(format!("{number}-{canary}"), (number, kind == Credential::Accepted));
        if kind == Credential::Malformed {
            value.push(0xff);
        }
        let part = (reference(), SecretValue::from(value), Version::numbered(number));
        Ok(Minted::new(number, SecretSet::new([part])))
    }

    async fn revoke(&self, number: u64) -> Ability {
        for (of, accepted) in self.0.tokens.lock().unwrap().values_mut() {
            *accepted &= *of != number;
        }
        Ability::Done
    }

    async fn uses(&self, _number: u64) -> Result<usize, String> {
        Err("it has no sessions".to_owned())
    }

    async fn shown(&self, _number: u64) -> Result<u64, String> {
        Err("it does not count".to_owned())
    }

    async fn fault(&self, fault: ServerFault) -> Ability {
        match fault {
            ServerFault::Down => self.0.down.store(true, Ordering::SeqCst),
            _ => return Ability::cannot("it answers at once or not at all"),
        }
        Ability::Done
    }

    async fn mend(&self) {
        self.0.down.store(false, Ordering::SeqCst);
    }

    fn has(&self, habit: Habit) -> Ability {
        match habit {
            Habit::ReportsRefusals => Ability::cannot("its users do not report refusals"),
            _ => Ability::Done,
        }
    }
}

struct TokenInUse {
    server: Arc<Server>,
    hook: Arc<ManagedHook<Token>>,
}

#[async_trait]
impl AdapterInUse for TokenInUse {
    fn hook(&self) -> Arc<dyn LifecycleHook> {
        Arc::clone(&self.hook) as _
    }

    async fn work(&self) -> Result<u64, String> {
        let token = self.hook.managed().unwrap().load();
        self.server.work(&token)
    }

    /// Both kinds of users are the same: nothing cuts one off.
    async fn begin(&self, _manner: Manner) -> Result<Box<dyn LongWork>, String> {
        let token = self.hook.managed().unwrap().load();
        Ok(Box::new(Long { server: Arc::clone(&self.server), token }))
    }
}

/// It holds the guard for as long as it lasts.
struct Long {
    server: Arc<Server>,
    token: ManagedGuard<Token>,
}

#[async_trait]
impl LongWork for Long {
    async fn finish(self: Box<Self>) -> Result<u64, String> {
        self.server.work(&self.token)
    }
}

/// What the rig cannot play, or the server cannot tell.
const LEFT_OUT: [&str; 13] = [
    "l1_a_next_one_is_proven_before_it_is_committed",
    "l1_a_busy_server_is_no_refusal",
    "l1_a_prepare_that_hangs_is_given_up",
    "l1_a_prepare_that_is_too_slow_never_serves",
    "l1_a_prepare_may_be_cut_off_after_any_exchange",
    "l1_a_prepare_may_hang_after_any_exchange",
    "l2_a_next_one_that_is_dropped_leaves_nothing",
    "l2_many_that_are_dropped_leave_nothing",
    "l4_a_close_that_hangs_ends_after_the_deadline",
    "l5_it_goes_on_after_the_server_hung",
    "l5_a_refusal_in_use_is_reported",
    "l5_an_outage_is_not_reported_as_a_refusal",
    "l6_drained_is_said_when_the_server_sees_no_use",
];

#[tokio::test(start_paused = true)]
async fn the_suite_passes() {
    let report = adapter_conformance(&TokenRig(Arc::default())).await;
    report.assert_passed();
    assert_eq!(report.skipped(), LEFT_OUT);
}
