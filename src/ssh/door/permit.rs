//! A place that a connection takes: given back when everybody who has it has let go of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::task::AbortHandle;

use super::Limit;
use super::guarded::{Ended, Switch};
use super::occupancy::Occupancy;
use super::penalties::{Offence, Penalties};
use super::startups::Startups;

/// What the door remembers of all connections.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) startups: Startups,
    pub(super) penalties: Penalties,
    pub(super) occupancy: Occupancy,
}

/// Locks it; it is never left half-written.
pub(super) fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection's place. Dropping the last clone (the stream has one) gives it back, and if nobody has logged in, its source
/// is penalised for that.
#[derive(Clone, Debug)]
pub struct Permit(Arc<Place>);

#[derive(Debug)]
struct Place {
    book: Arc<Mutex<Book>>,
    source: IpAddr,
    switch: Switch,
    /// The task that ends the stream if nobody logs in.
    grace: AbortHandle,
    auth_failed: AtomicBool,
    forgiven: AtomicBool,
    user: Mutex<Option<String>>,
}

impl Permit {
    /// For a connection that has entered the book.
    pub(super) fn new(
        book: Arc<Mutex<Book>>,
        source: SocketAddr,
        switch: Switch,
        grace: AbortHandle,
    ) -> Self {
        Self(Arc::new(Place {
            book,
            source: source.ip(),
            switch,
            grace,
            auth_failed: AtomicBool::new(false),
            forgiven: AtomicBool::new(false),
            user: Mutex::new(None),
        }))
    }

    /// A login was tried and failed: a signature was wrong, or its key is nobody's. Costs nothing if another succeeds.
    pub fn auth_failed(&self) {
        self.0.auth_failed.store(true, Ordering::Relaxed);
    }

    /// Somebody has logged in: there is time from now on, and the place of those without a login is free.
    ///
    /// # Errors
    /// The user has too many connections, or the time was over. The connection is to be closed.
    pub fn authenticated(&self, user: &str) -> Result<(), Limit> {
        let place = &*self.0;
        let mut mine = place.user.lock().unwrap_or_else(PoisonError::into_inner);
        if mine.is_some() {
            return Ok(()); // said twice
        }
        let mut book = lock(&place.book);
        book.occupancy.log_in(user).inspect_err(|_| {
            // Whoever has too many connections has done nothing to be turned away for.
            place.forgiven.store(true, Ordering::Relaxed);
        })?;
        if !place.switch.authenticated() {
            book.occupancy.log_out(user);
            return Err(Limit::Grace);
        }
        book.startups.end(place.source.into());
        *mine = Some(user.to_owned());
        place.grace.abort();
        Ok(())
    }

    /// Its end is nobody's fault: the gateway stops.
    pub fn forgive(&self) {
        self.0.forgiven.store(true, Ordering::Relaxed);
    }

    /// What ends the stream, and counts its bytes.
    #[must_use]
    pub fn switch(&self) -> &Switch {
        &self.0.switch
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.grace.abort();
        let user = self.user.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut book = lock(&self.book);
        book.occupancy.leave(user.as_deref());
        if user.is_some() {
            return;
        }
        book.startups.end(self.source.into());
        let offence = match self.switch.ended() {
            Some(Ended::Grace) => Offence::Grace,
            _ if *self.auth_failed.get_mut() => Offence::AuthFail,
            _ => Offence::NoAuth,
        };
        if !*self.forgiven.get_mut() {
            book.penalties
                .penalise(self.source, offence, Instant::now());
        }
    }
}
