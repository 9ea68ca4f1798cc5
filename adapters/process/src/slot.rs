//! The place of one instance: which child is in it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::ending::Ending;
use crate::generation::Generation;
use crate::leader::Leader;

/// A child that was started with a generation.
pub(crate) struct Running {
    pub(crate) child: Leader,
    pub(crate) instance: u32,
    /// Whose secrets it has. A signal may give it newer ones.
    generation: Mutex<Arc<Generation>>,
}

impl Running {
    pub(crate) fn new(child: Leader, instance: u32, generation: Arc<Generation>) -> Self {
        Self { child, instance, generation: Mutex::new(generation) }
    }

    pub(crate) fn generation(&self) -> Arc<Generation> {
        Arc::clone(&self.generation.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It has taken these.
    pub(crate) fn took(&self, generation: Arc<Generation>) {
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner) = generation;
    }
}

/// What is in a slot.
#[derive(Clone)]
pub(crate) enum Content {
    /// None yet, or none just now.
    Nothing,
    Child(Arc<Running>),
    /// It ended by itself, and was left.
    Left(Ending),
}

/// The place of one instance.
pub(crate) struct Slot {
    pub(crate) number: u32,
    content: watch::Sender<Content>,
}

impl Slot {
    pub(crate) fn new(number: u32) -> Self {
        Self { number, content: watch::Sender::new(Content::Nothing) }
    }

    pub(crate) fn child(&self) -> Option<Arc<Running>> {
        match &*self.content.borrow() {
            Content::Child(child) => Some(Arc::clone(child)),
            _ => None,
        }
    }

    pub(crate) fn left(&self) -> Option<Ending> {
        match &*self.content.borrow() {
            Content::Left(ending) => Some(*ending),
            _ => None,
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Content> {
        self.content.subscribe()
    }

    /// Puts something in, and hands out the child that was there.
    pub(crate) fn put(&self, content: Content) -> Option<Arc<Running>> {
        match self.content.send_replace(content) {
            Content::Child(child) => Some(child),
            _ => None,
        }
    }

    /// Puts this in the place of that child, if it is still there.
    pub(crate) fn replace(&self, old: &Arc<Running>, content: Content) -> bool {
        self.content.send_if_modified(|now| match now {
            Content::Child(child) if Arc::ptr_eq(child, old) => {
                *now = content;
                true
            }
            _ => false,
        })
    }
}
